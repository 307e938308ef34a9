"""Score thresholds for the best F1 or a wanted precision: one for all labels, a frequency bin, or a label."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hf_xmc.metrics.breakdown import frequency_bands
from hf_xmc.types import Positives, TopK

PRIOR = 10.0  # true examples that the common threshold counts for, against a label's own
SCOPES = ("global", "frequency", "label")


@dataclass(frozen=True)
class ThresholdTable:
    """Precision and recall at every threshold that can be best: the scores of hits.

    Between two hits a threshold can only lose precision, so the hits say all, exactly and in little space.

    Args:
        scores: of the hits, falling, `[H]`.
        labels: of the hits, `[H]`.
        predicted: predictions that score at least as much as the hit, int `[H, 3]`: among all, among labels of the
            same frequency bin, and of the same label.
        true: true pairs of each label, found or not, `[L]`.
        bins: frequency bin of each label, `[L]`.
    """

    scores: np.ndarray
    labels: np.ndarray
    predicted: np.ndarray
    true: np.ndarray
    bins: np.ndarray

    @classmethod
    def of(cls, topk: TopK, positives: Positives, label_counts: np.ndarray) -> ThresholdTable:
        """Count predictions `[N, K]` against the truth; `label_counts` `[L]` are training queries a label."""
        truth, counts = positives.numpy(), np.asarray(label_counts)
        stride = len(counts)
        rows, columns = np.nonzero((topk.ids >= 0) & np.isfinite(topk.scores))
        ids, scores = topk.ids[rows, columns].astype(np.int64), np.asarray(topk.scores)[rows, columns]
        row_of_pair = np.repeat(np.arange(len(truth)), truth.counts)
        hit = np.isin(rows * stride + ids, row_of_pair * stride + truth.indices)
        bins = frequency_bands(counts, "head")[1]
        of_hits = [at_least(scores, group, hit) for group in (np.zeros_like(ids), bins[ids], ids)]
        order = np.argsort(-scores[hit], kind="stable")
        return cls(
            scores[hit][order],
            ids[hit][order],
            np.stack(of_hits, axis=1)[order],
            truth.label_counts(len(counts)),
            bins,
        )

    def thresholds(self, target: str = "f1", value: float | None = None, by: str = "global") -> float | np.ndarray:
        """The threshold (a float) or, by frequency or label, one a label `[L]`; labels with score >= it are kept.

        - `by="frequency"`: bins head, torso and tail; a bin without a true example takes the common threshold.
        - `by="label"`: (n t_own + m t_common) / (n + m), with n true examples of the label and m = 10: labels with few
          keep close to the common one.

        Args:
            target: `"f1"`, the largest; or `"precision"`, the lowest threshold at which it is at least `value`.

        Raises:
            ValueError: an unknown target or scope, a precision outside (0, 1], or one that no threshold reaches.
        """
        if by not in SCOPES:
            raise ValueError(f"by is {by!r}; expected one of {', '.join(SCOPES)}.")
        if target not in ("f1", "precision") or (target == "precision") != (value is not None):
            raise ValueError(f"target is {target!r} with value {value}; expected 'f1', or 'precision' with a value.")
        if value is not None and not 0 < value <= 1:
            raise ValueError(f"The precision is {value}; it must lie above 0 and not above 1.")
        common = self.best(np.zeros(len(self.labels), np.int64), 0, self.true.sum(keepdims=True), value)[0]
        if np.isinf(common):
            raise ValueError(
                f"No threshold reaches a precision of {value}: the best on {int(self.true.sum()):,} true pairs is "
                f"{self.best_precision():.3f}. Ask for less."
            )
        if by == "global":
            return float(common)
        if by == "frequency":
            total = np.bincount(self.bins, self.true, minlength=int(self.bins.max(initial=0)) + 1)
            own = self.best(self.bins[self.labels], 1, total, value)
            return np.where(np.bincount(self.bins, self.true, len(total)) > 0, own, common)[self.bins]
        own = self.best(self.labels, 2, self.true, value)
        return shrink(own, self.true, common)

    def best_precision(self) -> float:
        rank = np.arange(1, len(self.scores) + 1)
        return float((rank / self.predicted[:, 0]).max()) if len(rank) else 0.0

    def best(self, group: np.ndarray, column: int, true: np.ndarray, precision: float | None) -> np.ndarray:
        """The best threshold of each group, `[G]`; infinite where there is none."""
        result = np.full(len(true), np.inf)
        if not len(group):
            return result
        order = np.argsort(group, kind="stable")  # scores stay falling within a group
        group, scores, predicted = group[order], self.scores[order], self.predicted[order, column]
        # Hits of one score stand and fall together: the last one has them all.
        start = np.searchsorted(group, group)
        hits = np.arange(len(group)) - start + 1
        last = np.append((group[1:] != group[:-1]) | (scores[1:] != scores[:-1]), True)
        group, scores, hits, predicted = group[last], scores[last], hits[last], predicted[last]
        if precision is None:
            f1 = 2 * hits / (predicted + np.asarray(true)[group])
            order = np.lexsort((-scores, f1))  # the best last; of equal ones the lower threshold, which finds more
            result[group[order]] = scores[order]
            return result
        enough = hits / predicted >= precision
        np.minimum.at(result, group[enough], scores[enough])
        return result


def shrink(own: np.ndarray, true: np.ndarray, common: float, prior: float = PRIOR) -> np.ndarray:
    """Thresholds of labels drawn to the common one by how few true examples they have; infinite ones are common.

    >>> shrink(np.array([0.8, 0.8, np.inf]), np.array([2, 40, 0]), common=0.5).round(2).tolist()
    [0.55, 0.74, 0.5]
    """
    known = np.isfinite(own)
    return np.where(known, (true * np.where(known, own, 0.0) + prior * common) / (true + prior), common)


def at_least(scores: np.ndarray, group: np.ndarray, hit: np.ndarray) -> np.ndarray:
    """For each hit, the predictions of its group that score as much or more, `[H]`."""
    order = np.lexsort((-scores, group))
    group, scores = group[order], scores[order]
    start = np.searchsorted(group, group)
    last = np.append((group[1:] != group[:-1]) | (scores[1:] != scores[:-1]), True)
    end = np.flatnonzero(last)[np.cumsum(np.append(False, last[:-1]))]  # last position of equal scores
    count = np.empty(len(order), dtype=np.int64)
    count[order] = end - start + 1
    return count[hit]
