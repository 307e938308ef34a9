"""Learning a fusion on held-out queries, and judging it by cross-validation among them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, TypeAlias

import numpy as np

from hf_xmc.retrieval.learned_fusion import (
    COMMON,
    OWN,
    RECIPROCAL,
    Candidates,
    LearnedFusion,
    Listed,
    candidates,
    frequency_of,
    spread,
)
from hf_xmc.retrieval.preference import Preference
from hf_xmc.retrieval.regression import newton
from hf_xmc.types import Positives

STRENGTHS = (0.003, 0.03, 0.3)  # the smaller, the smaller the weights
NEGATIVES = 160  # candidates of each query that are no true labels and are learned from
FEW = 40  # of these, where only the best candidates count: this helps the first rank, and costs the fifth
WAYS = {"all candidates": NEGATIVES, "best candidates": FEW}
FOLDS = 5


Settings: TypeAlias = tuple[str, float]  # candidates that are learned from (`WAYS`), and strength


@dataclass(frozen=True)
class Examples:
    """Candidates of held-out queries with the truth, ready to learn from.

    Args:
        found: the candidates, features standardised.
        true: bool `[M]`.
        importance: of each true pair, float64 `[M]`; 1 where rare labels do not count for more.
        place: of a candidate that is not true among those of its query, the best first, int64 `[M]`; -1 if it is true.
        mean, scale: of the features before, float64 `[F]`.
    """

    found: Candidates
    true: np.ndarray
    importance: np.ndarray
    place: np.ndarray
    mean: np.ndarray
    scale: np.ndarray


@dataclass(frozen=True)
class Learned:
    """A fusion with what it is worth.

    Args:
        fusion: learned on all queries that were given.
        settings: the kind of regression.
        measured: metrics of the ranking of each query by a fusion that was learned on the others; see
            `Preference.measure`.
    """

    fusion: LearnedFusion
    settings: Settings
    measured: dict[str, float]


def learn_fusion(
    lists: Sequence[Listed],
    positives: Positives,
    label_counts: np.ndarray,
    filters: Positives | None = None,
    preference: Preference | None = None,
    seed: int = 0,
    settings: Settings | None = None,
) -> Learned:
    """Learn how to combine channels.

    Logistic regressions of several strengths, which see all candidates or only the best ones, are compared by
    cross-validation over the queries, and the best is learned once more on all of them.

    Args:
        lists: what each channel lists for the held-out queries, the label vectors first.
        positives, filters: the truth, and pairs that are removed from predictions.
        label_counts: training queries of each label, `[L]`.
        preference: what the fusion is to be good for.
        seed: for dividing the queries.
        settings: the kind of regression, if it was chosen before.

    Raises:
        DataError: none of the candidates is true, or all are.
    """
    preference = preference or Preference()
    lists = [one.first() for one in lists]
    temperatures = {one.name: spread(one) for one in lists}
    examples = examples_of(candidates(lists, temperatures, frequency_of(label_counts)), positives, filters, preference)
    folds = np.random.default_rng(seed).permutation(len(positives)) % FOLDS
    depth = preference.depth(filters)
    tried: list[tuple[Settings, dict[str, float]]] = []
    for way, strength in product(WAYS, STRENGTHS) if settings is None else [settings]:
        ranked = examples.found.ranked(cross_fitted(examples, folds, strength, WAYS[way]), depth)
        tried.append(((way, strength), preference.measure(ranked, positives, filters)))
    (way, strength), measured = max(tried, key=lambda one: one[1]["total"])
    weights, bias = regression(examples, np.ones(len(positives), bool), strength, WAYS[way])
    weights = weights / examples.scale
    about = {"learned_from": way, "strength": strength, "queries": len(positives), "prefer": preference.prefer}
    names = tuple(one.name for one in lists)
    counts = np.asarray(label_counts, np.int32)
    fusion = LearnedFusion(
        names, weights, float(bias - examples.mean @ weights), temperatures, counts, {**about, **rounded(measured)}
    )
    return Learned(fusion, (way, strength), measured)


def examples_of(
    found: Candidates, positives: Positives, filters: Positives | None, preference: Preference
) -> Examples:
    """Candidates as examples; pairs that a filter removes are left out."""
    if filters is not None:
        found = found.take(~found.true(filters))
    true = found.true(positives)
    importance = np.ones(len(true))
    if preference.prefer == "tail" and preference.inverse_propensity is not None:
        known = found.labels < len(preference.inverse_propensity)
        importance[known] = preference.inverse_propensity[found.labels[known]]
        importance = np.where(true, importance, 1.0)
    channels = (found.features.shape[1] - len(COMMON)) // len(OWN)
    evidence = found.features[:, [i * len(OWN) + RECIPROCAL for i in range(channels)]].sum(axis=1)
    order = np.lexsort((-evidence, true, found.rows))  # the negatives of each query first
    place = np.zeros(len(order), np.int64)
    place[order] = np.arange(len(order)) - np.searchsorted(found.rows[order], found.rows[order])
    place[true] = -1
    mean, scale = found.features.mean(axis=0, dtype=np.float64), found.features.std(axis=0, dtype=np.float64)
    scale = np.where(scale > 1e-6, scale, 1.0)
    standard = ((found.features - mean) / scale).astype(np.float32)
    made = Candidates(found.rows, found.labels, standard, found.num_rows, found.floors)
    return Examples(made, true, importance, place, mean, scale)


def cross_fitted(examples: Examples, folds: np.ndarray, strength: float, negatives: int) -> np.ndarray:
    """The score of each candidate by a model that was learned on the other folds, float64 `[M]`."""
    scores, fold = np.zeros(len(examples.true)), folds[examples.found.rows]
    for one in range(FOLDS):
        weights, bias = regression(examples, folds != one, strength, negatives)
        mine = fold == one
        scores[mine] = examples.found.features[mine].astype(np.float64) @ weights + bias
    return scores


def regression(examples: Examples, queries: np.ndarray, strength: float, negatives: int) -> tuple[np.ndarray, float]:
    """Weights of the standardised features and the bias, by a logistic regression of true candidates against others.

    Args:
        queries: which are learned from, bool `[N]`.
        strength: the inverse of the weight decay, as C of scikit-learn's `LogisticRegression`.
        negatives: others of each query, the best first.
    """
    mine = (examples.place < negatives) & queries[examples.found.rows]
    x, y, importance = examples.found.features[mine], examples.true[mine], examples.importance[mine]
    if y.all() or not y.any():
        return np.zeros(x.shape[1]), 0.0
    weights = newton(np.append(x, np.ones((len(x), 1), x.dtype), axis=1), y, importance, 1 / strength)
    return weights[:-1], float(weights[-1])


def rounded(measured: Mapping[str, float]) -> dict[str, Any]:
    """Metrics for a file."""
    return {name: round(value, 6) for name, value in measured.items() if name != "total"}
