"""Conformal prediction sets: conformal risk control on the scores of true labels.

All guarantees here have one form. Each calibration query loses weight for true labels whose score is below the
threshold. The threshold t is the largest for which (weight lost + 1) / (n + 1) <= 1 - level holds, and the set of a
query contains every label with score >= t (Angelopoulos, Bates, Fisch, Lei, Schuster, "Conformal Risk Control"). The
weights determine what is guaranteed:

- 1 / |Y| for each true label: the mean share of true labels that are covered (false-negative rate);
- 1 for the true label of lowest score: all true labels are covered (the split conformal quantile of the lowest score);
- 1 / |Y in the bin| for each true label of a frequency bin: the share covered in this bin (Mondrian).

Guarantees are marginal, for queries exchangeable with those of the calibration, which must be used for nothing else.
They hold for an approximate index and rankings cut at K as well: a true label that was not found has score -inf and is
lost at every threshold.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hf_xmc.errors import DataError, SettingsError
from hf_xmc.metrics.breakdown import frequency_bands
from hf_xmc.types import Positives, TopK

CELLS = 2**23  # predictions compared at a time
ROUNDING = 1e-9  # 1 - 0.9 is not 0.1


@dataclass(frozen=True)
class Risk:
    """What calibration queries lose at each threshold, which determines the threshold of any coverage.

    Args:
        scores: of true labels, rising, `[M]`; -inf for labels that were not found.
        weights: what the query of each label loses without it, `[M]`.
        num_queries: n, including queries that lose nothing.

    >>> risk = Risk(np.array([0.2, 0.3, 0.5, 0.6]), np.array([1 / 3, 1 / 2, 1 / 2, 1 / 3]), 4)
    >>> risk.threshold(0.55)
    0.5
    """

    scores: np.ndarray
    weights: np.ndarray
    num_queries: int

    @classmethod
    def of(cls, scores: np.ndarray, weights: np.ndarray, num_queries: int) -> Risk:
        """From pairs in any order."""
        order = np.argsort(scores, kind="stable")
        return cls(np.asarray(scores)[order], np.asarray(weights)[order], num_queries)

    @property
    def reachable_level(self) -> float:
        """The largest coverage that can be guaranteed; labels that the search does not find lower it."""
        return 1.0 - (self.miss_rate * self.num_queries + 1) / (self.num_queries + 1)

    @property
    def miss_rate(self) -> float:
        """What a query loses on average at every threshold."""
        return float(self.weights[np.isneginf(self.scores)].sum()) / max(self.num_queries, 1)

    def threshold(self, level: float) -> float:
        """The largest threshold that guarantees the coverage `level`; labels with score >= threshold are in the set.

        Raises:
            SettingsError: a coverage outside (0, 1), or one that cannot be reached.
        """
        if not 0 < level < 1:
            raise SettingsError(f"level is {level}; it must be between 0 and 1, such as 0.9")
        if not self.reaches(level):
            raise SettingsError(
                f"A level of {level:.1%} cannot be promised: {self.num_queries:,} calibration queries lose "
                f"{self.miss_rate:.1%} on average to labels that the search does not find, so that at most "
                f"{max(self.reachable_level, 0):.1%} can",
                hint="search deeper (a larger k), calibrate on more queries, or use a lower level",
            )
        if not len(self.scores):
            return float("inf")
        budget = (1 - level + ROUNDING) * (self.num_queries + 1) - 1
        lost = np.cumsum(self.weights)
        # Raising t above a score loses all labels of that score: the sum after the last of equal scores counts.
        last = np.append(self.scores[1:] != self.scores[:-1], True)
        ends, kept = np.flatnonzero(last), lost[last] <= budget
        first_too_much = int(kept.argmin()) if not kept.all() else len(kept)
        if first_too_much == len(kept):
            return float("inf")
        return float(self.scores[ends[first_too_much]])

    def reaches(self, level: float) -> bool:
        """Whether the coverage can be guaranteed."""
        return self.reachable_level >= level - ROUNDING


def true_scores(topk: TopK, positives: Positives) -> np.ndarray:
    """The score of each true label, float64 `[nnz]` in the order of `positives.indices`; -inf if it was not found.

    >>> topk = TopK(np.array([[4, 2], [1, -1]]), np.array([[0.9, 0.3], [0.5, -np.inf]]))
    >>> true_scores(topk, Positives.from_lists([[2, 3], [1]]))
    array([ 0.3, -inf,  0.5])
    """
    if len(topk) != len(positives):
        raise DataError(f"Found predictions for {len(topk):,} queries, but positives of {len(positives):,}")
    truth = positives.numpy()
    found = np.full(len(truth.indices), -np.inf)
    rows_at_once = max(1, CELLS // max(topk.k, 1))
    for start in range(0, len(topk), rows_at_once):
        ids, scores = (np.asarray(x[start : start + rows_at_once]) for x in (topk.ids, topk.scores))
        pairs = slice(truth.indptr[start], truth.indptr[min(start + rows_at_once, len(truth))])
        wanted = truth.indices[pairs]
        if not len(wanted):
            continue
        stride = max(int(ids.max(initial=0)), int(wanted.max())) + 2  # one number per (row, id), padding included
        row_of_pair = np.repeat(np.arange(len(ids)), truth.counts[start : start + len(ids)])
        sought = row_of_pair * stride + wanted + 1
        keys = (np.arange(len(ids))[:, None] * stride + ids + 1).ravel()
        place = np.minimum(np.searchsorted(sought, keys), len(sought) - 1)
        match = np.flatnonzero(sought[place] == keys)
        np.maximum.at(found[pairs], place[match], scores.ravel()[match].astype(np.float64))
    return found


def false_negative_risk(scores: np.ndarray, positives: Positives) -> Risk:
    """The share of a query's true labels that are lost, given their `true_scores`. Queries without labels lose
    nothing."""
    counts = positives.numpy().counts
    return Risk.of(scores, np.repeat(1 / np.maximum(counts, 1), counts), len(counts))


def any_missing_risk(scores: np.ndarray, positives: Positives) -> Risk:
    """1 for a query that loses any true label."""
    truth = positives.numpy()
    some = truth.counts > 0
    worst = np.minimum.reduceat(scores, truth.indptr[:-1][some]) if some.any() else np.zeros(0)
    return Risk.of(worst, np.ones(len(worst)), len(truth))


def frequency_risks(scores: np.ndarray, positives: Positives, label_counts: np.ndarray) -> dict[str, Risk]:
    """For head, torso and tail: the share of a query's true labels in this bin that are lost, if it has any."""
    truth = positives.numpy()
    names, bin_of_label = frequency_bands(np.asarray(label_counts), "head")
    row_of_pair = np.repeat(np.arange(len(truth)), truth.counts)
    bins = bin_of_label[truth.indices]
    risks = {}
    for number, name in enumerate(names):
        rows = row_of_pair[bins == number]
        counts = np.bincount(rows, minlength=len(truth))
        risks[name] = Risk.of(scores[bins == number], 1 / counts[rows], int((counts > 0).sum()))
    return risks


