"""How far probabilities are from what happens: calibration errors of the first k predictions, reliability tables.

An error over all labels of a large catalogue says nothing: nearly all of them are wrong and nearly all scores small.
So only the first k predictions of each query count, as Ullah, Schultheis, Zhang, Babbar (2025) have it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

import numpy as np

from hf_xmc.metrics.hits import Hits, find_hits
from hf_xmc.types import Positives, TopK

NUM_BINS = 15


class ReliabilityBin(TypedDict):
    """One row of a reliability table."""

    count: int
    mean_score: float
    share_right: float


def calibration_metrics(
    topk: TopK,
    positives: Positives,
    ks: Sequence[int] = (1, 5, 10),
    filters: Positives | None = None,
    num_bins: int = NUM_BINS,
) -> dict[str, float]:
    """Calibration errors of the first k predictions, their scores taken as probabilities.

    - `ECE@k`: over equal bins of [0, 1], the share of predictions in a bin times |mean score - share right|, summed.
    - `over@k`, `under@k`: its parts from bins where the mean score is too high, or too low.
    - `ACE@k`: the same as ECE over bins that hold equally many predictions.
    - `Brier@k`: mean squared difference of score and truth.

    Scores below 0 or above 1 count in the first or last bin with the value they have.

    >>> topk = TopK(np.arange(6)[None], np.array([[0.9, 0.8, 0.7, 0.3, 0.2, 0.1]]))
    >>> found = calibration_metrics(topk, Positives.from_lists([[0, 1, 4]]), ks=(6,), num_bins=2)
    >>> round(found["ECE@6"], 4), round(found["Brier@6"], 4)
    (0.1333, 0.2133)
    """
    result = {}
    for k in ks:
        scores, right = scored_predictions(find_hits(topk, positives, k, filters), topk)
        gaps = [(row["count"], row["mean_score"] - row["share_right"]) for row in reliability(scores, right, num_bins)]
        total = max(len(scores), 1)
        over, under = (sum(n * max(sign * gap, 0.0) for n, gap in gaps) / total for sign in (1, -1))
        adaptive = reliability(scores, right, num_bins, equal_count=True)
        result[f"ECE@{k}"] = over + under
        result[f"over@{k}"], result[f"under@{k}"] = over, under
        result[f"ACE@{k}"] = sum(r["count"] * abs(r["mean_score"] - r["share_right"]) for r in adaptive) / total
        result[f"Brier@{k}"] = float(np.square(scores - right).mean()) if len(scores) else 0.0
    return result


def reliability(
    scores: np.ndarray, right: np.ndarray, num_bins: int = NUM_BINS, equal_count: bool = False
) -> list[ReliabilityBin]:
    """The reliability table: count, mean score and share of right predictions of each bin that is not empty.

    Args:
        scores, right: of each prediction, `[P]`.
        equal_count: bins of equally many predictions, in place of equal parts of [0, 1].

    >>> reliability(np.array([0.1, 0.3, 0.6, 0.8]), np.array([False, False, True, True]), num_bins=2)[1]
    {'count': 2, 'mean_score': 0.7, 'share_right': 1.0}
    """
    scores, right = np.asarray(scores, dtype=np.float64), np.asarray(right, dtype=np.float64)
    if equal_count:
        bins = np.empty(len(scores), dtype=np.int64)
        bins[np.argsort(scores, kind="stable")] = np.arange(len(scores)) * num_bins // max(len(scores), 1)
    else:
        bins = np.clip((scores * num_bins).astype(np.int64), 0, num_bins - 1)
    count = np.bincount(bins, minlength=num_bins)
    total, hits = (np.bincount(bins, weights=x, minlength=num_bins) for x in (scores, right))
    return [
        {"count": int(count[i]), "mean_score": float(total[i] / count[i]), "share_right": float(hits[i] / count[i])}
        for i in np.flatnonzero(count)
    ]


def scored_predictions(hits: Hits, topk: TopK) -> tuple[np.ndarray, np.ndarray]:
    """Score and truth of every finite-scored prediction that counts, `[P]` each."""
    given = topk.sorted()
    # The ranks of hits are those after filtering, so scores are found by id: both sides sorted by (row, id).
    stride = max(int(given.ids.max(initial=0)), int(hits.ids.max(initial=0))) + 2
    rows = np.arange(len(given.ids))[:, None] * stride
    keys, where = np.unique((rows + given.ids + 1).ravel(), return_index=True)  # first: the best of a repeated label
    wanted = (rows + hits.ids + 1)[hits.ids >= 0]
    scores = given.scores.ravel()[where[np.searchsorted(keys, wanted)]].astype(np.float64)
    finite = np.isfinite(scores)
    return scores[finite], hits.hit[hits.ids >= 0][finite]
