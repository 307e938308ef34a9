from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from hf_xmc import Positives, XMCDataset, XMCDualEncoderModel, XMCTrainer, XMCTrainingArguments, load_xmc_dataset
from hf_xmc.data.collator import unpack
from hf_xmc.losses import TripletMarginLoss
from tests.training.made import gradients, make_trainer, one_batch


@pytest.fixture
def data(toy: Path) -> XMCDataset:
    return load_xmc_dataset(toy)


def dense_loss(queries: Tensor, labels: Tensor, mask: Tensor, temperature: float) -> Tensor:
    """Decoupled softmax, as the definition reads."""
    scores = queries @ labels.T / temperature
    negatives = scores.masked_fill(mask, -torch.inf).logsumexp(1, keepdim=True)
    terms = torch.logaddexp(scores, negatives) - scores
    return torch.stack([row[m].mean() for row, m in zip(terms, mask, strict=True) if m.any()]).mean()


def positive_mask(batch: dict[str, Tensor], num_labels: int) -> Tensor:
    positives = unpack(batch, "positives")
    assert positives is not None
    mask = torch.zeros(len(positives), num_labels, dtype=torch.bool)
    for i in range(len(positives)):
        mask[i, positives.row(i)] = True
    return mask


@pytest.mark.parametrize("model", [{}, {"share_encoders": False, "projection_dim": 16}], ids=["shared", "separate"])
@pytest.mark.parametrize("strategy", ["all", "in_batch"])
def test_gradient_caching_equals_the_plain_computation_with_dropout(
    tiny_encoder: str, data: XMCDataset, tmp_path: Path, model: dict, strategy: str
) -> None:
    results = []
    for caching in (True, False):
        torch.manual_seed(0)
        trainer = make_trainer(tiny_encoder, data, tmp_path, model, gradient_caching=caching, label_strategy=strategy)
        trainer.model.train()
        torch.manual_seed(1)
        loss = trainer.compute_loss(trainer.model, one_batch(trainer))
        results.append((loss.item(), gradients(trainer, loss)))
    (cached, cached_gradients), (plain, plain_gradients) = results
    assert cached == pytest.approx(plain, abs=1e-6)
    assert cached_gradients.keys() == plain_gradients.keys()
    for name, gradient in plain_gradients.items():
        torch.testing.assert_close(cached_gradients[name], gradient, atol=1e-5, rtol=1e-5, msg=name)


def test_dropout_is_on_in_training(tiny_encoder: str, data: XMCDataset, tmp_path: Path) -> None:
    trainer = make_trainer(tiny_encoder, data, tmp_path)
    trainer.model.train()
    batch = one_batch(trainer)
    assert trainer.compute_loss(trainer.model, batch) != trainer.compute_loss(trainer.model, batch)
    off = make_trainer(tiny_encoder, data, tmp_path, disable_dropout=True)
    off.model.train()
    assert off.compute_loss(off.model, batch) == off.compute_loss(off.model, batch)


@pytest.mark.parametrize("chunk", [1, 5, 100])
@pytest.mark.parametrize("strategy", ["all", "in_batch"])
def test_the_loss_is_the_definition(
    tiny_encoder: str, data: XMCDataset, tmp_path: Path, strategy: str, chunk: int
) -> None:
    trainer = make_trainer(
        tiny_encoder, data, tmp_path, label_strategy=strategy, encode_chunk_size=chunk, disable_dropout=True
    )
    trainer.model.train()
    model, batch = trainer.model, one_batch(trainer, range(4))
    mask = positive_mask(batch, data.num_labels)
    candidates = torch.arange(data.num_labels) if strategy == "all" else mask.any(0).nonzero().squeeze(1)
    assert strategy == "all" or len(candidates) < data.num_labels
    labels = model.pad(model.tokenize([data.labels[int(i)]["text"] for i in candidates], "label"))
    expected = dense_loss(
        model(**model.pad([trainer.train_dataset.tokens[row] for row in range(4)])).embeddings,
        model(**labels, side="label").embeddings,
        mask[:, candidates],
        model.config.temperature,
    )
    found = trainer.compute_loss(model, batch)
    assert found.item() == pytest.approx(expected.item(), abs=1e-5)
    expected_gradients, found_gradients = gradients(trainer, expected), gradients(trainer, found)
    for name, gradient in expected_gradients.items():
        torch.testing.assert_close(found_gradients[name], gradient, atol=1e-5, rtol=1e-4, msg=name)


def test_ignored_pairs_leave_the_loss(tiny_encoder: str, toy: Path, tmp_path: Path) -> None:
    import shutil

    folder = tmp_path / "filtered"
    shutil.copytree(toy, folder)
    (folder / "filter_labels_trn.txt").write_text("".join(f"{row} {row % 6}\n" for row in range(120)))
    data = load_xmc_dataset(folder)
    for strategy in ("all", "in_batch"):
        trainer = make_trainer(tiny_encoder, data, tmp_path, disable_dropout=True, label_strategy=strategy)
        batch = one_batch(trainer)
        without = {key: value for key, value in batch.items() if not key.startswith("ignored")}
        assert trainer.compute_loss(trainer.model, batch) != trainer.compute_loss(trainer.model, without)


