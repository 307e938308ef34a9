"""Score thresholds for the best F1 or a required precision: global, per frequency bin, or per label."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hf_xmc.errors import SettingsError
from hf_xmc.metrics.breakdown import frequency_bands
from hf_xmc.types import Positives, TopK

PRIOR = 10.0  # weight of the global threshold against a label's own, in true examples
SCOPES = ("global", "frequency", "label")


@dataclass(frozen=True)
class ThresholdTable:
    """Precision and recall at every threshold that can be optimal: the scores of hits.

    Between two hits, lowering the threshold only loses precision, so that the hits are sufficient.

    Args:
        scores: of the hits, falling, `[H]`.
        labels: of the hits, `[H]`.
        predicted: predictions that score at least as much as the hit, int `[H, 3]`: among all labels, among labels of
            the same frequency bin, and of the same label.
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
        """Compare predictions `[N, K]` with the truth; `label_counts` `[L]` are training queries per label."""
        truth, counts = positives.numpy(), np.asarray(label_counts)
        rows, columns = np.nonzero((topk.ids >= 0) & np.isfinite(topk.scores))
        ids, scores = topk.ids[rows, columns].astype(np.int64), np.asarray(topk.scores)[rows, columns]
        hit = truth.contains(topk)[rows, columns]
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
        """The threshold (a float) or, by frequency or label, one per label `[L]`: keep labels with score >= threshold.

        Args:
            target: `"f1"`: the threshold of the best F1; or `"precision"`: the lowest threshold at which the precision
                is at least `value`.
            by: `"global"`; `"frequency"`: one threshold each for head, torso and tail, and the global one for a bin
                without true examples; or `"label"`: (n t_own + m t_global) / (n + m), with n true examples of the
                label and m = 10, so that labels with few examples stay close to the global threshold.

        Raises:
            SettingsError: an unknown target or scope, a precision outside (0, 1], or one that no threshold reaches.
        """
        if by not in SCOPES:
            raise SettingsError(f"by is {by!r}; expected one of {', '.join(SCOPES)}")
        if target not in ("f1", "precision") or (target == "precision") != (value is not None):
            raise SettingsError(f"target is {target!r} with value {value}; expected 'f1', or 'precision' with a value")
        if value is not None and not 0 < value <= 1:
            raise SettingsError(f"The precision is {value}; it must be above 0 and not above 1")
        common = self.best(np.zeros(len(self.labels), np.int64), 0, self.true.sum(keepdims=True), value)[0]
        if np.isinf(common):
            raise SettingsError(
                f"No threshold reaches a precision of {value}: the best on {int(self.true.sum()):,} true pairs is "
                f"{self.best_precision():.3f}"
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
        """The best threshold of each group, `[G]`; infinity for a group without one."""
        result = np.full(len(true), np.inf)
        if not len(group):
            return result
        order = np.argsort(group, kind="stable")  # scores stay falling within a group
        group, scores, predicted = group[order], self.scores[order], self.predicted[order, column]
        # Hits of equal score are kept or lost together: the last of them counts all.
        start = np.searchsorted(group, group)
        hits = np.arange(len(group)) - start + 1
        last = np.append((group[1:] != group[:-1]) | (scores[1:] != scores[:-1]), True)
        group, scores, hits, predicted = group[last], scores[last], hits[last], predicted[last]
        if precision is None:
            f1 = 2 * hits / (predicted + np.asarray(true)[group])
            order = np.lexsort((-scores, f1))  # the best last; among equals the lower threshold, with higher recall
            result[group[order]] = scores[order]
            return result
        enough = hits / predicted >= precision
        np.minimum.at(result, group[enough], scores[enough])
        return result


def shrink(own: np.ndarray, true: np.ndarray, common: float, prior: float = PRIOR) -> np.ndarray:
    """Thresholds of labels, moved towards the common one if they have few true examples; infinite ones become it.

    >>> shrink(np.array([0.8, 0.8, np.inf]), np.array([2, 40, 0]), common=0.5).round(2).tolist()
    [0.55, 0.74, 0.5]
    """
    known = np.isfinite(own)
    return np.where(known, (true * np.where(known, own, 0.0) + prior * common) / (true + prior), common)


def at_least(scores: np.ndarray, group: np.ndarray, hit: np.ndarray) -> np.ndarray:
    """For each hit, the number of predictions of its group with at least its score, `[H]`."""
    order = np.lexsort((-scores, group))
    group, scores = group[order], scores[order]
    start = np.searchsorted(group, group)
    last = np.append((group[1:] != group[:-1]) | (scores[1:] != scores[:-1]), True)
    end = np.flatnonzero(last)[np.cumsum(np.append(False, last[:-1]))]  # last position of equal scores
    count = np.empty(len(order), dtype=np.int64)
    count[order] = end - start + 1
    return count[hit]
