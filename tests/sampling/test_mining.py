from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from hf_xmc import Positives, TopK
from hf_xmc.retrieval.search import exact_search
from hf_xmc.sampling.mining import are_negative, keep_margins, mine_negatives

N, L, D = 60, 45, 4


def reference(
    scores: np.ndarray,
    positives: Positives,
    ignored: Positives,
    depth: int,
    absolute: float | None,
    relative: float | None,
) -> list[list[int]]:
    """Row by row, over all labels."""
    table = []
    for row, of_row in enumerate(scores):
        known = [label for label in positives.row(row) if label not in ignored.row(row)]
        best = max(of_row[known], default=np.inf)
        limit = np.inf
        if known and absolute is not None:
            limit = best - absolute
        if known and relative is not None:
            limit = min(limit, best - relative * abs(best))
        free = [
            x for x in range(L) if x not in positives.row(row) and x not in ignored.row(row) and of_row[x] <= limit
        ]
        free.sort(key=lambda label: (-of_row[label], label))
        table.append((free + [-1] * depth)[:depth])
    return table


@pytest.fixture
def made() -> tuple[np.ndarray, np.ndarray, Positives, Positives]:
    """Whole numbers, so that many scores are equal; some rows without positives, some whose positives are ignored."""
    random = np.random.default_rng(0)
    queries, labels = (random.integers(-2, 3, size=(n, D)).astype(np.float32) for n in (N, L))
    positives = Positives.from_lists([random.choice(L, size=i % 4, replace=False).tolist() for i in range(N)])
    ignored = [random.choice(L, size=i % 3, replace=False).tolist() for i in range(N)]
    for row in range(3, N, 9):
        ignored[row] = positives.row(row).tolist()
    return queries, labels, positives, Positives.from_lists(ignored)


@pytest.mark.parametrize(
    ("depth", "absolute", "relative"), [(5, None, None), (L, None, None), (9, 2.0, None), (9, None, 0.3), (9, 0, 0.5)]
)
def test_as_a_search_over_all_labels(made: Any, depth: int, absolute: float | None, relative: float | None) -> None:
    queries, labels, positives, ignored = made
    expected = reference(queries @ labels.T, positives, ignored, depth, absolute, relative)
    for k in (L, L + 7):
        topk = exact_search(queries, labels, k)
        found = mine_negatives(topk, positives, ignored, depth, absolute, relative)
        assert found.dtype == np.int32
        assert found.tolist() == expected


def test_margins_hold_whatever_the_depth_of_the_search(made: Any) -> None:
    """A positive beyond the results scores below all of them: nothing keeps its margin."""
    queries, labels, positives, ignored = made
    whole = mine_negatives(exact_search(queries, labels, L), positives, ignored, L, absolute_margin=0.5)
    scores = queries @ labels.T
    for k in (1, 4, 10):
        topk = exact_search(queries, labels, k)
        found = mine_negatives(topk, positives, ignored, L, absolute_margin=0.5)
        for row in range(N):
            wanted = [label for label in whole[row] if label in topk.ids[row]]
            assert [label for label in found[row] if label >= 0] == wanted
    assert (whole[:, 0] < 0).any(), "some have none"
    assert scores.shape == (N, L)


def test_a_margin_is_below_a_best_score_that_is_negative() -> None:
    topk = TopK(np.array([[0, 1, 2, 3]]), np.array([[-1.0, -1.04, -1.06, -3.0]]))
    assert mine_negatives(topk, Positives.from_lists([[0]]), depth=3, relative_margin=0.05).tolist() == [[2, 3, -1]]


def test_nothing_found_and_all_filtered() -> None:
    nothing = TopK(np.empty((2, 0), dtype=np.int64), np.empty((2, 0), dtype=np.float32))
    positives = Positives.from_lists([[0], []])
    assert mine_negatives(nothing, positives, depth=2, absolute_margin=0.1).tolist() == [[-1, -1], [-1, -1]]
    topk = TopK(torch.tensor([[0, -1], [1, 0]]), torch.tensor([[0.5, -torch.inf], [0.5, 0.5]]))
    assert mine_negatives(topk, positives, Positives.from_lists([[], [0]]), depth=1).tolist() == [[-1], [1]]
    assert mine_negatives(topk, Positives.from_lists([[0], [0, 1]]), depth=1).tolist() == [[-1], [-1]]
    none = TopK(np.empty((0, 3), dtype=np.int64), np.empty((0, 3), dtype=np.float32))
    assert mine_negatives(none, Positives.from_lists([]), depth=4).shape == (0, 4)


def test_other_numbers_of_rows_are_named() -> None:
    topk = TopK.from_lists([[0], [1]])
    with pytest.raises(ValueError, match="2 queries, but positives have 1 row"):
        mine_negatives(topk, Positives.from_lists([[0]]))
    with pytest.raises(ValueError, match="2 queries, but ignored pairs have 1 row"):
        mine_negatives(topk, Positives.from_lists([[0], []]), Positives.from_lists([[0]]))


def test_masks_say_why_a_label_is_left_out(made: Any) -> None:
    queries, labels, positives, ignored = made
    topk = exact_search(queries, labels, 10).sorted()
    kept = are_negative(topk, positives, ignored) & keep_margins(topk, positives, ignored, 1.0)
    table = mine_negatives(topk, positives, ignored, 10, 1.0)
    assert kept.sum(1).tolist() == (table >= 0).sum(1).tolist()
    assert keep_margins(topk, positives, ignored).all()
