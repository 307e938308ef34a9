"""Weights for the scores of a label's text and of its classifier, learned on held-out queries.

This is the third stage of NGAME (Dahiya et al. 2023). Its code fits a decision tree on both scores and the label's
propensity, and adds the tree's output to the scores with a weight chosen by hand. Here a logistic regression on both
scores, and on the label's frequency times their difference, learns coefficients that merge both vectors into one
(`LabelHead.embed`): the result is two or three numbers, nothing is pickled, and search costs nothing extra.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hf_xmc.errors import DataError
from hf_xmc.metrics import find_hits, per_query_metrics
from hf_xmc.retrieval.scores import best_of
from hf_xmc.retrieval.search import as_matrix, exact_search
from hf_xmc.types import Positives

FOLDS = 5
WEAK = 1e3  # C of the regression: with many pairs for few coefficients, a weak penalty is enough
CELLS = 2**24  # numbers of embeddings gathered at a time
Coefficients = dict[str, float]


def fit_fusion(
    queries: Any,
    texts: Any,
    classifier: Any,
    frequency: np.ndarray,
    positives: Positives,
    inverse_propensity: np.ndarray | None = None,
    filters: Positives | None = None,
    allowed: np.ndarray | None = None,
    depth: int = 100,
    k: int = 5,
    seed: int = 0,
) -> tuple[Coefficients, list[dict[str, Any]]]:
    """Coefficients for `LabelHead.fusion`, and what was tried: a fit without and one with frequency, the mean of both
    scores, the text alone and the classifier alone.

    The best has the largest mean of P@1, nDCG@k and PSP@k, so that rare labels are not lost. The first candidate that
    is less than one standard error of the difference behind the best is chosen: with few queries, chance would often
    favour one of the later candidates, which are special cases of the fits. Fits are measured by cross-validation over
    queries, and then repeated on all of them. Fits with a coefficient below 0 at any frequency are excluded: a label
    would score less, the better its text fits.

    Args:
        queries: embeddings of held-out queries, which were not used in training, `[N, D]`.
        texts, classifier: embeddings of the labels' texts, and their classifier vectors, `[L, D]`.
        frequency: of each label, 0 to 1, `[L]`, as in `LabelHead.frequency`.
        positives, filters: the truth, and pairs that are not valid predictions.
        inverse_propensity: one weight per label, `[L]`; without it P@1 and nDCG@k decide.
        allowed: labels that may be predicted, bool `[L]`; by default all.
        depth: labels per query to learn from: the best by text, and as many by classifier.
        seed: for the folds of cross-validation.

    Returns:
        The coefficients, of which `text` and `classifier` sum to 1; and one row for each candidate: `name`, `fusion`
        (None if it is excluded), and its metrics.

    Raises:
        DataError: fewer than two queries, or arrays of different lengths.
    """
    from sklearn.model_selection import KFold

    pairs = candidate_pairs(queries, texts, classifier, frequency, positives, filters, allowed, depth)
    truth = positives.numpy()
    if len(truth) < 2:
        raise DataError(f"Found {len(truth)} held-out queries; fusion needs a few hundred")
    folds = KFold(min(FOLDS, len(truth)), shuffle=True, random_state=seed).split(np.arange(len(truth)))
    parted = [(pairs.of(np.isin(pairs.query, rest)), np.isin(pairs.query, fold)) for rest, fold in folds]
    tried, candidates, gains = list[dict[str, Any]](), list[Coefficients](), list[np.ndarray]()
    for name, make in WAYS.items():
        fusion = make(pairs)
        by_fold = [learned for others, _ in parted if (learned := make(others)) is not None]
        if fusion is None or len(by_fold) < len(parted):
            tried.append({"name": name, "fusion": None})
            continue
        scores = np.zeros(len(pairs.query))  # of each fold, by coefficients learned on the others
        for learned, (_, own) in zip(by_fold, parted, strict=True):
            scores[own] = pairs.of(own).scores(learned)
        topk = best_of(pairs.query, pairs.label, scores, len(truth), k)
        found = per_query_metrics(find_hits(topk, truth, k), (1, k), inverse_propensity)
        shown = {metric: found[metric] for metric in ("P@1", f"nDCG@{k}", f"PSP@{k}") if metric in found}
        tried.append({"name": name, "fusion": fusion, **{metric: pair.value for metric, pair in shown.items()}})
        candidates.append(fusion)
        gains.append(np.sum([pair.numerator / max(pair.denominator.sum(), 1e-12) for pair in shown.values()], axis=0))
    return candidates[first_of_the_best(gains)], tried


def first_of_the_best(gains: Sequence[np.ndarray]) -> int:
    """The first of several systems that is at most one standard error behind the best, given each query's gain, `[N]`.

    >>> first_of_the_best([np.array([0.0, 1.0, 1.0]), np.array([1.0, 1.0, 0.5])])
    0
    >>> first_of_the_best([np.array([0.0, 0.0, 0.1]), np.array([1.0, 1.0, 1.0])])
    1
    """
    best = gains[int(np.argmax([gain.mean() for gain in gains]))]
    behind = np.stack([best - gain for gain in gains])  # [systems, N]
    return int(np.argmax(behind.mean(1) <= behind.std(1) / np.sqrt(behind.shape[1])))


@dataclass(frozen=True)
class Pairs:
    """Pairs of a query and a candidate label, `[M]` each, sorted by query: row, id, both scores, the label's
    frequency, and whether the label is true for the query."""

    query: np.ndarray
    label: np.ndarray
    text: np.ndarray
    classifier: np.ndarray
    frequency: np.ndarray
    true: np.ndarray

    def of(self, rows: np.ndarray) -> Pairs:
        """The pairs of these positions, or of this mask `[M]`."""
        return Pairs(*(values[rows] for values in vars(self).values()))

    def scores(self, fusion: Coefficients) -> np.ndarray:
        """The fused score of each pair."""
        a, b = (fusion[n] + fusion.get(f"{n}_by_frequency", 0.0) * self.frequency for n in ("text", "classifier"))
        return a * self.text + b * self.classifier


def candidate_pairs(
    queries: Any,
    texts: Any,
    classifier: Any,
    frequency: np.ndarray,
    positives: Positives,
    filters: Positives | None = None,
    allowed: np.ndarray | None = None,
    depth: int = 100,
) -> Pairs:
    """Each query with its best labels by text and by classifier, without filtered pairs."""
    sides = [as_matrix(texts), as_matrix(classifier)]
    matrix, num_labels = as_matrix(queries), len(sides[0])
    if not len(matrix) == len(positives) or not num_labels == len(sides[1]) == len(frequency):
        raise DataError(
            f"Found {len(matrix):,} queries with the truth of {len(positives):,}, and {num_labels:,} texts, "
            f"{len(sides[1]):,} vectors and {len(frequency):,} frequencies of labels",
            hint="the numbers of queries, and those of labels, must agree",
        )
    live = np.arange(num_labels) if allowed is None else np.flatnonzero(allowed)
    keys = []
    for side in sides:
        found = exact_search(matrix, side if len(live) == num_labels else side[live], min(depth, len(live)))
        keys.append(np.arange(len(matrix))[:, None] * num_labels + live[found.ids])
    chosen = np.unique(np.concatenate(keys, axis=1))
    if filters is not None:
        chosen = chosen[~np.isin(chosen, filters.numpy().keys(num_labels))]
    query, label = np.divmod(chosen, num_labels)
    text, own = (np.empty(len(chosen), np.float32) for _ in sides)
    step = max(1, CELLS // matrix.shape[1])
    for start in range(0, len(chosen), step):
        rows = slice(start, start + step)
        for side, score in zip(sides, (text, own), strict=True):
            np.einsum("md,md->m", matrix[query[rows]], side[label[rows]], out=score[rows])
    true = np.isin(chosen, positives.numpy().keys(num_labels))
    return Pairs(query, label, text, own, np.asarray(frequency, np.float32)[label], true)


def regression(pairs: Pairs, by_frequency: bool) -> Coefficients | None:
    """Coefficients of a logistic regression, or None if there is nothing to learn from or a coefficient is negative.

    By frequency, weight moves from one score to the other while their sum stays the same. With a coefficient for each
    of the four products, the sum grew with frequency: frequent labels were ranked first regardless of the scores, and
    PSP@1 fell.
    """
    from sklearn.linear_model import LogisticRegression

    if pairs.true.all() or not pairs.true.any():
        return None
    features = [pairs.text, pairs.classifier]
    if by_frequency:
        features.append(pairs.frequency * (pairs.classifier - pairs.text))
    model = LogisticRegression(C=WEAK, solver="newton-cholesky").fit(np.stack(features, axis=1), pairs.true)
    text, classifier, *moved = model.coef_[0].tolist()
    shift = moved[0] if moved else 0.0
    if min(text, classifier, text - shift, classifier + shift) < 0 or text + classifier <= 0:
        return None
    learned = {"text": text, "classifier": classifier}
    learned |= {"text_by_frequency": -shift, "classifier_by_frequency": shift} if moved else {}
    return {name: value / (text + classifier) for name, value in learned.items()}


WAYS: dict[str, Callable[[Pairs], Coefficients | None]] = {
    "fitted": lambda pairs: regression(pairs, by_frequency=False),
    "fitted by frequency": lambda pairs: regression(pairs, by_frequency=True),
    "mean": lambda pairs: {"text": 0.5, "classifier": 0.5},
    "text alone": lambda pairs: {"text": 1.0, "classifier": 0.0},
    "classifier alone": lambda pairs: {"text": 0.0, "classifier": 1.0},
}
