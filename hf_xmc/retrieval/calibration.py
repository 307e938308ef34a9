"""Maps from scores to probabilities, fitted on (score, hit) pairs of held-out predictions.

A map gives the probability that a prediction was *annotated* as true: if annotations are incomplete, it is too low.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.special import expit

from hf_xmc.errors import DataError, ModelFolderError, SettingsError
from hf_xmc.metrics.hits import find_hits
from hf_xmc.types import Positives, TopK

METHODS = ("isotonic", "platt")
PARAMETERS = {  # that a score map of each kind has
    "isotonic": set[str](),
    "platt": {"slope", "offset"},
    "temperature": {"temperature"},
    "beta": {"low", "high", "a", "b", "c"},
}
OLD_METHODS = ("temperature", "beta")  # fitted by version 0.1.0: still applied, not fitted any more
EDGE = 1e-6  # the logarithms of a beta map need 0 < p < 1


@dataclass(frozen=True)
class ScoreMap:
    """A non-decreasing map from scores to probabilities: it keeps the order of a ranking, up to ties.

    Args:
        method: `"isotonic"` or `"platt"`. Maps of version 0.1.0 may also be `"temperature"` (sigmoid(s / T)) or
            `"beta"` (logit = c + a ln p - b ln(1 - p) on scaled scores); these can be applied, but not fitted any
            more.
        parameters: of the method, by name.
        x, y: knots of the isotonic map, `[M]` each; between knots it is linear, beyond them constant.

    >>> ScoreMap("platt", {"slope": 2.0, "offset": -1.0})(np.array([0.5]))
    array([0.5])
    """

    method: str
    parameters: Mapping[str, float] = field(default_factory=dict)
    x: np.ndarray | None = None
    y: np.ndarray | None = None

    def __post_init__(self) -> None:
        if self.method not in (*METHODS, *OLD_METHODS):
            raise ModelFolderError(f"the score map is of the unknown kind {self.method!r}")

    def __call__(self, scores: Any) -> np.ndarray:
        """Probabilities, float64, of the same shape; 0 for padding (-inf)."""
        scores = np.asarray(scores, dtype=np.float64)
        finite = np.where(np.isfinite(scores), scores, 0.0)
        p = self.parameters
        if self.method == "isotonic":
            assert self.x is not None
            assert self.y is not None
            mapped = np.interp(finite, self.x, self.y)
        elif self.method == "platt":
            mapped = expit(p["slope"] * finite + p["offset"])
        elif self.method == "temperature":
            mapped = expit(finite / p["temperature"])
        else:
            share = np.clip((finite - p["low"]) / (p["high"] - p["low"]), EDGE, 1 - EDGE)
            mapped = expit(p["c"] + p["a"] * np.log(share) - p["b"] * np.log1p(-share))
        return np.where(np.isneginf(scores), 0.0, mapped)


@dataclass(frozen=True)
class RankedMap:
    """A map from score and rank to a probability: `score_map(score - rank_weight ln rank)`.

    Scores alone are not comparable across queries: the first prediction of one query is right more often than the
    tenth of another with the same score. Within a query probabilities never rise from rank to rank, so the order
    stays.

    Args:
        score_map: applied to the scores after the rank was discounted.
        rank_weight: strength of the discount, at least 0.
    """

    score_map: ScoreMap
    rank_weight: float

    @classmethod
    def fit(cls, topk: TopK, positives: Positives, method: str = "isotonic", depth: int = 20) -> RankedMap:
        """Fit to the best `depth` predictions of each query: first the weight of the rank, by a logistic regression on
        score and ln rank, then the map."""
        ordered = topk.sorted()
        scores = np.asarray(ordered.first(depth).scores, dtype=np.float64)
        found = find_hits(TopK(ordered.first(depth).ids, scores), positives, scores.shape[1])
        known = (found.ids >= 0) & np.isfinite(scores)
        scores, hits = scores[known], found.hit[known]
        log_rank = np.broadcast_to(np.log(np.arange(1, known.shape[1] + 1)), known.shape)[known]
        weight = 0.0
        if hits.any() and not hits.all():
            (of_score, of_rank), _ = fit_logistic(np.stack([scores, -log_rank], axis=1), hits.astype(int))
            weight = of_rank / of_score if of_score > 0 and of_rank > 0 else 0.0
        return cls(fit_score_map(scores - weight * log_rank, hits, method), weight)

    def __call__(self, topk: TopK) -> np.ndarray:
        """Probabilities, float64 `[N, K]`; 0 for padding. `topk` must contain each ranking from its first rank on."""
        ids, scores = np.asarray(topk.ids), np.asarray(topk.scores, dtype=np.float64)
        scores = np.where(ids < 0, -np.inf, scores)
        rank = np.broadcast_to(np.arange(1, scores.shape[1] + 1), scores.shape)
        if not (scores[:, 1:] <= scores[:, :-1]).all():
            order = np.lexsort((ids, -scores), axis=1)
            rank = np.empty_like(order)
            np.put_along_axis(rank, order, np.arange(1, scores.shape[1] + 1)[None], axis=1)
        return self.score_map(scores - self.rank_weight * np.log(rank))


def fit_score_map(scores: np.ndarray, hits: np.ndarray, method: str = "isotonic") -> ScoreMap:
    """Fit a map.

    - `isotonic`: pool adjacent violators; assumes no form, but overfits with fewer than about a thousand pairs.
    - `platt`: sigmoid(slope s + offset), targets (N+ + 1) / (N+ + 2) and 1 / (N- + 2) (Platt 1999).

    Args:
        scores: finite, `[P]`.
        hits: whether each prediction is true, `[P]`.

    Raises:
        SettingsError: an unknown method.
        DataError: there are no pairs, or they are all true or all false.
    """
    if method not in METHODS:
        raise SettingsError(f"method is {method!r}; expected one of {', '.join(METHODS)}")
    scores, hits = np.asarray(scores, dtype=np.float64), np.asarray(hits, dtype=bool)
    if not hits.any() or hits.all():
        raise DataError(
            f"Of {len(hits):,} predictions {int(hits.sum()):,} are true; a calibration needs true and false ones",
            hint="use more queries, or deeper predictions",
        )
    if method == "isotonic":
        from sklearn.isotonic import IsotonicRegression  # slow to import, and needed to fit alone

        fitted = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(scores, hits)
        return ScoreMap(method, x=fitted.X_thresholds_, y=fitted.y_thresholds_)
    slope, offset = fit_platt(scores, hits)
    return ScoreMap(method, {"slope": slope, "offset": offset})


def fit_platt(scores: np.ndarray, hits: np.ndarray) -> tuple[float, float]:
    """Slope and offset. A negative slope (scores that rank worse than chance) becomes 0: no order is reversed."""
    positives = int(hits.sum())
    high, low = (positives + 1) / (positives + 2), 1 / (len(hits) - positives + 2)
    # Soft targets as weighted pairs: each prediction occurs once as true and once as false.
    target = np.where(hits, high, low)
    (slope,), offset = fit_logistic(
        np.tile(scores, 2)[:, None], np.repeat([1, 0], len(scores)), [*target, *1 - target]
    )
    if slope < 0:
        mean = float(target.mean())
        return 0.0, float(np.log(mean / (1 - mean)))
    return slope, offset


def fit_logistic(features: np.ndarray, targets: np.ndarray, weights: Any = None) -> tuple[list[float], float]:
    """Weights and offset of a logistic regression with a negligible penalty; columns are scaled for the solver."""
    from sklearn.linear_model import LogisticRegression

    scale = features.std(axis=0)
    scale[scale == 0] = 1.0
    fitted = LogisticRegression(C=1e8, max_iter=1000, tol=1e-8)
    fitted.fit(features / scale, targets, None if weights is None else np.asarray(weights))
    return (fitted.coef_[0] / scale).tolist(), float(fitted.intercept_[0])
