"""Hard negatives from an index: mined when due, compared as the strategy says, the same after a restart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from hf_xmc import Positives, XMCDataset, XMCTrainer, XMCTrainingArguments, load_xmc_dataset
from hf_xmc.losses import make_loss
from hf_xmc.retrieval.search import exact_search
from hf_xmc.sampling.mining import mine_negatives
from hf_xmc.training.candidates.mined_negatives import MINED
from hf_xmc.training.candidates.mixed import MixedLabels
from tests.training.made import make_trainer, one_batch
from tests.training.run_until_killed import trainer_for
from tests.training.test_label_step import history, train

MINING: dict[str, Any] = {"num_hard_negatives": 2, "mining_depth": 4}


@pytest.fixture
def data(toy: Path) -> XMCDataset:
    return load_xmc_dataset(toy)


def mining_trainer(encoder: str, data: XMCDataset, folder: Path, **args: Any) -> XMCTrainer:
    """With some ignored pairs, positives among them."""
    model = args.pop("model", None)
    settings = {"label_strategy": "mixed", "disable_dropout": True, **MINING, **args}
    trainer = make_trainer(encoder, data, folder, model, **settings)
    split = trainer.train_dataset
    split.ignored = Positives.from_lists([[i % 12] if i % 2 else [] for i in range(len(split))])
    return trainer


def rule_of(trainer: XMCTrainer) -> MixedLabels:
    assert isinstance(trainer.rule, MixedLabels)
    return trainer.rule


@pytest.mark.parametrize("strategy", ["mined", "mixed"])
@pytest.mark.parametrize("loss", ["decoupled_softmax", "soft_top_k", "softmax", "one_vs_all", "triplet_margin"])
def test_the_loss_is_that_of_each_query_with_its_own_labels(
    tiny_encoder: str, data: XMCDataset, tmp_path: Path, strategy: str, loss: str
) -> None:
    """One query at a time, over the labels that it is to be compared with and no others."""
    args = {"label_strategy": strategy, "loss": loss, "num_positives": 1, "gradient_caching": False, "soft_top_k": 1}
    trainer = mining_trainer(tiny_encoder, data, tmp_path, **args)
    trainer.begin_epoch(0)
    batch, split = one_batch(trainer, range(6)), trainer.train_dataset
    step = trainer.new_step([batch])
    found, queries, labels = step.loss()
    candidates = step.candidates.ids
    assert candidates is not None
    window = step.window(queries)
    negatives = rule_of(trainer).negatives(window)
    table = rule_of(trainer).mined.table
    assert table is not None
    brought = window.positives(1, trainer.args.seed).indices.tolist()
    assert len(brought) == 6
    assert candidates.tolist() == sorted({*brought, *negatives.indices.tolist()})
    criterion, terms, weights = make_loss(trainer.args, trainer.model.config.temperature), [], []
    for row in range(6):
        true, mined = set(split.positives.row(row).tolist()), set(negatives.row(row).tolist())
        assert len(mined) == 2
        assert mined <= set(table[row].tolist())
        own = set(candidates.tolist()) if strategy == "mixed" else true | mined
        own -= set(split.ignored.row(row).tolist())
        columns = [i for i, label in enumerate(candidates.tolist()) if label in own]
        places = [i for i, column in enumerate(columns) if int(candidates[column]) in true]
        terms.append(criterion(queries[row : row + 1], labels[columns], Positives.from_lists([places]).torch()))
        weights.append(len(columns) if loss == "one_vs_all" else bool(places))
    expected = sum(t * w for t, w in zip(terms, weights, strict=True)) / sum(weights)
    assert found.item() == pytest.approx(expected.item(), abs=1e-5)
    assert found.item() > 0
    weight = trainer.model.query_encoder.encoder.layer[0].attention.self.query.weight  # of both sides
    wanted, had = (torch.autograd.grad(x, weight, retain_graph=True)[0] for x in (expected, found))
    torch.testing.assert_close(had, wanted, atol=1e-6, rtol=1e-4)


def test_the_table_is_what_queries_find(tiny_encoder: str, data: XMCDataset, tmp_path: Path) -> None:
    trainer = mining_trainer(tiny_encoder, data, tmp_path, mining_relative_margin=0.02, mining_depth=10)
    trainer.begin_epoch(0)
    split = trainer.train_dataset
    queries, labels = trainer.table(split.tokens, "query"), trainer.table(trainer.label_tokens, "label")
    topk = exact_search(queries, labels, data.num_labels)
    expected = mine_negatives(topk, split.positives, split.ignored, 10, relative_margin=0.02)
    table = rule_of(trainer).mined.table
    assert table is not None
    assert table.tolist() == expected.tolist()
    report = trainer.rule.report()
    assert report["mined_negatives"] == pytest.approx((expected >= 0).sum(1).mean())
    whole = mine_negatives(topk, split.positives, split.ignored, 12)
    close = 1 - (expected >= 0).sum() / (whole >= 0).sum()
    assert 0 < report["mined_too_close"] == pytest.approx(close)


@pytest.mark.parametrize("factory", ["hnsw", "ivf-sq8", "auto"])
def test_other_kinds_of_index(tiny_encoder: str, data: XMCDataset, tmp_path: Path, factory: str) -> None:
    trainer = mining_trainer(tiny_encoder, data, tmp_path, mining_factory=factory, mining_depth=12)
    trainer.begin_epoch(0)
    table = rule_of(trainer).mined.table
    assert table is not None
    split = trainer.train_dataset
    for row in range(len(split)):
        known = {*split.positives.row(row).tolist(), *split.ignored.row(row).tolist()}
        assert set(table[row].tolist()) - {-1} == set(range(12)) - known


@pytest.mark.parametrize(
    "args",
    [
        {"label_strategy": "mined", **MINING},
        {"label_strategy": "mixed", **MINING, "num_positives": 1, "loss": "triplet_margin"},
        {"label_strategy": "mined", **MINING, "num_positives": 1, "loss": "one_vs_all"},
        {"label_strategy": "in_batch", "num_positives": 1},
        {"label_strategy": "hard", "num_positives": 1, "num_hard_negatives": 2, "label_refresh": 2},
    ],
    ids=lambda args: " ".join(str(value) for value in args.values()),
)
def test_eight_micro_batches_are_one_batch(
    tiny_encoder: str, data: XMCDataset, tmp_path: Path, args: dict[str, Any]
) -> None:
    large = train(tiny_encoder, data, tmp_path / "a", 16, 1, **args)
    small = train(tiny_encoder, data, tmp_path / "b", 2, 8, **args)
    assert large.state.global_step == small.state.global_step == 7
    assert history(small, "loss") == pytest.approx(history(large, "loss"), abs=1e-4)
    assert history(small, "grad_norm") == pytest.approx(history(large, "grad_norm"), abs=1e-3, rel=1e-3)
    for (name, a), b in zip(large.model.named_parameters(), small.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-3, msg=name)


def mined_epochs(trainer: XMCTrainer) -> list[int]:
    """A list that gets each epoch at which negatives are mined."""
    epochs: list[int] = []
    update = rule_of(trainer).update

    def noted(queries: torch.Tensor, labels: torch.Tensor, epoch: int) -> None:
        epochs.append(epoch)
        update(queries, labels, epoch)

    trainer.rule.update = noted  # type: ignore[method-assign]
    return epochs


def test_negatives_are_mined_when_they_are_due(tiny_encoder: str, data: XMCDataset, tmp_path: Path) -> None:
    large = {"per_device_train_batch_size": 64, "encode_chunk_size": 64}
    trainer = mining_trainer(tiny_encoder, data, tmp_path, mining_refresh_epochs=2, num_train_epochs=5, **large)
    epochs = mined_epochs(trainer)
    trainer.train()
    assert epochs == [0, 2, 4]
    assert len(history(trainer, "mined_negatives")) == trainer.state.global_step
    trainer.train()
    assert epochs == [0, 2, 4, 0, 2, 4], "a fresh run mines anew"


@pytest.mark.parametrize(("step", "refresh", "mined_again"), [(9, 1, [2]), (9, 3, []), (14, 1, [2])])
def test_resumed_runs_are_the_same_bit_for_bit(
    tiny_encoder: str, toy: Path, tmp_path: Path, step: int, refresh: int, mined_again: list[int]
) -> None:
    """Epochs of seven steps: step 9 is in the midst of the second, step 14 the end of it. With dropout."""
    args = {"label_strategy": "mined", **MINING, "mining_refresh_epochs": refresh, "num_positives": 1}
    args |= {"max_steps": 16, "save_total_limit": None, "save_steps": step}
    whole, again = (trainer_for(tiny_encoder, str(toy), str(tmp_path / name), **args) for name in ("a", "b"))
    whole.train()
    epochs = mined_epochs(again)
    again.train(resume_from_checkpoint=str(tmp_path / "a" / f"checkpoint-{step}"))
    assert epochs == mined_again
    for (name, x), y in zip(whole.model.named_parameters(), again.model.parameters(), strict=True):
        assert torch.equal(x, y), name
    tables = [rule_of(trainer).mined.table for trainer in (whole, again)]
    assert torch.equal(*tables)  # type: ignore[arg-type]
    assert whole.rule.report() == again.rule.report()
    assert history(whole, "loss")[step:] == history(again, "loss")[step:]
    kept = load_file(tmp_path / "a" / f"checkpoint-{step}" / MINED)["negatives"]
    assert kept.dtype == torch.int32
    assert torch.equal(kept, tables[0]) == (refresh == 3), "the table of a run that mines each epoch moves on"


def test_a_table_of_other_queries_is_refused(tiny_encoder: str, data: XMCDataset, tmp_path: Path) -> None:
    trainer = mining_trainer(tiny_encoder, data, tmp_path)
    trainer.begin_epoch(0)
    trainer.rule.save(tmp_path)
    data.queries["train"] = data.queries["train"].select(range(50))
    with pytest.raises(ValueError, match=rf"{len(trainer.train_dataset)} queries, but the training split has 50"):
        make_trainer(tiny_encoder, data, tmp_path, label_strategy="mixed", **MINING).rule.load(tmp_path)
    trainer.rule.load(tmp_path / "elsewhere")
    assert trainer.rule.due(0)


def test_a_step_before_anything_is_mined(tiny_encoder: str, data: XMCDataset, tmp_path: Path) -> None:
    trainer = mining_trainer(tiny_encoder, data, tmp_path)
    with pytest.raises(RuntimeError, match=r"trainer\.begin_epoch\(0\)"):
        trainer.compute_loss(trainer.model, one_batch(trainer))
    assert trainer.rule.report() == {}


@pytest.mark.parametrize("frozen", [False, True])
def test_mixed_candidates_learn(tiny_encoder: str, data: XMCDataset, tmp_path: Path, frozen: bool) -> None:
    args: dict[str, Any] = {"num_train_epochs": 6, "per_device_train_batch_size": 8, "encode_chunk_size": 64}
    args |= {"freeze_encoder": True, "model": {"projection_dim": 32}, "num_train_epochs": 10} if frozen else {}
    trainer = mining_trainer(tiny_encoder, data, tmp_path, num_positives=1, mining_relative_margin=0.01, **args)
    trainer.train_dataset.ignored = None
    before = trainer.evaluate()["eval_P@1"]
    trainer.train()
    assert trainer.evaluate()["eval_P@1"] > before + (0.05 if frozen else 0.2)


def test_queries_whose_negatives_are_all_filtered(tiny_encoder: str, data: XMCDataset, tmp_path: Path) -> None:
    """A margin that nothing keeps: each query is alone with its positives."""
    args = {"label_strategy": "mined", "mining_absolute_margin": 5.0}
    trainer = mining_trainer(tiny_encoder, data, tmp_path, **args, max_steps=2)
    before = {name: p.clone() for name, p in trainer.model.named_parameters()}
    trainer.train()
    assert history(trainer, "mined_negatives") == [0.0, 0.0]
    assert history(trainer, "mined_too_close") == [1.0, 1.0]
    assert history(trainer, "loss") == [0.0, 0.0]
    assert all(torch.equal(before[name], p) for name, p in trainer.model.named_parameters())


def test_arguments_are_checked(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"mining_factory is 'tree'; expected one of flat, .*auto"):
        XMCTrainingArguments(str(tmp_path), label_strategy="mined", mining_factory="tree")
    with pytest.raises(ValueError, match=r"mining_depth is 5, but num_hard_negatives.* is 10"):
        XMCTrainingArguments(str(tmp_path), label_strategy="mixed", mining_depth=5)
    assert XMCTrainingArguments(str(tmp_path), mining_depth=5, mining_absolute_margin=0.1).mining_depth == 5
    assert (
        make_loss(XMCTrainingArguments(str(tmp_path), loss="triplet_margin", num_hard_negatives=7), 0.05).num_negatives
        == 7
    )


def test_each_step_draws_others(tiny_encoder: str, data: XMCDataset, tmp_path: Path) -> None:
    trainer = mining_trainer(tiny_encoder, data, tmp_path, num_positives=1)
    trainer.begin_epoch(0)
    batch = one_batch(trainer)
    draws = []
    for number in range(8):
        step = trainer.new_step([batch])
        step.number = number
        window = step.window(torch.zeros(16, 2))
        draws.append((window.positives(1, 0).indices.tolist(), rule_of(trainer).negatives(window).indices.tolist()))
    for side in (0, 1):
        assert len({tuple(draw[side]) for draw in draws}) == 8
    positives = trainer.train_dataset.positives
    drawn = np.array([draw[0][0] for draw in draws])  # of the first query, whose only positives these are
    assert set(drawn.tolist()) == set(positives.row(0).tolist())


def test_negatives_from_a_later_epoch_on(tiny_encoder: str, data: XMCDataset, tmp_path: Path) -> None:
    """As `dist-de-hnm` of DEXML 7690769: before, the candidates are the positives of the batch."""
    settings = {"num_positives": 1, "mining_start_epoch": 2, "mining_refresh_epochs": 5}
    trainer = mining_trainer(tiny_encoder, data, tmp_path, **settings)
    batch, rule = one_batch(trainer, range(6)), rule_of(trainer)
    for epoch in (0, 1):
        trainer.begin_epoch(epoch)
        assert rule.mined.table is None
        step = trainer.new_step([batch])
        _, queries, _ = step.loss()
        assert step.candidates.ids is not None
        assert step.candidates.ids.tolist() == sorted({*step.window(queries).positives(1, 42).indices.tolist()})
    assert [rule.due(epoch) for epoch in range(4)] == [False, False, True, True]
    trainer.begin_epoch(2)
    assert rule.mined.table is not None
    assert [rule.due(epoch) for epoch in (3, 6, 7)] == [False, False, True]
    with pytest.raises(ValueError, match="mining_start_epoch is 2, but label_strategy mined"):
        mining_trainer(tiny_encoder, data, tmp_path, **settings, label_strategy="mined")
