"""Label sets with a guarantee: conformal risk control on the scores of true labels.

All statements here have one form. Each calibration query loses weight where a true label's score is below the
threshold; the largest threshold t is taken for which (weight lost + 1) / (n + 1) <= 1 - level holds, and the set of a
query is every label with score >= t (Angelopoulos, Bates, Fisch, Lei, Schuster, "Conformal Risk Control"). What weighs
decides what is promised:

- each true label 1 / |Y|: the mean share of true labels that are covered (false-negative rate);
- the worst true label 1: all true labels are covered, which is the split conformal quantile of the smallest score;
- each true label of a frequency bin 1 / |Y in the bin|: the share covered in this bin (Mondrian).

Guarantees are marginal, for queries exchangeable with those of the calibration, which may be used for nothing else.
They hold through an approximate index and a cut at K: a true label that was not found has score -inf, is lost at every
threshold, and is counted as such.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hf_xmc.metrics.breakdown import frequency_bands
from hf_xmc.types import Positives, TopK

CELLS = 2**23  # predictions that are looked at at a time
ROUNDING = 1e-9  # 1 - 0.9 is not 0.1


@dataclass(frozen=True)
class Risk:
    """What calibration queries lose at each threshold: all that is needed for any level.

    Args:
        scores: of true labels, rising, `[M]`; -inf where one was not found.
        weights: what its query loses without it, `[M]`.
        num_queries: n; queries that lose nothing at all are counted in it.

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
        """The largest level that can be promised: below 1 for every label that search does not find."""
        return 1.0 - (self.miss_rate * self.num_queries + 1) / (self.num_queries + 1)

    @property
    def miss_rate(self) -> float:
        """What a query loses whatever the threshold, on average."""
        return float(self.weights[np.isneginf(self.scores)].sum()) / max(self.num_queries, 1)

    def threshold(self, level: float) -> float:
        """The largest threshold that keeps the promise at `level`; labels with score >= threshold are in the set.

        Raises:
            ValueError: a level outside (0, 1), or one that cannot be reached.
        """
        if not 0 < level < 1:
            raise ValueError(f"level is {level}; it must lie between 0 and 1, as 0.9.")
        if not self.reaches(level):
            raise ValueError(
                f"A level of {level:.1%} cannot be promised: {self.num_queries:,} calibration queries lose "
                f"{self.miss_rate:.1%} on average to labels that the search does not find, so that at most "
                f"{max(self.reachable_level, 0):.1%} can. Search deeper (a larger k), calibrate on more queries, or "
                "ask for a lower level."
            )
        if not len(self.scores):
            return float("inf")
        budget = (1 - level + ROUNDING) * (self.num_queries + 1) - 1
        lost = np.cumsum(self.weights)
        # Raising t over all labels of one score loses all of them: the sum after the last of equal scores counts.
        last = np.append(self.scores[1:] != self.scores[:-1], True)
        ends, kept = np.flatnonzero(last), lost[last] <= budget
        first_too_much = int(kept.argmin()) if not kept.all() else len(kept)
        if first_too_much == len(kept):
            return float("inf")
        return float(self.scores[ends[first_too_much]])

    def reaches(self, level: float) -> bool:
        """Whether the level can be promised."""
        return self.reachable_level >= level - ROUNDING


def true_scores(topk: TopK, positives: Positives) -> np.ndarray:
    """The score of each true label, float64 `[nnz]` in the order of `positives.indices`; -inf where it was not found.

    >>> topk = TopK(np.array([[4, 2], [1, -1]]), np.array([[0.9, 0.3], [0.5, -np.inf]]))
    >>> true_scores(topk, Positives.from_lists([[2, 3], [1]]))
    array([ 0.3, -inf,  0.5])
    """
    if len(topk) != len(positives):
        raise ValueError(f"Found predictions for {len(topk):,} queries, but positives of {len(positives):,}.")
    truth = positives.numpy()
    found = np.full(len(truth.indices), -np.inf)
    rows_at_once = max(1, CELLS // max(topk.k, 1))
    for start in range(0, len(topk), rows_at_once):
        ids, scores = (np.asarray(x[start : start + rows_at_once]) for x in (topk.ids, topk.scores))
        pairs = slice(truth.indptr[start], truth.indptr[min(start + rows_at_once, len(truth))])
        wanted = truth.indices[pairs]
        if not len(wanted):
            continue
        stride = max(int(ids.max(initial=0)), int(wanted.max())) + 2  # one number a (row, id), padding included
        row_of_pair = np.repeat(np.arange(len(ids)), truth.counts[start : start + len(ids)])
        sought = row_of_pair * stride + wanted + 1
        keys = (np.arange(len(ids))[:, None] * stride + ids + 1).ravel()
        place = np.minimum(np.searchsorted(sought, keys), len(sought) - 1)
        match = np.flatnonzero(sought[place] == keys)
        np.maximum.at(found[pairs], place[match], scores.ravel()[match].astype(np.float64))
    return found


def false_negative_risk(scores: np.ndarray, positives: Positives) -> Risk:
    """Share of a query's true labels that are lost; `scores` of `true_scores`. Queries without any lose nothing."""
    counts = positives.numpy().counts
    return Risk.of(scores, np.repeat(1 / np.maximum(counts, 1), counts), len(counts))


def any_missing_risk(scores: np.ndarray, positives: Positives) -> Risk:
    """1 for a query of which any true label is lost."""
    truth = positives.numpy()
    some = truth.counts > 0
    worst = np.minimum.reduceat(scores, truth.indptr[:-1][some]) if some.any() else np.zeros(0)
    return Risk.of(worst, np.ones(len(worst)), len(truth))


def frequency_risks(scores: np.ndarray, positives: Positives, label_counts: np.ndarray) -> dict[str, Risk]:
    """For head, torso and tail: share of a query's true labels of this bin that are lost, among queries with one."""
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
        thresholds: one for all, or one a label, `[L]`.
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
    rows, columns = np.nonzero(mask)
    picked = ids[rows, columns].astype(np.int64)
    order = np.lexsort((picked, rows))
    indptr = np.concatenate([[0], np.cumsum(mask.sum(axis=1))]).astype(np.int64)
    return Positives(indptr, picked[order])
