"""Maps from scores to probabilities, fitted on (score, hit) pairs of held-out predictions.

What a map gives is the chance that a prediction was *annotated* as true: where annotations are missing it is too low.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import expit
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from hf_xmc.metrics.hits import find_hits
from hf_xmc.types import Positives, TopK

METHODS = ("isotonic", "platt", "temperature", "beta")
EDGE = 1e-6  # beta's logarithms need 0 < p < 1


@dataclass(frozen=True)
class ScoreMap:
    """A map from scores to probabilities that never falls: the order of a ranking stays, or ties.

    Args:
        method: `"isotonic"`, `"platt"`, `"temperature"` or `"beta"`.
        parameters: numbers of the method, by name.
        x, y: knots of the isotonic map, `[M]` each; between knots it is linear, beyond them constant.

    >>> ScoreMap("platt", {"slope": 2.0, "offset": -1.0})(np.array([0.5]))
    array([0.5])
    """

    method: str
    parameters: Mapping[str, float] = field(default_factory=dict)
    x: np.ndarray | None = None
    y: np.ndarray | None = None

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
    """A map from a ranking to probabilities that looks at score and rank: `score_map(score - rank_weight ln rank)`.

    Scores alone are not alike across queries: the first prediction of a query is right more often than the tenth of
    another with the same score. Within a query probabilities never rise from rank to rank, so the order stays.

    Args:
        score_map: of scores less what the rank takes away.
        rank_weight: how much that is, 0 or more.
    """

    score_map: ScoreMap
    rank_weight: float

    @classmethod
    def fit(cls, topk: TopK, positives: Positives, method: str = "isotonic", depth: int = 20) -> RankedMap:
        """From the best `depth` predictions of each query: the weight of the rank by a logistic regression on score
        and ln rank, then the map."""
        ordered = topk.sorted()
        scores = np.asarray(ordered.scores[:, :depth], dtype=np.float64)
        found = find_hits(TopK(ordered.ids[:, :depth], scores), positives, scores.shape[1])
        known = (found.ids >= 0) & np.isfinite(scores)
        scores, hits = scores[known], found.hit[known]
        log_rank = np.broadcast_to(np.log(np.arange(1, known.shape[1] + 1)), known.shape)[known]
        weight = 0.0
        if hits.any() and not hits.all():
            (of_score, of_rank), _ = fit_logistic(np.stack([scores, -log_rank], axis=1), hits.astype(int))
            weight = of_rank / of_score if of_score > 0 and of_rank > 0 else 0.0
        return cls(fit_score_map(scores - weight * log_rank, hits, method), weight)

    def __call__(self, topk: TopK) -> np.ndarray:
        """Probabilities, float64 `[N, K]`; 0 for padding. `topk` are rankings from the first prediction on."""
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

    - `isotonic`: pool adjacent violators; no form is assumed, but it overfits below about a thousand pairs.
    - `platt`: sigmoid(slope s + offset), targets (N+ + 1) / (N+ + 2) and 1 / (N- + 2) (Platt 1999).
    - `temperature`: sigmoid(s / T); without an offset, hence wrong where true labels are rare.
    - `beta`: logit = c + a ln p - b ln(1 - p) with a, b >= 0 on scores scaled to (0, 1); if one is fitted negative it
      is set to 0 and the rest fitted again (Kull, Silva Filho, Flach 2017).

    Args:
        scores: finite, `[P]`.
        hits: whether each prediction is true, `[P]`.

    Raises:
        ValueError: an unknown method, no pairs, or pairs that are all true or all false.
    """
    if method not in METHODS:
        raise ValueError(f"method is {method!r}; expected one of {', '.join(METHODS)}.")
    scores, hits = np.asarray(scores, dtype=np.float64), np.asarray(hits, dtype=bool)
    if not hits.any() or hits.all():
        raise ValueError(
            f"Of {len(hits):,} predictions {int(hits.sum()):,} are true; a calibration needs true and false ones. "
            "Give it more queries, or deeper predictions."
        )
    if method == "isotonic":
        fitted = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(scores, hits)
        return ScoreMap(method, x=fitted.X_thresholds_, y=fitted.y_thresholds_)
    if method == "platt":
        slope, offset = fit_platt(scores, hits)
        return ScoreMap(method, {"slope": slope, "offset": offset})
    if method == "temperature":
        return ScoreMap(method, {"temperature": fit_temperature(scores, hits)})
    return ScoreMap(method, fit_beta(scores, hits))


def fit_platt(scores: np.ndarray, hits: np.ndarray) -> tuple[float, float]:
    """Slope and offset. A slope below 0 (scores that rank worse than chance) becomes 0, so that no order is turned."""
    positives = int(hits.sum())
    high, low = (positives + 1) / (positives + 2), 1 / (len(hits) - positives + 2)
    # Soft targets as weighted pairs: each prediction once as true, once as false.
    target = np.where(hits, high, low)
    (slope,), offset = fit_logistic(
        np.tile(scores, 2)[:, None], np.repeat([1, 0], len(scores)), [*target, *1 - target]
    )
    if slope < 0:
        mean = float(target.mean())
        return 0.0, float(np.log(mean / (1 - mean)))
    return slope, offset


def fit_temperature(scores: np.ndarray, hits: np.ndarray) -> float:
    """The temperature of the largest likelihood."""
    signed = np.where(hits, -scores, scores)

    def loss(log_temperature: float) -> float:
        return float(np.logaddexp(0.0, signed / np.exp(log_temperature)).mean())

    return float(np.exp(minimize_scalar(loss, bounds=(-7.0, 7.0), method="bounded").x))


def fit_beta(scores: np.ndarray, hits: np.ndarray) -> dict[str, float]:
    """`a`, `b`, `c`, and the range of scores that is scaled to (0, 1)."""
    low, high = float(scores.min()), float(scores.max())
    high = high if high > low else low + 1.0
    share = np.clip((scores - low) / (high - low), EDGE, 1 - EDGE)
    features = {"a": np.log(share), "b": -np.log1p(-share)}
    while True:
        columns = np.stack(list(features.values()), axis=1) if features else np.zeros((len(share), 1))
        weights, c = fit_logistic(columns, hits.astype(int))
        found = dict(zip(features, weights, strict=False))
        if not features or min(found.values()) >= 0:
            return {"a": 0.0, "b": 0.0, **found, "c": c, "low": low, "high": high}
        del features[min(found, key=lambda name: found[name])]


def fit_logistic(features: np.ndarray, targets: np.ndarray, weights: Any = None) -> tuple[list[float], float]:
    """Weights and offset of a logistic regression without a penalty to speak of; columns are scaled for the solver."""
    scale = features.std(axis=0)
    scale[scale == 0] = 1.0
    fitted = LogisticRegression(C=1e8, max_iter=1000, tol=1e-8)
    fitted.fit(features / scale, targets, None if weights is None else np.asarray(weights))
    return (fitted.coef_[0] / scale).tolist(), float(fitted.intercept_[0])
