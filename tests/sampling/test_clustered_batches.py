"""The sampler: every query once but for a remainder that rotates, whole clusters, a constant length, its state."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hf_xmc.sampling.clustered_batches import ClusteredBatchSampler


def embeddings(rows: int, seed: int = 0) -> Tensor:
    return torch.randn(rows, 8, generator=torch.Generator().manual_seed(seed))


def batches(sampler: ClusteredBatchSampler, epoch: int) -> list[list[int]]:
    sampler.set_epoch(epoch)
    return list(sampler)


def clustered(rows: int, batch: int, **settings: Any) -> ClusteredBatchSampler:
    sampler = ClusteredBatchSampler(rows, batch, **settings)
    sampler.update(embeddings(rows), 0)
    return sampler


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 150), batch=st.integers(1, 40), size=st.integers(1, 40), seed=st.integers(0, 3), is_random=...
)
def test_an_epoch(rows: int, batch: int, size: int, seed: int, is_random: bool) -> None:
    sampler = ClusteredBatchSampler(rows, batch, size, seed=seed)
    if not is_random:
        sampler.update(embeddings(rows), 0)
    for epoch in range(4):
        found = batches(sampler, epoch)
        assert len(found) == len(sampler) == max(1, rows // batch)
        assert {len(b) for b in found} == {min(rows, batch)}
        seen = [row for b in found for row in b]
        assert len(set(seen)) == len(seen) == (rows - rows % batch if rows >= batch else rows)
        assert set(seen) <= set(range(rows))
        assert found == batches(sampler, epoch)


@settings(max_examples=60, deadline=None)
@given(rows=st.integers(2, 150), batch=st.integers(1, 40), size=st.integers(1, 40))
def test_batches_are_unions_of_whole_clusters(rows: int, batch: int, size: int) -> None:
    sampler = clustered(rows, batch, cluster_size=size)
    if rows < batch:
        return
    assert sampler.clusters is not None
    order, bounds = sampler.clusters
    cluster_of = np.empty(rows, dtype=int)
    cluster_of[order] = np.repeat(np.arange(len(bounds) - 1), np.diff(bounds))
    for epoch in range(3):
        for found in batches(sampler, epoch):
            parts = cluster_of[found].reshape(-1, sampler.size)  # one cluster a line
            assert (parts == parts[:, :1]).all()
            assert len(set(parts[:, 0])) == len(parts)


@settings(max_examples=60, deadline=None)
@given(rows=st.integers(2, 100), batch=st.integers(2, 40), size=st.integers(1, 40))
def test_the_remainder_rotates(rows: int, batch: int, size: int) -> None:
    """Of clusters that fill no batch, and of rows by which one is larger, each has its turn before any has two."""
    sampler = clustered(rows, batch, cluster_size=size)
    if rows < batch:
        return
    assert sampler.clusters is not None
    order, bounds = sampler.clusters
    out = np.zeros(rows, dtype=int)  # epochs that a row was left out of along with its cluster
    alone = np.zeros(rows, dtype=int)  # and without it
    for epoch in range(60):
        seen = np.zeros(rows, dtype=bool)
        seen[np.ravel(batches(sampler, epoch))] = True
        for a, b in pairwise(bounds):
            mine = order[a:b]
            (alone if seen[mine].any() else out)[mine[~seen[mine]]] += 1
    assert np.ptp(out) <= 1
    count = len(bounds) - 1
    assert out.sum() > 0 or count == len(sampler) * (batch // sampler.size)
    never_out = out.max() == 0
    for a, b in pairwise(bounds):
        assert not never_out or np.ptp(alone[order[a:b]]) <= 1
        assert (alone[order[a:b]] > 0).any() == (b - a > sampler.size)


def test_random_batches_leave_out_each_query_in_turn() -> None:
    sampler = ClusteredBatchSampler(10, 4, start_epoch=100)
    out = [set(range(10)) - set(np.ravel(batches(sampler, epoch))) for epoch in range(10)]
    assert all(len(rows) == 2 for rows in out)
    assert set().union(*out[:5]) == set().union(*out[5:]) == set(range(10))


def test_order_depends_on_seed_and_epoch() -> None:
    first, other = (clustered(64, 16, cluster_size=4, seed=seed) for seed in (0, 1))
    assert batches(first, 0) != batches(first, 1)
    assert batches(first, 0) != batches(other, 0)
    mean = np.mean([np.ptp(batch) for batch in batches(first, 0)])
    assert mean > 16  # not the order of rows


def test_set_epoch_is_idempotent_and_a_running_epoch_goes_on() -> None:
    sampler = clustered(64, 16, cluster_size=4)
    expected = batches(sampler, 3)
    running = iter(sampler)
    found = [next(running)]
    sampler.set_epoch(4)
    sampler.update(embeddings(64, seed=1), 4)
    assert found + list(running) == expected
    sampler.set_epoch(4)
    sampler.set_epoch(4)
    assert batches(sampler, 4) != expected


@pytest.mark.parametrize(
    ("batch", "asked", "size"), [(128, 32, 32), (96, 32, 32), (50, 32, 25), (97, 32, 97), (97, 5, 1), (16, 999, 16)]
)
def test_the_size_is_a_divisor_of_the_batch(batch: int, asked: int, size: int) -> None:
    assert ClusteredBatchSampler(1000, batch, asked).size_at(0) == size


def run(sampler: ClusteredBatchSampler, epochs: range) -> tuple[list[int], list[int], list[Any]]:
    """Train: epochs with a refresh, sizes, batches."""
    refreshed, sizes, seen = [], [], []
    for epoch in epochs:
        if sampler.due(epoch):
            refreshed.append(epoch)
            sampler.update(embeddings(sampler.num_queries, seed=epoch), epoch)
        assert not sampler.due(epoch)
        seen.append(batches(sampler, epoch))
        sizes.append(sampler.size)
        assert sampler.report() == {"cluster_size": sampler.size}
    return refreshed, sizes, seen


SCHEDULE: dict[str, Any] = {"cluster_size": 2, "start_epoch": 2, "refresh_epochs": 3, "growth_epochs": [0, 4, 7, 9]}


def test_the_schedule() -> None:
    refreshed, sizes, _ = run(ClusteredBatchSampler(100, 16, **SCHEDULE), range(12))
    assert refreshed == [2, 4, 5, 7, 8, 11]  # every third from 2 on, and where clusters grow; at 9 they cannot
    assert sizes == [1, 1, 4, 4, 8, 8, 8, 16, 16, 16, 16, 16]


def test_nothing_is_asked_for_where_clusters_change_nothing() -> None:
    for sampler in (ClusteredBatchSampler(16, 16), ClusteredBatchSampler(9, 16), ClusteredBatchSampler(100, 1)):
        assert run(sampler, range(7))[0] == []


@pytest.mark.parametrize("stop", [1, 3, 6])
def test_state_goes_on_to_the_same_batches(stop: int) -> None:
    whole = ClusteredBatchSampler(100, 16, **SCHEDULE)
    refreshed, _, expected = run(whole, range(10))
    first = ClusteredBatchSampler(100, 16, **SCHEDULE)
    run(first, range(stop + 1))
    second = ClusteredBatchSampler(100, 16, **SCHEDULE)
    second.load_state_dict(first.state_dict())
    assert second.epoch == stop
    later, _, found = run(second, range(stop, 10))  # the epoch that was under way is begun again
    assert found == expected[stop:]
    assert later == [epoch for epoch in refreshed if epoch > stop]


def test_state_of_other_batches_is_refused() -> None:
    state = clustered(100, 16).state_dict()
    with pytest.raises(ValueError, match="num_queries of 100, but here it is 99"):
        ClusteredBatchSampler(99, 16).load_state_dict(state)
    with pytest.raises(ValueError, match="batch_size of 16, but here it is 8"):
        ClusteredBatchSampler(100, 8).load_state_dict(state)


def test_another_schedule_after_a_restart_is_taken_up() -> None:
    sampler = ClusteredBatchSampler(100, 16, cluster_size=8)
    sampler.load_state_dict(clustered(100, 16, cluster_size=4).state_dict())
    assert not sampler.due(0)  # the epoch goes on as it began
    assert sampler.due(1)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_embeddings_of_any_type(dtype: torch.dtype) -> None:
    sampler = ClusteredBatchSampler(40, 8, 4, method="kmeans")
    sampler.update(embeddings(40).to(dtype).requires_grad_(), 0)
    assert sampler.size == 4


def test_what_cannot_be_is_refused() -> None:
    for name in ("num_queries", "batch_size", "cluster_size", "refresh_epochs"):
        with pytest.raises(ValueError, match=f"{name} is 0"):
            ClusteredBatchSampler(**{"num_queries": 4, "batch_size": 2, name: 0})
    with pytest.raises(ValueError, match="method is 'none'"):
        ClusteredBatchSampler(4, 2, method="none")
    with pytest.raises(ValueError, match="embeddings of 3 queries, but 4 queries"):
        ClusteredBatchSampler(4, 2).update(embeddings(3), 0)
