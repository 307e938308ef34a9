"""Queries as further keys (RAE-XMC): the loss is a plain formula over labels and texts, however the step is cut."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from hf_xmc import Positives, XMCDataset, XMCTrainer, load_xmc_dataset
from hf_xmc.data.collator import unpack
from hf_xmc.errors import SettingsError
from hf_xmc.losses.sharding import Shard
from hf_xmc.training.query_keys import QueryKeys
from tests.training.made import gradients, make_trainer, one_batch
from tests.training.test_label_step import history, train


@pytest.fixture(scope="module")
def data(toy: Path) -> XMCDataset:
    return load_xmc_dataset(toy)


def rae(trainer: XMCTrainer) -> Tensor:
    """RAE-XMC: each positive against the labels that are none, and the texts of the batch without a common label."""
    batch = one_batch(trainer)
    queries = trainer.encoder.queries(batch["row"], trainer.train_dataset.tokens)
    positives = unpack(batch, "positives")
    assert positives is not None
    true = torch.zeros(len(queries), trainer.num_labels)
    true[positives.rows, positives.indices] = 1
    candidates = (
        torch.arange(trainer.num_labels) if trainer.args.label_strategy == "all" else true.any(0).nonzero()[:, 0]
    )
    labels = trainer.encoder.labels(candidates)
    keys = torch.cat([labels, queries])
    negative = torch.cat([true[:, candidates] == 0, true @ true.T == 0], 1)
    scores = queries @ keys.T / trainer.model.config.temperature
    against = scores.masked_fill(~negative, -torch.inf).logsumexp(1, keepdim=True)
    terms = (torch.logaddexp(against, scores) - scores)[:, : len(labels)] * true[:, candidates]
    return (terms.sum(1) / true.sum(1)).mean()


@pytest.mark.parametrize("strategy", ["all", "in_batch"])
def test_a_step_is_the_formula(strategy: str, tiny_encoder: str, data: XMCDataset, tmp_path: Path) -> None:
    made: dict[str, Any] = {"label_strategy": strategy, "disable_dropout": True}
    trainer = make_trainer(tiny_encoder, data, tmp_path, query_keys=True, **made)
    found, expected = trainer.compute_loss(trainer.model, one_batch(trainer)), rae(trainer)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    ours, theirs = gradients(trainer, found), gradients(trainer, expected)
    for name, gradient in theirs.items():
        torch.testing.assert_close(ours[name], gradient, rtol=1e-3, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")
    trainer.args.query_keys = False
    assert not torch.isclose(trainer.compute_loss(trainer.model, one_batch(trainer)), found)


@pytest.mark.parametrize(
    ("strategy", "loss", "options"),
    [
        ("in_batch", "decoupled_softmax", {}),
        ("selective", "softmax", {"label_budget": 10, "label_refresh": 2}),  # labels that stand for others
        ("all", "triplet_margin", {}),  # a loss that cannot be sharded
        ("mined", "decoupled_softmax", {"num_hard_negatives": 2, "num_positives": 1}),  # each query its own negatives
    ],
)
def test_eight_micro_batches_are_one_batch(
    strategy: str, loss: str, options: dict[str, Any], tiny_encoder: str, data: XMCDataset, tmp_path: Path
) -> None:
    """With weights, ignored pairs and queries without labels, whose only common key is themselves."""
    args = {"label_strategy": strategy, "loss": loss, "query_keys": True, "max_steps": 4, **options}
    large = train(tiny_encoder, data, tmp_path / "a", 16, 1, **args)
    small = train(tiny_encoder, data, tmp_path / "b", 2, 8, **args, gradient_caching=True, encode_chunk_size=3)
    assert history(small, "loss") == pytest.approx(history(large, "loss"), abs=1e-4)
    for (name, a), b in zip(large.model.named_parameters(), small.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-3, msg=name)


def test_a_query_is_compared_neither_with_itself_nor_with_those_that_share_a_label() -> None:
    true = Positives.from_lists([[4, 7], [9], [], [7, 9], [1]]).torch()
    keys = QueryKeys(true, 3, Shard(None, 0, [0], [0]), sharded=False)
    shared = keys.shared(0, 5)
    assert [(shared.row(i) - 3).tolist() for i in range(5)] == [[0, 3], [1, 3], [2], [0, 1, 3], [4]]
    part = keys.shared(1, 4)  # a micro-batch of the same window
    assert [part.row(i).tolist() for i in range(3)] == [shared.row(i).tolist() for i in range(1, 4)]


def test_drawn_pairs_are_of_labels_alone(tiny_encoder: str, data: XMCDataset, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="query_keys"):
        make_trainer(
            tiny_encoder,
            data,
            tmp_path,
            label_strategy="in_batch",
            num_positives=1,
            drawn_pairs=True,
            query_keys=True,
        )
