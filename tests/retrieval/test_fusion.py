"""Fused rankings, and learned weights."""

from __future__ import annotations

import numpy as np
import pytest

from hf_xmc import Positives, TopK
from hf_xmc.retrieval.channels.query_memory import QueryMemory
from hf_xmc.retrieval.fusion import Ranked, tune_channel, weighted_sum
from hf_xmc.retrieval.search import exact_search
from tests.retrieval.made import fuse, unit, world

FEW = (0.1, 0.3, 0.6, 0.9)


def test_three_rankings_summed_by_hand() -> None:
    labels = Ranked(TopK(np.array([[0, 1]]), np.array([[0.8, 0.6]])), 0.5, complete=False)
    votes = Ranked(TopK(np.array([[1, 7]]), np.array([[0.75, 0.25]])), 0.3, complete=True)
    words = Ranked(TopK(np.array([[7, 3]]), np.array([[0.9, 0.5]])), 0.2, complete=False)
    found = weighted_sum([labels, votes, words], k=5)
    by_id = dict(zip(found.ids[0].tolist(), found.scores[0].tolist(), strict=True))
    assert by_id == {
        0: pytest.approx(0.5 * 0.8 + 0.2 * 0.5),
        1: pytest.approx(0.5 * 0.6 + 0.3 * 0.75 + 0.2 * 0.5),
        3: pytest.approx(0.5 * 0.6 + 0.2 * 0.5),
        7: pytest.approx(0.5 * 0.6 + 0.3 * 0.25 + 0.2 * 0.9),
        -1: -np.inf,
    }
    assert found.scores[0].tolist() == sorted(found.scores[0].tolist(), reverse=True)


def test_fuse_equals_dense_sums() -> None:
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(30, 12)).astype(np.float32)
    labels = exact_search(np.eye(30), scores.T, k=8)
    votes = np.where(rng.random((30, 12)) < 0.3, rng.random((30, 12)), 0).astype(np.float32)
    memory = TopK.from_lists([np.flatnonzero(row).tolist() for row in votes])
    given = np.where(memory.ids >= 0, np.take_along_axis(votes, np.maximum(memory.ids, 0), 1), -np.inf)
    found = fuse(labels, TopK(memory.ids, given), weight=0.3, k=12)
    for row in range(30):
        floor = labels.scores[row, 7]
        for label, score in zip(found.ids[row], found.scores[row], strict=True):
            if label >= 0:
                own = scores[row, label] if label in labels.ids[row] else floor
                assert score == pytest.approx(0.7 * own + 0.3 * votes[row, label], abs=1e-5)
        assert (found.ids[row] >= 0).sum() == len(set(labels.ids[row]) | set(np.flatnonzero(votes[row])))
    assert np.array_equal(fuse(labels, TopK(memory.ids, given), 0.0, 8).ids, labels.ids)
    with pytest.raises(ValueError, match="different numbers of queries: 30, 29"):
        fuse(labels, TopK(memory.ids[:29], given[:29]), 0.5, 3)


def test_tuning_takes_what_helps_and_nothing_that_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(QueryMemory.versions, "__defaults__", ((20,), (0.05,)))
    queries, truth = world(600)
    held, held_truth = world(200, seed=1)
    noise = unit(np.random.default_rng(5).normal(size=(25, 16)))
    centres = unit(np.random.default_rng(99).normal(size=(25, 16)))
    memory = QueryMemory.build(queries, truth, 25)
    tuned, table = tune_channel(memory, exact_search(held, noise, 25), None, held, held_truth, weights=FEW)
    assert tuned.weight > 0.5  # label vectors that say nothing
    assert table[0]["weight"] == 0
    assert table[0]["P@1"] < max(row["P@1"] for row in table) - 0.3
    shuffled = QueryMemory.build(queries, truth.take(np.random.default_rng(0).permutation(600)), 25)
    tuned, table = tune_channel(shuffled, exact_search(held, centres, 25), None, held, held_truth, weights=FEW)
    assert tuned.weight <= 0.3  # a memory that says nothing
    filters = Positives.from_lists([held_truth.row(i)[:1].tolist() for i in range(200)])
    labels = exact_search(held, centres, 25)
    _, filtered = tune_channel(memory, labels, None, held, held_truth, filters=filters, weights=FEW)
    assert filtered[0]["P@1"] < table[0]["P@1"]
