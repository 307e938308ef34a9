"""Per-label vectors, trained beside the texts or alone: the loss is the definition, few rows move, nothing is lost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset, concatenate_datasets
from torch import Tensor
from torch.nn.functional import normalize

from hf_xmc import XMCDataset, XMCDualEncoderModel, XMCTrainer, XMCTrainingArguments, load_xmc_dataset
from hf_xmc.inference.pipeline import XMCPipeline
from hf_xmc.training.label_vectors import LabelVectors
from tests.training.made import gradients, make_trainer, one_batch
from tests.training.test_trainer import dense_loss, positive_mask

KINDS = ("residual", "classifier")


@pytest.fixture
def data(toy: Path) -> XMCDataset:
    return load_xmc_dataset(toy)


def started(trainer: XMCTrainer) -> LabelVectors:
    """The vectors as they are when training begins, but with something learned."""
    vectors = trainer.vectors
    assert vectors is not None
    vectors.start(trainer.encoder.texts_without_gradients)
    noise = torch.randn(vectors.rows.shape, generator=torch.Generator().manual_seed(0))
    vectors.rows += 0.3 * noise.to(vectors.rows)
    return vectors


@pytest.mark.parametrize("share", [0.3, 1.0, 0.0])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("strategy", ["all", "in_batch"])
def test_the_loss_is_the_definition(
    tiny_encoder: str, data: XMCDataset, tmp_path: Path, kind: str, strategy: str, share: float
) -> None:
    args = {"label_strategy": strategy, "disable_dropout": True, "label_head_loss_weight": share}
    trainer = make_trainer(tiny_encoder, data, tmp_path, {"label_head": kind}, **args)
    rows = started(trainer).rows.clone().requires_grad_()
    model, batch = trainer.model, one_batch(trainer, range(4))
    mask = positive_mask(batch, data.num_labels)
    some = torch.arange(data.num_labels) if strategy == "all" else mask.any(0).nonzero().squeeze(1)
    texts = model(**model.pad(model.tokenize(data.labels["text"][:], "label")), side="label").embeddings[some]
    queries = model(**model.pad([trainer.train_dataset.tokens[row] for row in range(4)])).embeddings
    head = normalize(texts + rows[some] if kind == "residual" else rows[some], dim=1)
    temperature = model.config.temperature
    expected = share * dense_loss(queries, head, mask[:, some], temperature)
    expected = expected + (1 - share) * dense_loss(queries, texts, mask[:, some], temperature)
    found = trainer.compute_loss(model, batch)
    assert found.item() == pytest.approx(expected.item(), abs=1e-5)
    plain, own = gradients(trainer, expected), gradients(trainer, found)
    for name, gradient in own.items():
        torch.testing.assert_close(gradient, plain[name], atol=1e-5, rtol=1e-4, msg=name)
    if share:
        ids, leaf = touched(trainer)
        assert ids.tolist() == some.tolist()
        torch.testing.assert_close(leaf.grad, rows.grad[some], atol=1e-6, rtol=1e-4)  # type: ignore[index]


def touched(trainer: XMCTrainer) -> tuple[Tensor, Tensor]:
    assert trainer.vectors is not None
    assert trainer.vectors.touched is not None
    return trainer.vectors.touched


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_candidates_of_a_step_move(tiny_encoder: str, data: XMCDataset, tmp_path: Path, kind: str) -> None:
    args = {
        "label_strategy": "in_batch",
        "max_steps": 1,
        "per_device_train_batch_size": 2,
        "label_head_dtype": "float16",
    }
    trainer = make_trainer(tiny_encoder, data, tmp_path, {"label_head": kind}, **args)
    seen: list[Any] = []
    choose = trainer.rule.choose

    def recorded(*given: Any) -> Any:
        assert trainer.vectors is not None
        seen.extend([choose(*given), trainer.vectors.rows.clone()])
        return seen[0]

    trainer.rule.choose = recorded  # type: ignore[method-assign]
    trainer.train()
    vectors = trainer.vectors
    assert vectors is not None
    moved = (vectors.rows != seen[1]).any(1).nonzero().squeeze(1)
    assert 0 < len(moved) < data.num_labels
    assert moved.tolist() == seen[0].ids.tolist()
    assert (vectors.squares > 0).nonzero().squeeze(1).tolist() == moved.tolist()
    assert vectors.rows.dtype == torch.float16


def test_a_residual_head_begins_as_the_texts(tiny_encoder: str, data: XMCDataset, tmp_path: Path) -> None:
    for kind in KINDS:
        trainer = make_trainer(tiny_encoder, data, tmp_path, {"label_head": kind}, learning_rate=0.0, max_steps=1)
        trainer.args.label_head_learning_rate = 0.0
        texts = trainer.label_embeddings()
        trainer.train()
        torch.testing.assert_close(trainer.label_embeddings(), texts)
        assert trainer.model.label_head is not None


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("loss", ["decoupled_softmax", "triplet_margin"])
def test_vectors_learn_what_texts_do_not_say(
    tiny_encoder: str, data: XMCDataset, tmp_path: Path, kind: str, loss: str
) -> None:
    """The labels' names say nothing: with a frozen encoder only vectors can tell them apart by their queries."""
    data.labels = data.labels.map(lambda row: {"text": "x" * (1 + sum(row["uid"].encode()) % 7)})
    args: dict[str, Any] = {
        "freeze_encoder": True,
        "num_train_epochs": 20,
        "label_head_loss_weight": 1.0,
        "loss": loss,
    }
    trainer = make_trainer(tiny_encoder, data, tmp_path, {"label_head": kind}, **args)
    weights = {name: p.clone() for name, p in trainer.model.named_parameters()}
    before = trainer.evaluate()["eval_nDCG@5"]
    trainer.train()
    assert trainer.evaluate()["eval_nDCG@5"] > before + 0.2
    assert all(torch.equal(p, weights[name]) for name, p in trainer.model.named_parameters())


