from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from hf_xmc import Positives
from hf_xmc.sampling.draws import draw_pairs, mix, random_keys


def some_pairs(num_rows: int = 40) -> Positives:
    random = np.random.default_rng(0)
    rows = [np.sort(random.choice(50, size=n, replace=False)).tolist() for n in random.integers(0, 8, num_rows)]
    return Positives.from_lists(rows, [[float(id_ + 1) for id_ in row] for row in rows]).torch()


@pytest.mark.parametrize("count", [1, 3, 100])
def test_so_many_of_each_row_with_their_weights(count: int) -> None:
    pairs = some_pairs()
    drawn = draw_pairs(pairs, torch.arange(len(pairs)), count, seed=1, step=5)
    assert drawn.counts.tolist() == pairs.counts.clamp(max=count).tolist()
    for row in range(len(pairs)):
        assert set(drawn.row(row).tolist()) <= set(pairs.row(row).tolist())
    drawn.validate()  # sorted
    assert drawn.weights.tolist() == (drawn.indices + 1).tolist()


def test_a_draw_does_not_depend_on_how_the_batch_is_cut() -> None:
    pairs, rows = some_pairs(), torch.arange(40) * 7 + 1_000_000_000
    whole = draw_pairs(pairs, rows, 2, seed=3, step=11)
    for some in (range(15, 40), range(39, -1, -3)):
        part = pairs.take(list(some)).torch()
        found = draw_pairs(part, rows[list(some)], 2, seed=3, step=11)
        assert [found.row(i).tolist() for i in range(len(some))] == [whole.row(i).tolist() for i in some]


def test_each_is_drawn_as_often_as_the_others() -> None:
    pairs = Positives.from_lists([[3, 4, 1_000_000], [3, 4, 5]]).torch()
    rows, times = torch.tensor([0, 1]), 2000
    draws = [draw_pairs(pairs, rows, 1, seed=7, step=step).indices.tolist() for step in range(times)]
    first, second = zip(*draws, strict=True)
    for drawn in (first, second):
        counts = np.unique(drawn, return_counts=True)[1]
        assert counts == pytest.approx(np.full(3, times / 3), abs=4 * np.sqrt(times * 2 / 9))
    both_three = np.mean([a == b == 3 for a, b in draws])
    assert both_three == pytest.approx(1 / 9, abs=0.025), "two queries draw independently"
    again = [draw_pairs(pairs, rows, 1, seed=8, step=step).indices.tolist() for step in range(100)]
    assert again != draws[:100]
    repeats = np.mean([a == b for a, b in itertools.pairwise(first)])
    assert repeats == pytest.approx(1 / 3, abs=0.04), "so do two steps"


def test_what_is_excluded_or_weighs_nothing_is_not_drawn() -> None:
    weights = [[1.0, 1.0, 0.0], [1.0], [0.0]]
    pairs = Positives.from_lists([[1, 2, 3], [2], [5]], weights).torch()
    excluded = Positives.from_lists([[2, 9], [2], []]).torch()
    for step in range(20):
        drawn = draw_pairs(pairs, torch.arange(3), 2, 0, step, excluded)
        assert drawn.indptr.tolist() == [0, 1, 1, 1]
        assert drawn.indices.tolist() == [1]


def test_no_pairs_and_no_rows() -> None:
    for rows in ([], [[], []]):
        empty = Positives.from_lists(rows).torch()
        drawn = draw_pairs(empty, torch.arange(len(rows)), 1, 0, 0, empty)
        assert drawn.indptr.tolist() == [0] * (len(rows) + 1)


def test_keys_are_those_of_splitmix64() -> None:
    """The first outputs of the generator from state 0, as its published reference gives them."""
    states = torch.arange(3) * (0x9E3779B97F4A7C15 - 2**64)
    assert [x % 2**64 for x in mix(states).tolist()] == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    keys = random_keys(torch.arange(1000).repeat(4), torch.arange(4).repeat_interleave(1000), 2**40, 3)
    assert len(keys.unique()) == 4000
    assert keys.min() >= 0
    assert (keys.double() / 2**63).mean().item() == pytest.approx(0.5, abs=0.02)
