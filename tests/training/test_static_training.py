"""The static tower in training: its gradients are autograd's, few rows move, and a run can be cut anywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from hf_xmc import XMCDataset, XMCDualEncoderModel, XMCTrainer, XMCTrainingArguments, load_xmc_dataset
from hf_xmc.hub.folder import files_to_push
from hf_xmc.inference.explain.explain import explain
from hf_xmc.inference.fitting.tagger import train_tagger
from hf_xmc.inference.pipeline import XMCPipeline
from hf_xmc.training.rows import unit_rows
from hf_xmc.training.static_training import row_gradients
from tests.training.made import make_trainer, one_batch
from tests.training.test_trainer import dense_loss, positive_mask

JOINT: dict[str, Any] = {"static_dim": 8, "static_weight": 0.3}


@pytest.fixture
def data(toy: Path) -> XMCDataset:
    return load_xmc_dataset(toy)


def table_of(trainer: XMCTrainer) -> Tensor:
    assert trainer.static is not None
    return trainer.static.tower.table


def dense_gradient(trainer: XMCTrainer) -> Tensor:
    """What the step under way would move the table by, as one matrix."""
    assert trainer.static is not None
    found = torch.zeros_like(table_of(trainer))
    for rows, gradients in row_gradients(trainer.static.touched, found):
        found.index_add_(0, rows, gradients)
    return found


@pytest.mark.parametrize("strategy", ["all", "in_batch"])
@pytest.mark.parametrize("joint", [True, False], ids=["joint", "alone"])
def test_loss_and_gradient_are_the_definition(
    tiny_encoder: str, data: XMCDataset, tmp_path: Path, strategy: str, joint: bool
) -> None:
    encoder, args = (tiny_encoder if joint else None), {"label_strategy": strategy, "disable_dropout": True}
    trainer = make_trainer(encoder, data, tmp_path, JOINT, **args)
    assert trainer.static is not None
    model, batch, tower = trainer.model, one_batch(trainer, range(4)), trainer.static.tower
    mask = positive_mask(batch, data.num_labels)
    some = torch.arange(data.num_labels) if strategy == "all" else mask.any(0).nonzero().squeeze(1)
    texts = [data.queries["train"]["text"][:4], [data.labels["text"][i] for i in some.tolist()]]
    table = tower.table.detach().clone().requires_grad_()
    found = []
    for side, own in zip(("query", "label"), texts, strict=True):
        rows, weights, indptr = tower.bag(tower.features(own).take())
        matrix = torch.zeros(len(own), len(tower))
        matrix[torch.arange(len(own)).repeat_interleave(indptr.diff()), rows] = weights
        static = unit_rows(matrix @ table)
        dense = model(**model.pad(model.token_ids(own, side)), side=side).dense if joint else None
        found.append(model.joined(dense, static))
    expected = dense_loss(found[0], found[1], mask[:, some], model.config.temperature)
    loss = trainer.compute_loss(model, batch)
    assert loss.item() == pytest.approx(expected.item(), abs=1e-5)
    expected.backward()
    loss.backward()
    torch.testing.assert_close(dense_gradient(trainer), table.grad, atol=1e-5, rtol=1e-4)
    assert tower.table.grad is None


def test_dropout_follows_seed_step_and_text(tiny_encoder: str, data: XMCDataset, tmp_path: Path) -> None:
    trainer = make_trainer(None, data, tmp_path, JOINT, static_dropout=0.4)
    assert trainer.static is not None
    tokens, static = trainer.train_dataset.tokens, trainer.static

    def drawn(rows: list[int], number: int) -> Tensor:
        static.number = number
        return static.embed(tokens.features, np.array(rows), "query").detach()

    whole = drawn([3, 4, 5, 6], 7)
    assert torch.equal(drawn([6, 4], 7), whole[[3, 1]])
    assert not torch.equal(drawn([3, 4, 5, 6], 8), whole)
    static.number = 7
    share = np.mean([static.kept(tokens.features.take(np.arange(100)), side).mean() for side in ("query", "label")])  # type: ignore[union-attr,arg-type]
    assert share == pytest.approx(0.6, abs=0.1)
    with torch.no_grad():
        assert torch.equal(drawn([3], 7), drawn([3], 8))


def test_only_the_features_of_a_step_move(data: XMCDataset, tmp_path: Path) -> None:
    args = {"label_strategy": "in_batch", "max_steps": 1, "per_device_train_batch_size": 2, "static_dropout": 0.0}
    trainer = make_trainer(None, data, tmp_path, {**JOINT, "static_dim": 64}, **args)
    before = table_of(trainer).clone()
    seen: list[Tensor] = []
    assert trainer.static is not None
    step = trainer.static.step

    def recorded(*given: Any) -> None:
        assert trainer.static is not None
        seen.append(torch.cat([part.rows for part in trainer.static.touched]).unique())
        step(*given)

    trainer.static.step = recorded  # type: ignore[method-assign]
    trainer.train()
    moved = ((table_of(trainer) - before).abs().amax(1) > 0).nonzero().squeeze(1)
    assert 0 < len(moved) < len(before)
    assert moved.tolist() == seen[0].tolist()


@pytest.mark.parametrize(
    ("encoder", "more"),
    [(True, {"label_strategy": "selective", "label_budget": 10, "label_refresh": 3}), (False, {})],
    ids=["joint", "alone"],
)
def test_resume_is_bit_equal(
    tiny_encoder: str, data: XMCDataset, tmp_path: Path, encoder: bool, more: dict[str, Any]
) -> None:
    args = {"max_steps": 8, "save_strategy": "steps", "save_steps": 3, **more}
    model = {**JOINT, "label_head": "residual"}
    made = [make_trainer(tiny_encoder if encoder else None, data, tmp_path, model, **args) for _ in range(2)]
    whole, again = made
    whole.train()
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert again.state.global_step == 8
    assert torch.equal(table_of(whole), table_of(again))
    assert torch.equal(whole.static.squares, again.static.squares)  # type: ignore[union-attr]
    for (name, a), b in zip(whole.model.named_parameters(), again.model.parameters(), strict=True):
        assert torch.equal(a, b), name


def test_accumulation_equals_one_batch(data: XMCDataset, tmp_path: Path) -> None:
    found = []
    for batch, steps in ((16, 1), (4, 4)):
        args = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": steps, "max_steps": 3}
        trainer = make_trainer(None, data, tmp_path, JOINT, **args)
        trainer.train()
        found.append(table_of(trainer).clone())
    torch.testing.assert_close(found[0], found[1], atol=2e-3, rtol=1e-2)


def test_it_learns_is_saved_and_goes_on(data: XMCDataset, tmp_path: Path) -> None:
    args = {"num_train_epochs": 6, "static_learning_rate": 0.1}
    model = {"static_dim": 16, "label_head": "residual", "temperature": 0.1}
    trainer = make_trainer(None, data, tmp_path / "run", model, **args)
    before = trainer.evaluate()["eval_nDCG@5"]
    trainer.train()
    after = trainer.evaluate()["eval_nDCG@5"]
    assert after > max(before, 0.8)
    trainer.save_model(str(tmp_path / "model"))
    saved = XMCDualEncoderModel.from_pretrained(tmp_path / "model")
    tagger, texts = XMCPipeline.build(saved, data.labels), data.queries["validation"]["text"][:]
    found = tagger.predict(texts, k=data.num_labels)
    scores = trainer.table(trainer.eval_dataset.tokens, "query") @ trainer.label_embeddings().T
    torch.testing.assert_close(torch.as_tensor(found.scores), scores.gather(1, torch.as_tensor(found.ids)))

    new = data.queries["train"].map(lambda row: {"text": row["text"] + " brandnew"})
    rows = len(saved.static_tower)
    further = XMCTrainer(
        saved,
        XMCTrainingArguments(str(tmp_path), max_steps=1, report_to="none", static_learning_rate=1e-9),
        new,
        label_dataset=data.labels,
    )
    further.train()
    assert len(saved.static_tower) > rows
    assert saved.config.static_rows == len(saved.static_tower)
    torch.testing.assert_close(saved.encode_queries(texts), trainer.table(trainer.eval_dataset.tokens, "query"))


def test_a_classifier_alone_leaves_the_tower_as_it_is(tiny_encoder: str, data: XMCDataset, tmp_path: Path) -> None:
    args = {"freeze_encoder": True, "label_head_loss_weight": 1.0, "max_steps": 2}
    trainer = make_trainer(tiny_encoder, data, tmp_path, {**JOINT, "label_head": "classifier"}, **args)
    before = table_of(trainer).clone()
    trainer.train()
    assert torch.equal(table_of(trainer), before)


def test_what_cannot_be_trained(data: XMCDataset, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nothing to train"):
        make_trainer(None, data, tmp_path, JOINT, static_learning_rate=0.0)


def test_a_tagger_without_a_transformer_from_training_to_explanation(data: XMCDataset, tmp_path: Path) -> None:
    args = XMCTrainingArguments(str(tmp_path), num_train_epochs=4, report_to="none", disable_tqdm=True)
    tagger = train_tagger(data, "none", tmp_path, args, static_dim=16, label_head="residual", temperature=0.1)
    assert tagger is not None
    assert not {"tokenizer.json", "vocab.txt"} & {path.name for path in tmp_path.iterdir()}
    assert {"static_tower_xmc.py", "ngrams_xmc.py", "model.safetensors"} <= set(files_to_push(tmp_path))
    loaded = XMCPipeline.from_pretrained(tmp_path)
    text = "the car here is red"
    assert loaded(text) == tagger(text)
    found = explain(loaded, text, label_ids=[0])[0]  # red
    assert max(found.words, key=lambda word: word.attribution).text == "red"
    with pytest.raises(ValueError, match="occlusion"):
        explain(loaded, text, method="gradient")
