"""Calibration: errors of the probabilities of the first k predictions, and reliability tables.

An error over all labels of a large catalogue is uninformative, because nearly all of them are wrong and have small
scores. Only the first k predictions of each query are evaluated, as in Ullah, Schultheis, Zhang and Babbar (2025).
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
    """Calibration errors of the first k predictions, whose scores are interpreted as probabilities.

    - `ECE@k`: the sum over equally wide bins of [0, 1] of the share of predictions in the bin times |mean score -
      share right|.
    - `over@k`, `under@k`: the parts of ECE from bins whose mean score is too high or too low.
    - `ACE@k`: as ECE, over bins with equally many predictions.
    - `Brier@k`: mean squared difference between score and truth.

    Scores below 0 or above 1 are put into the first or last bin with their actual value.

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
    """The reliability table: count, mean score and share of right predictions for each non-empty bin.

    Args:
        scores, right: score of each prediction and whether it is right, `[P]`.
        equal_count: use bins with equally many predictions instead of equally wide bins of [0, 1].

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
    """Score and truth of every evaluated prediction with a finite score, `[P]` each."""
    given = topk.sorted()
    # The ranks of hits are those after filtering, so scores are found by id: both sides sorted by (row, id).
    stride = max(int(given.ids.max(initial=0)), int(hits.ids.max(initial=0))) + 2
    rows = np.arange(len(given.ids))[:, None] * stride
    keys, where = np.unique((rows + given.ids + 1).ravel(), return_index=True)  # first: the best of a repeated label
    wanted = (rows + hits.ids + 1)[hits.ids >= 0]
    scores = given.scores.ravel()[where[np.searchsorted(keys, wanted)]].astype(np.float64)
    finite = np.isfinite(scores)
    return scores[finite], hits.hit[hits.ids >= 0][finite]