def test_a_classifier_alone_leaves_projections_as_they_are(
    tiny_encoder: str, data: XMCDataset, tmp_path: Path
) -> None:
    for share, kept in ((1.0, True), (0.5, False)):
        model = {"label_head": "classifier", "projection_dim": 16}
        args = {"freeze_encoder": True, "max_steps": 2, "label_head_loss_weight": share}
        trainer = make_trainer(tiny_encoder, data, tmp_path, model, **args)
        assert trainer.model.query_projection is not None
        before = trainer.model.query_projection.weight.clone()
        trainer.train()
        assert torch.equal(trainer.model.query_projection.weight, before) == kept
        assert all(p.requires_grad for p in trainer.model.parameters())  # again


@pytest.mark.parametrize(
    ("kind", "dtype", "more"),
    [
        ("residual", "float32", {}),
        ("classifier", "bfloat16", {"label_strategy": "hard", "label_refresh": 2}),
        ("classifier", "float16", {"freeze_encoder": True, "label_head_loss_weight": 1.0}),
    ],
)
def test_resume_is_bit_equal(
    tiny_encoder: str, data: XMCDataset, tmp_path: Path, kind: str, dtype: str, more: dict[str, Any]
) -> None:
    args = {"max_steps": 10, "save_strategy": "steps", "save_steps": 4, "label_head_dtype": dtype, **more}
    whole, again = (make_trainer(tiny_encoder, data, tmp_path, {"label_head": kind}, **args) for _ in range(2))
    whole.train()
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    assert again.state.global_step == 10
    assert whole.vectors is not None
    assert again.vectors is not None
    assert torch.equal(whole.vectors.rows, again.vectors.rows)
    assert torch.equal(whole.vectors.squares, again.vectors.squares)
    for (name, a), b in zip(whole.model.named_parameters(), again.model.parameters(), strict=True):
        assert torch.equal(a, b), name


@pytest.mark.parametrize("kind", KINDS)
def test_accumulation_equals_one_batch(tiny_encoder: str, data: XMCDataset, tmp_path: Path, kind: str) -> None:
    found = []
    for batch, steps in ((16, 1), (4, 4)):
        args = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": steps, "disable_dropout": True}
        trainer = make_trainer(tiny_encoder, data, tmp_path, {"label_head": kind}, max_steps=3, **args)
        trainer.train()
        assert trainer.vectors is not None
        found.append(trainer.vectors.rows.clone())
    torch.testing.assert_close(found[0], found[1], atol=1e-4, rtol=1e-3)


