"""A step over labels: one large batch, or many micro-batches of it, are the same; labels are encoded twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from hf_xmc import Positives, XMCDataset, XMCTrainer, load_xmc_dataset
from hf_xmc.training.candidates import selective
from tests.training.made import make_trainer, one_batch

STRATEGIES: dict[str, dict[str, Any]] = {
    "all": {},
    "in_batch": {},
    "selective": {"label_budget": 10, "label_refresh": 2},
    "hard": {"num_hard_negatives": 2, "label_refresh": 2},
}


@pytest.fixture
def data(toy: Path) -> XMCDataset:
    return load_xmc_dataset(toy)


def with_weights_and_ignored_pairs(trainer: XMCTrainer) -> XMCTrainer:
    """Every third query has no positive, the others weights; some pairs are ignored, positives among them."""
    split = trainer.train_dataset
    random = np.random.default_rng(0)
    rows = [[] if i % 3 == 0 else split.positives.row(i).tolist() for i in range(len(split))]
    split.positives = Positives.from_lists(rows, [[float(random.uniform(0.5, 2)) for _ in row] for row in rows])
    split.ignored = Positives.from_lists([[i % 12] if i % 2 else [] for i in range(len(split))])
    return trainer


def train(encoder: str, data: XMCDataset, folder: Path, batch: int, steps: int, **args: Any) -> XMCTrainer:
    settings = {"disable_dropout": True, "num_train_epochs": 1, "max_grad_norm": 0.5, "label_bank_dtype": "float32"}
    made = make_trainer(
        encoder,
        data,
        folder,
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=steps,
        **{**settings, **args},
    )
    trainer = with_weights_and_ignored_pairs(made)
    trainer.train()
    return trainer


def history(trainer: XMCTrainer, name: str) -> list[float]:
    return [entry[name] for entry in trainer.state.log_history if name in entry]


@pytest.mark.parametrize(
    ("strategy", "loss"),
    [
        *((strategy, "decoupled_softmax") for strategy in STRATEGIES),
        *(("selective", loss) for loss in ("soft_top_k", "softmax", "one_vs_all", "triplet_margin")),
        *(("all", loss) for loss in ("one_vs_all", "triplet_margin")),
    ],
)
def test_eight_micro_batches_are_one_batch(
    tiny_encoder: str, data: XMCDataset, tmp_path: Path, strategy: str, loss: str
) -> None:
    """108 queries by 16: the last window of the epoch is shorter, and clipping is at work."""
    args = {"label_strategy": strategy, "loss": loss, **STRATEGIES[strategy]}
    large = train(tiny_encoder, data, tmp_path / "a", 16, 1, **args)
    small = train(tiny_encoder, data, tmp_path / "b", 2, 8, **args)
    assert large.state.global_step == small.state.global_step == 7
    assert history(small, "loss") == pytest.approx(history(large, "loss"), abs=1e-4)
    assert history(small, "grad_norm") == pytest.approx(history(large, "grad_norm"), abs=1e-3, rel=1e-3)
    for (name, a), b in zip(large.model.named_parameters(), small.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-3, msg=name)


@pytest.mark.parametrize(
    ("caching", "chunk_size", "times"),
    [(True, 100, 2), (False, 1, 1), (None, 3, 1), (None, 2, 2)],  # by default: up to four chunks are kept
)
def test_labels_are_encoded_twice_a_step_whatever_the_accumulation(
    tiny_encoder: str, data: XMCDataset, tmp_path: Path, caching: bool | None, chunk_size: int, times: int
) -> None:
    trainer = make_trainer(
        tiny_encoder,
        data,
        tmp_path,
        max_steps=2,
        gradient_accumulation_steps=4,
        per_device_train_batch_size=4,
        encode_chunk_size=chunk_size,
        gradient_caching=caching,
    )
    encoded: list[int] = []

    def count(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        if kwargs["side"] == "label":
            encoded.append(len(kwargs["cu_seq_lens"]) - 1)  # texts of a packed row

    trainer.model.register_forward_pre_hook(count, with_kwargs=True)
    trainer.train()
    assert sum(encoded) == 2 * data.num_labels * times


def test_a_budget_of_all_labels_is_the_exact_method_bit_for_bit(
    tiny_encoder: str, data: XMCDataset, tmp_path: Path
) -> None:
    weights: list[dict[str, Tensor]] = []
    for args in ({"label_strategy": "all"}, {"label_strategy": "selective", "label_budget": data.num_labels}):
        trainer = make_trainer(
            tiny_encoder,
            data,
            tmp_path,
            max_steps=6,
            gradient_accumulation_steps=2,
            per_device_train_batch_size=8,
            **args,
        )
        trainer.train()  # with dropout
        weights.append(trainer.model.state_dict())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert history(trainer, "covered_gradient_mass") == [1.0] * 6
    assert history(trainer, "oldest_label_age") == [0] * 6


def test_selective_reports_what_it_covers_and_how_old_the_bank_is(
    tiny_encoder: str, data: XMCDataset, tmp_path: Path
) -> None:
    args = {"label_strategy": "selective", "max_steps": 15, "per_device_train_batch_size": 2}
    few = make_trainer(tiny_encoder, data, tmp_path, label_budget=6, label_refresh=1, **args)
    more = make_trainer(tiny_encoder, data, tmp_path, label_budget=11, label_refresh=1, **args)
    for trainer in (few, more):
        trainer.train()
        assert 0 < max(history(trainer, "oldest_label_age")) <= data.num_labels
    covered, larger = history(few, "covered_gradient_mass"), history(more, "covered_gradient_mass")
    assert all(0 < share < 1 for share in covered)
    assert np.mean(covered) + 0.02 < np.mean(larger)


@pytest.mark.parametrize("loss", ["decoupled_softmax", "softmax"])
def test_labels_drawn_at_random_count_for_those_left_over(
    tiny_encoder: str, data: XMCDataset, tmp_path: Path, loss: str
) -> None:
    """Each drawn label stands in the sum of exponentials as often as its weight says, in value and gradient."""
    args = {"label_strategy": "selective", "label_budget": 8, "label_random_share": 0.5, "disable_dropout": True}
    trainer = make_trainer(tiny_encoder, data, tmp_path, loss=loss, gradient_caching=False, **args)
    batch = one_batch(trainer, range(2))
    step = trainer.new_step([batch])
    found, queries, labels = step.loss()
    assert step.candidates.ids is not None
    log_weights = step.candidates.log_weights
    assert log_weights is not None
    assert set(log_weights.exp().round().tolist()) == {
        1.0,
        3.0,
    }  # 12 labels, 3 positive, 3 chosen: 6 are left, 2 drawn
    positives = step.pairs(0).true
    scores = queries @ labels.T / trainer.model.config.temperature + log_weights  # [B, C]
    terms = []
    for row in range(2):
        true = positives.row(row)
        others = torch.ones(len(labels), dtype=torch.bool).index_fill_(0, true, False)
        if loss == "softmax":
            terms.append((scores[row].logsumexp(0) - scores[row, true]).sum())
        else:
            terms.append((scores[row, others].logsumexp(0).logaddexp(scores[row, true]) - scores[row, true]).mean())
    expected = torch.stack(terms).mean()
    assert found.item() == pytest.approx(expected.item(), abs=1e-5)
    weight = trainer.model.query_encoder.encoder.layer[0].attention.self.query.weight  # of both sides
    wanted, had = (torch.autograd.grad(x, weight, retain_graph=True)[0] for x in (expected, found))
    torch.testing.assert_close(had, wanted, atol=1e-6, rtol=1e-4)


def test_a_budget_below_the_positives_is_said_once(
    tiny_encoder: str, data: XMCDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(selective.logger, "warning_once", said.append)
    args = {"label_strategy": "selective", "label_budget": 3, "per_device_train_batch_size": 8}
    make_trainer(tiny_encoder, data, tmp_path, max_steps=6, **args).train()
    assert len(said) > 1
    assert len(set(said)) == 1, "a message that differs from step to step is said at each"
    assert "larger label_budget" in said[0]


@pytest.mark.parametrize("strategy", ["selective", "hard"])
def test_banked_candidates_learn(tiny_encoder: str, data: XMCDataset, tmp_path: Path, strategy: str) -> None:
    trainer = make_trainer(
        tiny_encoder,
        data,
        tmp_path,
        label_strategy=strategy,
        label_bank_init="random",
        num_train_epochs=6,
        per_device_train_batch_size=8,
        **{**STRATEGIES[strategy], "encode_chunk_size": 64},
    )
    before = trainer.evaluate()["eval_P@1"]
    trainer.train()
    assert trainer.evaluate()["eval_P@1"] > before + 0.2


def test_selective_under_a_frozen_encoder(tiny_encoder: str, data: XMCDataset, tmp_path: Path) -> None:
    trainer = make_trainer(
        tiny_encoder,
        data,
        tmp_path,
        {"projection_dim": 32},
        freeze_encoder=True,
        label_strategy="selective",
        label_budget=8,
        num_train_epochs=8,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=2,
    )
    before = trainer.evaluate()["eval_P@1"]
    trainer.train()
    assert trainer.evaluate()["eval_P@1"] > before


def test_arguments_of_the_bank_are_checked(tiny_encoder: str, data: XMCDataset, tmp_path: Path) -> None:
    for wrong in ({"label_budget": 0}, {"label_refresh": -1}, {"label_bank_init": "x"}, {"label_bank_dtype": "x"}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            make_trainer(tiny_encoder, data, tmp_path, **wrong)


@pytest.mark.parametrize("strategy", ["all", "selective"])
def test_a_scaled_loss_scales_all_gradients(
    tiny_encoder: str, data: XMCDataset, tmp_path: Path, strategy: str
) -> None:
    """What mixed precision does: backward passes run on a multiple of the loss, the optimizer divides."""
    found = []
    for scale in (1, 1024):
        args = {"label_strategy": strategy, **STRATEGIES[strategy]}
        trainer = make_trainer(tiny_encoder, data, tmp_path, disable_dropout=True, **args)
        trainer.accelerator.backward = lambda loss, scale=scale: (loss * scale).backward()
        trainer.create_optimizer()
        batches, _ = trainer.get_batch_samples(iter(one_batch(trainer, range(i, i + 4)) for i in (0, 4, 8)), 3, "cpu")
        for batch in batches:
            assert trainer.label_step is not None
            trainer.training_step(trainer.model, batch)
        assert trainer.label_step is None
        found.append({name: p.grad / scale for name, p in trainer.model.named_parameters() if p.grad is not None})
    assert found[0].keys() == found[1].keys()
    assert len(found[0]) > 10
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, atol=1e-6, rtol=1e-4, msg=name)
