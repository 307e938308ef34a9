"""Learning how labels with many texts score: one weight per kind, on held-out queries.

Mean and soft maximum need only one number per label and kind, m_k: the mean of the scores of the label's texts of this
kind, or the mean of their exponentials. With weights w_k and the kinds K_l that a label has, it scores

    mean:       sum_k w_k m_k / sum_k w_k
    logsumexp:  T log( sum_k w_k m_k / sum_k w_k )        k in K_l

The weights minimise decoupled softmax over each query's candidates on one half of the queries (L-BFGS with the exact
gradient); the other half chooses among poolings, with the name alone as the one to beat.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import minimize

from hf_xmc.metrics.hits import search_depth
from hf_xmc.metrics.ranking import ranking_metrics
from hf_xmc.retrieval.label_kinds import KINDS, NAME, LabelTexts
from hf_xmc.retrieval.pooling import Pooling
from hf_xmc.retrieval.search import as_matrix
from hf_xmc.retrieval.vectors import VectorIndex
from hf_xmc.types import Positives, TopK

CANDIDATES = 50  # labels of a query by the best text of each kind
QUERIES = 2000  # that are learned from, at most
FEWEST = 20  # queries of a half; with fewer nothing is learned
TEMPERATURES = (0.02, 0.05, 0.1)  # of the soft maximum
SMALL = 0.02  # a share below this is none
DECAY = 1e-3
SCALE = 20.0  # of cosines in the softmax, at the start


@dataclass(frozen=True)
class PoolingFit:
    """What was learned.

    Args:
        pooling: the best one, which may be the names alone; None if there is too little to learn from.
        tried: of each pooling its name, weights, P@1 and nDCG@5 on the half that chooses.
        queries: of that half.
    """

    pooling: Pooling | None
    tried: list[dict[str, Any]]
    queries: int

    @property
    def gain(self) -> float:
        """What the best pooling adds to the mean of P@1 and nDCG@5 of names alone."""
        means = [(row["P@1"] + row["nDCG@5"]) / 2 for row in self.tried]
        return max(means) - means[0] if means else 0.0


@dataclass(frozen=True)
class Candidates:
    """Candidate labels of queries, and the scores of their texts by kind.

    Args:
        starts: where the labels of each query start, int64 `[N + 1]`.
        labels: int64 `[P]`.
        true, ignored: whether they are positives, or in no denominator, bool `[P]`.
        best, mean: of the scores of the label's texts of each kind, float64 `[P, K]`; -inf and 0 where it has none.
        soft: temperature -> the mean of exp(score / temperature), scaled so that the largest is near 1.
        has: whether it has texts of the kind, bool `[P, K]`.
        kinds: the names of the K kinds.
    """

    starts: np.ndarray
    labels: np.ndarray
    true: np.ndarray
    ignored: np.ndarray
    best: np.ndarray
    mean: np.ndarray
    soft: dict[float, np.ndarray]
    has: np.ndarray
    kinds: list[str]

    @property
    def queries(self) -> np.ndarray:
        """The query of each candidate, int64 `[P]`."""
        return np.repeat(np.arange(len(self.starts) - 1), np.diff(self.starts))

    def scores(self, pooling: Pooling) -> np.ndarray:
        """The score of each candidate, float64 `[P]`."""
        weights = np.array([pooling.weights.get(kind, 0.0) for kind in self.kinds]) * self.has
        weights[weights.sum(1) == 0, self.kinds.index(NAME)] = 1
        if pooling.pool == "max":
            return np.where(weights > 0, self.best, -np.inf).max(1)
        shares = weights / weights.sum(1, keepdims=True)
        if pooling.pool == "mean":
            return (shares * self.mean).sum(1)
        return pooling.temperature * np.log(np.maximum((shares * self.soft[pooling.temperature]).sum(1), 1e-300))


def fit_pooling(
    texts: LabelTexts,
    embeddings: Any,
    queries: Any,
    positives: Positives,
    filters: Positives | None = None,
    seed: int = 0,
    k: int = 5,
) -> PoolingFit:
    """Learn weights by kind, and choose how texts are pooled, on held-out queries.

    Args:
        texts: of all labels.
        embeddings: of the texts, `[M, D]`.
        queries: embeddings of held-out queries, `[N, D]`.
        positives, filters: their labels, and pairs that are neither true nor false.
        seed: of the halves.
    """
    matrix, vectors = as_matrix(queries), as_matrix(embeddings)
    rows = np.random.default_rng(seed).permutation(np.flatnonzero(positives.counts > 0))[:QUERIES]
    halves = [np.sort(half) for half in np.array_split(rows, 2)]
    present = [kind for kind in KINDS if kind in set(texts.kinds)]
    if min(map(len, halves)) < FEWEST or present == [NAME]:
        return PoolingFit(None, [], min(map(len, halves)))
    learning, choosing = (
        candidates(texts, vectors, matrix[half], positives.take(half), filters and filters.take(half), present)
        for half in halves
    )
    truth = positives.take(halves[1])
    ignored = None if filters is None else filters.take(halves[1])
    tried = []
    for pooling in (Pooling("max", {NAME: 1.0}), *poolings(learning)):
        topk = best_candidates(choosing, choosing.scores(pooling), search_depth(k, ignored))
        found = ranking_metrics(topk, truth, ks=(1, k), filters=ignored)
        tried.append((found["P@1"] + found[f"nDCG@{k}"], pooling, found))
    table = [{**p.to_dict(), "P@1": its["P@1"], f"nDCG@{k}": its[f"nDCG@{k}"]} for _, p, its in tried]
    best = max(range(len(tried)), key=lambda place: tried[place][0])  # of equals the first: names alone
    return PoolingFit(tried[best][1], table, len(halves[1]))


def poolings(learning: Candidates) -> list[Pooling]:
    """The poolings that are compared, with the weights that one half of the queries teaches."""
    everything = dict.fromkeys(learning.kinds, 1.0)
    subsets = [{NAME: 1.0, kind: 1.0} for kind in learning.kinds if kind != NAME]
    found = [Pooling("max", weights) for weights in (*subsets, everything)]
    found += [Pooling("mean", everything), Pooling("mean", learned(learning, "mean"))]
    for temperature in learning.soft:
        found.append(Pooling("logsumexp", learned(learning, "logsumexp", temperature), temperature))
    return found


def learned(found: Candidates, pool: str, temperature: float = 1.0) -> dict[str, float]:
    """Weights by kind that sum to 1 and minimise decoupled softmax over the candidates."""
    values = found.mean if pool == "mean" else found.soft[temperature]
    queries, true = found.queries, found.true
    negative = ~true & ~found.ignored

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        weights = np.exp(parameters[:-1]) * found.has  # [P, K]
        total = np.maximum(weights.sum(1), 1e-300)
        inner = np.maximum((weights * values).sum(1), 1e-300) if pool == "logsumexp" else (weights * values).sum(1)
        if pool == "mean":
            scores = inner / total
            slope = weights * (values - scores[:, None]) / total[:, None]
        else:
            scores = temperature * np.log(inner / total)
            slope = temperature * weights * (values / inner[:, None] - 1 / total[:, None])
        scale = np.exp(parameters[-1])
        z = scale * scores
        value, gradient = decoupled(z, queries, true, negative, len(found.starts) - 1)
        decay = DECAY * parameters[:-1]
        return (
            value + 0.5 * float(decay @ parameters[:-1]),
            np.append(scale * (gradient @ slope) + decay, gradient @ z),
        )

    start = np.append(np.zeros(len(found.kinds)), np.log(SCALE))
    bounds = [(-8.0, 8.0)] * len(found.kinds) + [(np.log(1.0), np.log(500.0))]
    best = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": 200})
    shares = np.exp(best.x[:-1])
    shares = shares / shares.sum()
    return {kind: float(s) for kind, s in zip(found.kinds, shares, strict=True) if s >= SMALL or kind == NAME}


def decoupled(
    z: np.ndarray, queries: np.ndarray, true: np.ndarray, negative: np.ndarray, count: int
) -> tuple[float, np.ndarray]:
    """Decoupled softmax over ragged candidates, a mean over the positives, and its gradient `[P]`.

    Args:
        z: scores, `[P]`.
        queries: of each candidate, `[P]`, of `count` queries.
        true, negative: which candidates are positives, and which of the others count.
    """
    top = np.full(count, -np.inf)
    np.maximum.at(top, queries[negative], z[negative])
    top = np.where(np.isfinite(top), top, 0)
    above = np.where(negative, np.exp(z - top[queries]), 0)
    sums = np.bincount(queries, above, count)
    rest = np.log(np.maximum(sums, 1e-300)) + top  # log-sum-exp over the negatives
    gap = (rest[queries] - z)[true]
    chance = 1 / (1 + np.exp(-np.clip(gap, -500, 500)))
    number = max(int(true.sum()), 1)
    gradient = above / np.maximum(sums, 1e-300)[queries] * np.bincount(queries[true], chance, count)[queries]
    gradient[true] -= chance
    return float(np.logaddexp(0, gap).sum()) / number, gradient / number


def candidates(
    texts: LabelTexts,
    embeddings: np.ndarray,
    queries: np.ndarray,
    positives: Positives,
    filters: Positives | None,
    kinds: Sequence[str],
) -> Candidates:
    """The best labels of each query by their texts of each kind, with all positives; see `Candidates`."""
    code = np.array([kinds.index(kind) for kind in texts.kinds])
    lists = []
    for place in range(len(kinds)):
        of_kind = np.flatnonzero(code == place)
        index = VectorIndex.build("flat", embeddings[of_kind], texts.labels[of_kind])
        width = min(CANDIDATES, len(np.unique(texts.labels[of_kind])))
        lists.append(index.search_labels(queries, width, None)[1])
    listed = np.concatenate(lists, axis=1)
    num_labels = int(texts.labels[-1]) + 1
    first = np.searchsorted(texts.labels, np.arange(num_labels + 1))  # the texts of a label stand together
    columns: dict[str, list[np.ndarray]] = {name: [] for name in ("labels", "true", "ignored", "best", "mean", "has")}
    soft: dict[float, list[np.ndarray]] = {temperature: [] for temperature in TEMPERATURES}
    for row, query in enumerate(queries):
        own = positives.row(row)
        labels = np.unique(np.concatenate([listed[row][listed[row] >= 0], own]))
        counts = first[labels + 1] - first[labels]
        places = np.repeat(first[labels] - np.cumsum(counts) + counts, counts) + np.arange(counts.sum())
        scores = (embeddings[places] @ query).astype(np.float64)
        cells = np.repeat(np.arange(len(labels)), counts) * len(kinds) + code[places]
        size = len(labels) * len(kinds)
        number = np.bincount(cells, minlength=size)
        best = np.full(size, -np.inf)
        np.maximum.at(best, cells, scores)

        def mean(values: np.ndarray, cells: np.ndarray = cells, number: np.ndarray = number) -> np.ndarray:
            return (np.bincount(cells, values, len(number)) / np.maximum(number, 1)).reshape(-1, len(kinds))

        columns["labels"].append(labels)
        columns["true"].append(np.isin(labels, own))
        columns["ignored"].append(np.isin(labels, [] if filters is None else filters.row(row)))
        columns["best"].append(best.reshape(-1, len(kinds)))
        columns["mean"].append(mean(scores))
        columns["has"].append(number.reshape(-1, len(kinds)) > 0)
        for temperature, parts in soft.items():  # of a query all scores may be shifted by the same
            parts.append(mean(np.exp((scores - scores.max()) / temperature)))
    starts = np.cumsum([0, *map(len, columns["labels"])])
    joined = {name: np.concatenate(parts) for name, parts in columns.items()}
    exact = {temperature: np.concatenate(parts) for temperature, parts in soft.items()}
    return Candidates(starts, **joined, soft=exact, kinds=list(kinds))


def best_candidates(found: Candidates, scores: np.ndarray, k: int) -> TopK:
    """The k best candidates of each query."""
    queries = found.queries
    order = np.lexsort((found.labels, -scores, queries))
    place = np.arange(len(order)) - found.starts[queries[order]]
    kept = place < k
    ids = np.full((len(found.starts) - 1, k), -1, np.int64)
    values = np.full(ids.shape, -np.inf, np.float32)
    ids[queries[order][kept], place[kept]] = found.labels[order][kept]
    values[queries[order][kept], place[kept]] = scores[order][kept]
    return TopK(ids, values)