def test_the_head_of_the_best_checkpoint_is_kept(tiny_encoder: str, data: XMCDataset, tmp_path: Path) -> None:
    trainer = make_trainer(
        tiny_encoder,
        data,
        tmp_path,
        {"label_head": "residual"},
        num_train_epochs=4,
        eval_strategy="epoch",
        save_strategy="epoch",
        load_best_model_at_end=True,
        metric_for_best_model="nDCG@5",
        learning_rate=5e-2,  # too high: later epochs are not the best
        label_head_learning_rate=1.0,
    )
    trainer.train()
    history = [entry["eval_nDCG@5"] for entry in trainer.state.log_history if "eval_nDCG@5" in entry]
    assert history[-1] < max(history)
    assert trainer.evaluate()["eval_nDCG@5"] == pytest.approx(max(history))


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_model_ranks_as_the_trainer_does(
    tiny_encoder: str, data: XMCDataset, tmp_path: Path, kind: str
) -> None:
    trainer = make_trainer(tiny_encoder, data, tmp_path / "run", {"label_head": kind}, num_train_epochs=2)
    trainer.train()
    trainer.save_model(str(tmp_path / "model"))
    labels = trainer.label_embeddings()
    model = XMCDualEncoderModel.from_pretrained(tmp_path / "model")
    tagger = XMCPipeline.build(model, data.labels)
    texts = data.queries["validation"]["text"][:]
    found = tagger.predict(texts, k=data.num_labels)
    scores = model.encode_queries(texts) @ labels.T
    torch.testing.assert_close(torch.as_tensor(found.scores), scores.gather(1, torch.as_tensor(found.ids)))
    assert model.label_head is not None
    assert model.label_head.label_counts.tolist() == data.positives("train").label_counts(data.num_labels).tolist()


def test_training_goes_on_from_a_head(tiny_encoder: str, data: XMCDataset, tmp_path: Path) -> None:
    trainer = make_trainer(tiny_encoder, data, tmp_path / "run", {"label_head": "residual"}, max_steps=3)
    trainer.train()
    trainer.save_model(str(tmp_path / "model"))
    learned = trainer.vectors.rows.clone()  # type: ignore[union-attr]
    args = {"report_to": "none", "max_steps": 1, "learning_rate": 0.0, "label_head_learning_rate": 1e-12}
    model = XMCDualEncoderModel.from_pretrained(tmp_path / "model")
    further = XMCTrainer(
        model, XMCTrainingArguments(str(tmp_path), **args), data.queries["train"], label_dataset=data.labels
    )
    further.train()
    torch.testing.assert_close(further.vectors.rows, learned)  # type: ignore[union-attr]

    grown = concatenate_datasets([data.labels, Dataset.from_dict({"uid": ["new"], "text": ["a new label"]})])
    model = XMCDualEncoderModel.from_pretrained(tmp_path / "model")
    further = XMCTrainer(
        model, XMCTrainingArguments(str(tmp_path), **args), data.queries["train"], label_dataset=grown
    )
    further.train()
    assert further.vectors is not None
    torch.testing.assert_close(further.vectors.rows[:-1], learned)
    assert further.vectors.rows[-1].abs().max() < 1e-6

    model = XMCDualEncoderModel.from_pretrained(tmp_path / "model")
    other = data.labels.map(lambda row: {"uid": row["uid"] + "!"})
    for given in ({"train_dataset": data.queries["train"]}, {"eval_dataset": data.queries["validation"]}):
        with pytest.raises(ValueError, match="are not the labels"):
            XMCTrainer(model, XMCTrainingArguments(str(tmp_path), **args), label_dataset=other, **given)
    model.config.label_head = "classifier"
    strange = XMCTrainer(
        model, XMCTrainingArguments(str(tmp_path), **args), data.queries["train"], label_dataset=data.labels
    )
    with pytest.raises(ValueError, match="residual head"):
        strange.train()


@pytest.mark.parametrize("model", [{"label_head": "residual"}, {"label_head": "classifier", "projection_dim": 16}])
def test_what_fp16_cannot_train(tiny_encoder: str, data: XMCDataset, tmp_path: Path, model: dict[str, Any]) -> None:
    made = XMCDualEncoderModel.from_encoder(tiny_encoder, **model)
    args = XMCTrainingArguments(str(tmp_path), freeze_encoder=True, label_head_loss_weight=1.0, report_to="none")
    args.fp16 = True  # as on a GPU; the Trainer refuses it on a CPU before we are asked
    with pytest.raises(ValueError, match="use bf16"):
        XMCTrainer(made, args, data.queries["train"], label_dataset=data.labels)


def test_an_overflow_moves_nothing(tiny_encoder: str, data: XMCDataset, tmp_path: Path) -> None:
    trainer = make_trainer(tiny_encoder, data, tmp_path, {"label_head": "residual"})
    vectors = started(trainer)
    before = vectors.rows.clone()
    trainer.compute_loss(trainer.model, one_batch(trainer)).backward()
    leaf = touched(trainer)[1]
    assert leaf.grad is not None
    leaf.grad[0, 0] = torch.inf
    vectors.update(1.0, step=0)
    assert torch.equal(vectors.rows, before)
    trainer.compute_loss(trainer.model, one_batch(trainer)).backward()
    vectors.update(1.0, step=0)
    assert not torch.equal(vectors.rows, before)
