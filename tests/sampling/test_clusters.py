"""Clusters of equal size: balance, order, what becomes of odd input, and that what is alike comes together."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_xmc.sampling import clusters as module
from hf_xmc.sampling.clusters import METHODS, Clusters, balanced_clusters


def assert_balanced(found: Clusters, rows: int, count: int) -> None:
    order, bounds = found
    assert sorted(order.tolist()) == list(range(rows))
    assert (len(bounds), bounds[0], bounds[-1]) == (count + 1, 0, rows)
    assert set(np.diff(bounds)) <= {rows // count, -(-rows // count)}
    assert all(np.all(np.diff(order[a:b]) > 0) for a, b in pairwise(bounds))


def planted(groups: int, size: int, dim: int = 16, noise: float = 0.3, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Rows around random directions, shuffled, and the group of each."""
    rng = np.random.default_rng(seed)
    group = rng.permutation(np.repeat(np.arange(groups), size))
    rows = rng.standard_normal((groups, dim))[group] + noise * rng.standard_normal((groups * size, dim))
    return rows.astype(np.float32), group


def similarity(rows: np.ndarray, found: Clusters) -> float:
    """Mean cosine of two rows of a cluster."""
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    sizes = np.diff(found.bounds)
    sums = np.add.reduceat(rows[found.order], found.bounds[:-1], axis=0)
    return float(np.mean(((sums**2).sum(1) - sizes) / (sizes * (sizes - 1))))


@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=40, deadline=None)
@given(rows=st.integers(1, 90), count=st.integers(1, 90), dim=st.integers(1, 5), values=st.sampled_from([2, 1000]))
def test_sizes_differ_by_at_most_one(method: str, rows: int, count: int, dim: int, values: int) -> None:
    count = min(rows, count)
    table = np.random.default_rng(rows).integers(values, size=(rows, dim)).astype(np.float32)  # many equal rows of 2
    assert_balanced(balanced_clusters(table, count, method=method), rows, count)


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with a million rows: nodes that are not gathered, axes from a sample, several coarse centroids."""
    for name, value in {"BLOCK": 128, "SAMPLE": 64, "CHUNK": 50, "ROWS_PER_CENTROID": 16}.items():
        monkeypatch.setattr(module, name, value)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.usefixtures("small_blocks")
def test_nodes_larger_than_a_block(method: str) -> None:
    rows, _ = planted(groups=64, size=16)
    rows = rows[:1001]
    found = balanced_clusters(rows, 62, method=method)
    assert_balanced(found, 1001, 62)
    assert similarity(rows, found) > 0.6
    random = Clusters(np.random.default_rng(0).permutation(1001), found.bounds)
    assert abs(similarity(rows, random)) < 0.1


@pytest.mark.parametrize("method", METHODS)
def test_planted_clusters_are_found(method: str) -> None:
    rows, group = planted(groups=32, size=16)
    order, bounds = balanced_clusters(rows, 32, method=method)
    pure = [len(set(group[order[a:b]])) == 1 for a, b in pairwise(bounds)]
    assert np.mean(pure) > 0.3  # of random ones none is
    assert similarity(rows, Clusters(order, bounds)) > 0.7


def test_two_groups_are_parted_exactly() -> None:
    rows, group = planted(groups=2, size=50, noise=0.1)
    order, _ = balanced_clusters(rows, 2)
    assert len(set(group[order[:50]])) == len(set(group[order[50:]])) == 1


def test_length_does_not_matter() -> None:
    rows, _ = planted(groups=8, size=8)
    lengths = 2.0 ** np.random.default_rng(1).integers(-8, 8, size=(len(rows), 1))
    assert np.array_equal(balanced_clusters(rows, 8).order, balanced_clusters(rows * lengths, 8).order)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.usefixtures("small_blocks")
def test_the_seed_decides(method: str) -> None:
    rows, _ = planted(groups=50, size=20)
    first, again, other = (balanced_clusters(rows, 90, seed, method) for seed in (1, 1, 2))
    assert np.array_equal(first.order, again.order)
    assert not np.array_equal(first.order, other.order)


@pytest.mark.usefixtures("small_blocks")
def test_threads_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, _ = planted(groups=50, size=20)
    one = balanced_clusters(rows, 90)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    assert np.array_equal(one.order, balanced_clusters(rows, 90).order)


def test_half_precision_and_memory_maps(tmp_path: object) -> None:
    rows = planted(groups=8, size=8)[0].astype(np.float16)
    np.save(f"{tmp_path}/rows.npy", rows)
    mapped = np.load(f"{tmp_path}/rows.npy", mmap_mode="r")
    expected = balanced_clusters(rows.astype(np.float32), 8)
    assert np.array_equal(balanced_clusters(rows, 8).order, expected.order)
    assert np.array_equal(balanced_clusters(mapped, 8).order, expected.order)


@pytest.mark.usefixtures("small_blocks")
def test_equal_rows_fall_in_order_of_their_number() -> None:
    order, _ = balanced_clusters(np.ones((300, 3), dtype=np.float32), 30)
    assert order.tolist() == list(range(300))


def test_equal_texts_come_together_despite_noise() -> None:
    texts, _ = planted(groups=10, size=1)
    which = np.random.default_rng(0).permutation(np.repeat(np.arange(10), 8))
    noise = 1e-7 * np.random.default_rng(1).standard_normal((2, 80, 16)).astype(np.float32)
    first, second = (balanced_clusters(texts[which] + part, 10).order for part in noise)
    assert np.array_equal(first, second)


def test_rows_of_zeros_and_one_row() -> None:
    assert_balanced(balanced_clusters(np.zeros((9, 4), dtype=np.float32), 4), 9, 4)
    assert balanced_clusters(np.ones((1, 1)), 1).order.tolist() == [0]
    assert balanced_clusters(np.arange(4.0)[:, None], 1).bounds.tolist() == [0, 4]


def test_the_input_stays_as_it_is() -> None:
    rows, _ = planted(groups=8, size=8)
    before = rows.copy()
    for method in METHODS:
        balanced_clusters(rows, 8, method=method)
    assert np.array_equal(rows, before)


def test_what_cannot_be_clustered_is_refused() -> None:
    rows = np.ones((4, 2), dtype=np.float32)
    for count in (0, 5):
        with pytest.raises(ValueError, match=f"{count} clusters of 4 rows"):
            balanced_clusters(rows, count)
    with pytest.raises(ValueError, match="0 rows"):
        balanced_clusters(rows[:0], 1)
    with pytest.raises(ValueError, match=r"shape \(4,\)"):
        balanced_clusters(rows[:, 0], 2)
    with pytest.raises(ValueError, match="method is 'random'"):
        balanced_clusters(rows, 2, method="random")
    for wrong in (np.nan, np.inf):
        rows[2, 1] = wrong
        with pytest.raises(ValueError, match="1 of 4 embeddings are not finite, the first of them in row 2"):
            balanced_clusters(rows, 2)