def test_frozen_encoder_trains_the_projection_alone(tiny_encoder: str, data: XMCDataset, tmp_path: Path) -> None:
    trainer = make_trainer(tiny_encoder, data, tmp_path, {"projection_dim": 32}, freeze_encoder=True)
    batch = one_batch(trainer)
    frozen = trainer.compute_loss(trainer.model, batch)
    live = make_trainer(tiny_encoder, data, tmp_path, {"projection_dim": 32}, disable_dropout=True)
    plain = live.compute_loss(live.model.eval(), batch)
    assert frozen.item() == pytest.approx(plain.item(), abs=1e-5)
    frozen_gradients, plain_gradients = gradients(trainer, frozen), gradients(live, plain)
    assert set(frozen_gradients) == {"query_projection.weight", "label_projection.weight"}
    for name, gradient in frozen_gradients.items():
        torch.testing.assert_close(gradient, plain_gradients[name], atol=1e-5, rtol=1e-4)
    before = {name: p.clone() for name, p in trainer.model.named_parameters()}
    score = trainer.evaluate()["eval_P@1"]
    trainer.args.num_train_epochs = 20
    trainer.train()
    for name, parameter in trainer.model.named_parameters():
        assert torch.equal(before[name], parameter) == ("projection" not in name), name
    assert trainer.evaluate()["eval_P@1"] > score


@pytest.mark.parametrize("loss", ["soft_top_k", "softmax", "one_vs_all", "triplet_margin"])
def test_the_other_losses_by_name(tiny_encoder: str, data: XMCDataset, tmp_path: Path, loss: str) -> None:
    trainer = make_trainer(tiny_encoder, data, tmp_path, loss=loss, soft_top_k=0, num_train_epochs=4)
    before = trainer.evaluate()["eval_loss"]
    trainer.train()
    assert trainer.evaluate()["eval_loss"] < before


def test_a_loss_of_ones_own(tiny_encoder: str, data: XMCDataset, tmp_path: Path) -> None:
    model = XMCDualEncoderModel.from_encoder(tiny_encoder)
    args = XMCTrainingArguments(str(tmp_path), report_to="none", max_steps=1, label_strategy="in_batch")
    loss = TripletMarginLoss(num_negatives=3)
    trainer = XMCTrainer(model, args, data.queries["train"], label_dataset=data.labels, loss=loss)
    assert trainer.compute_loss(model, one_batch(trainer)).item() > 0


class MeanOfPositives(torch.nn.Module):
    """A loss that is no `Loss`: it pulls positives, and knows neither sampled nor ignored pairs."""

    def forward(self, queries: torch.Tensor, labels: torch.Tensor, positives: Positives) -> torch.Tensor:
        return -(queries[positives.rows] * labels[positives.indices]).sum(1).mean()


def test_a_module_that_is_called_like_a_loss(tiny_encoder: str, data: XMCDataset, tmp_path: Path) -> None:
    model = XMCDualEncoderModel.from_encoder(tiny_encoder)
    args = XMCTrainingArguments(str(tmp_path), report_to="none", max_steps=1)
    trainer = XMCTrainer(model, args, data.queries["train"], label_dataset=data.labels, loss=MeanOfPositives())
    assert not trainer.loss.sharded
    found = trainer.compute_loss(model, one_batch(trainer))
    assert -1 <= found.item() <= 1
    found.backward()

    half = MeanOfPositives()
    half.num_terms = None
    with pytest.raises(ValueError, match=r"defines num_terms, but is not a Loss; make it a subclass of hf_xmc"):
        XMCTrainer(model, args, data.queries["train"], label_dataset=data.labels, loss=half)


@pytest.mark.parametrize("strategy", ["all", "in_batch"])
def test_training_learns(tiny_encoder: str, data: XMCDataset, tmp_path: Path, strategy: str) -> None:
    trainer = make_trainer(
        tiny_encoder, data, tmp_path, label_strategy=strategy, num_train_epochs=12, encode_chunk_size=64
    )
    before = trainer.evaluate()
    trainer.train()
    after = trainer.evaluate()
    assert after["eval_P@1"] > before["eval_P@1"] + 0.2
    assert after["eval_loss"] < before["eval_loss"]
    assert {"eval_P@1", "eval_P@5", "eval_nDCG@5", "eval_R@3"} <= after.keys()
    assert not any("PSP" in key for key in after)


def test_accumulation_equals_one_batch(tiny_encoder: str, data: XMCDataset, tmp_path: Path) -> None:
    weights = []
    for batch, steps in ((16, 1), (4, 4)):
        trainer = make_trainer(
            tiny_encoder,
            data,
            tmp_path,
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=steps,
            disable_dropout=True,
            max_steps=3,
        )
        trainer.train()
        weights.append(trainer.model.query_encoder.embeddings.word_embeddings.weight.detach().clone())
    torch.testing.assert_close(weights[0], weights[1], atol=1e-5, rtol=1e-4)


def test_resume_is_bit_equal(tiny_encoder: str, data: XMCDataset, tmp_path: Path) -> None:
    whole = make_trainer(tiny_encoder, data, tmp_path / "whole", max_steps=10, save_strategy="steps", save_steps=4)
    whole.train()
    again = make_trainer(tiny_encoder, data, tmp_path / "whole", max_steps=10)
    again.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-4"))
    assert again.state.global_step == 10
    for (name, a), b in zip(whole.model.named_parameters(), again.model.parameters(), strict=True):
        assert torch.equal(a, b), name


def test_the_best_weights_on_validation_are_kept(tiny_encoder: str, data: XMCDataset, tmp_path: Path) -> None:
    trainer = make_trainer(
        tiny_encoder,
        data,
        tmp_path,
        num_train_epochs=4,
        eval_strategy="epoch",
        save_strategy="epoch",
        load_best_model_at_end=True,
        metric_for_best_model="nDCG@5",
        encode_chunk_size=64,
        learning_rate=5e-2,  # too high: later epochs are not the best
    )
    trainer.train()
    history = [entry["eval_nDCG@5"] for entry in trainer.state.log_history if "eval_nDCG@5" in entry]
    assert len(history) == 4
    assert trainer.evaluate()["eval_nDCG@5"] == pytest.approx(max(history))