def above(topk: TopK, thresholds: float | np.ndarray, unknown: float = float("inf")) -> Positives:
    """The labels of each query with score >= threshold, as a `Positives`.

    Args:
        topk: predictions.
        thresholds: one for all labels, or one per label, `[L]`.
        unknown: the threshold of labels with ids from L on, which were added later.

    >>> topk = TopK(np.array([[4, 2], [1, -1]]), np.array([[0.9, 0.3], [0.5, -np.inf]]))
    >>> above(topk, 0.4).indices.tolist()
    [4, 1]
    """
    ids, scores = np.asarray(topk.ids), np.asarray(topk.scores)
    if isinstance(thresholds, np.ndarray):
        limits = np.append(thresholds, unknown)[np.where(ids < len(thresholds), ids, -1)]
    else:
        limits = np.broadcast_to(thresholds, ids.shape)
    return chosen(ids, (ids >= 0) & (scores >= limits))


def chosen(ids: np.ndarray, mask: np.ndarray) -> Positives:
    """The marked ids of each row, sorted, as a `Positives`."""
    stride = int(ids.max(initial=0)) + 1
    keys = np.sort((np.arange(len(ids))[:, None] * stride + ids)[mask])  # one number per (row, id)
    indptr = np.concatenate([[0], np.cumsum(mask.sum(axis=1))]).astype(np.int64)
    return Positives(indptr, keys % stride)
