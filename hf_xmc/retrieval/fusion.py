"""Label scores and the votes of similar training queries in one ranking, and how its settings are chosen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from hf_xmc.types import Positives, TopK

COMBINATIONS = ("sum", "joint")
CELLS = 2**22  # entries that are sorted at a time
ROWS = 1024  # queries whose neighbours' labels are unfolded at a time


@dataclass(frozen=True)
class FusionSettings:
    """How label scores and memory are put together.

    Args:
        combine: `"sum"`, (1 - weight) label score + weight votes; or `"joint"`, RAE-XMC's one softmax over labels and
            neighbours.
        weight: of the memory, 0 to 1: 0 is labels only, 1 neighbours only (lambda in RAE-XMC).
        num_neighbours: training queries that vote.
        temperature: of the softmax over similarities; RAE-XMC uses 0.04.
    """

    combine: str = "sum"
    weight: float = 0.5
    num_neighbours: int = 50
    temperature: float | None = 0.04

    def __post_init__(self) -> None:
        if self.combine not in COMBINATIONS:
            raise ValueError(f"combine is {self.combine!r}; expected one of {', '.join(COMBINATIONS)}.")
        if not 0 <= self.weight <= 1:
            raise ValueError(f"weight is {self.weight}; expected 0 (labels only) to 1 (memory only).")
        if self.num_neighbours < 1:
            raise ValueError(f"num_neighbours is {self.num_neighbours}; it must be at least 1.")
        if self.temperature is not None and not self.temperature > 0:
            raise ValueError(f"temperature is {self.temperature}; it must be above 0.")
        if self.combine == "joint" and self.temperature is None:
            raise ValueError("combine='joint' is a softmax and needs a temperature.")


def fuse(labels: TopK, memory: TopK, weight: float, k: int) -> TopK:
    """The k labels of largest (1 - weight) label score + weight votes.

    A label without votes has 0 of them. A label that has votes and is not among the label scores counts as if it had
    the lowest of them, which is the most that it can have.

    Args:
        labels: the best labels by their own score, `[N, K]`; the deeper the better.
        memory: labels with votes, `[N, M]`.

    >>> labels = TopK(np.array([[0, 1]]), np.array([[0.8, 0.6]]))
    >>> memory = TopK(np.array([[1, 7]]), np.array([[0.75, 0.25]]))
    >>> fused = fuse(labels, memory, weight=0.5, k=3)
    >>> fused.ids.tolist(), fused.scores.round(3)
    ([[1, 7, 0]], array([[0.675, 0.425, 0.4  ]], dtype=float32))
    """
    if len(labels) != len(memory):
        raise ValueError(f"Found label scores of {len(labels):,} queries, but votes for {len(memory):,}.")
    if weight == 0:
        ordered = labels.sorted()
        return padded(TopK(ordered.ids[:, :k], ordered.scores[:, :k]), k)
    label_scores = np.asarray(labels.scores, dtype=np.float32)
    real = np.asarray(labels.ids) >= 0
    floor = np.where(real, label_scores, np.inf).min(axis=1, keepdims=True, initial=np.inf)
    floor = np.where(np.isfinite(floor), floor, 0.0).astype(np.float32)  # [N, 1]
    # What a label has above the floor; then what is in neither list and what is in one are summed alike.
    own = np.where(real, (1 - weight) * (np.where(real, label_scores, 0) - floor), -np.inf)
    votes = np.where(np.asarray(memory.ids) >= 0, weight * np.asarray(memory.scores, dtype=np.float32), -np.inf)
    total = add_scores(TopK(labels.ids, own), TopK(memory.ids, votes), k)
    return TopK(total.ids, (total.scores + (1 - weight) * floor).astype(np.float32))


def joint_softmax(
    labels: TopK, neighbours: TopK, positives: Positives, weight: float, temperature: float, k: int
) -> TopK:
    """RAE-XMC's ranking: one softmax over the similarities of labels and training queries, whose weights go to the
    label itself (times 1 - lambda) or to all labels of the training query (times lambda).

    After Wang, Chang, Jiang, Zhang, Yu, Vishwanathan 2025. There the softmax runs over the best 200 of both together;
    here it runs over all that is given.

    Args:
        labels: label ids and cosines, `[N, K]`.
        neighbours: rows of the memory and their cosines, `[N, M]`.
        positives: the labels of each row of the memory.
        weight: lambda.

    >>> labels = TopK(np.array([[1, 2]]), np.array([[0.82, 0.70]]))
    >>> neighbours = TopK(np.array([[0, 1]]), np.array([[0.80, 0.78]]))
    >>> found = joint_softmax(labels, neighbours, Positives.from_lists([[0], [0, 1]]), 0.5, 0.04, k=3)
    >>> found.ids.tolist(), found.scores.round(4)
    ([[1, 0, 2]], array([[0.3379, 0.2407, 0.0123]], dtype=float32))
    """
    both = np.concatenate([labels.scores, neighbours.scores], axis=1).astype(np.float64) / temperature
    both = np.exp(both - np.where(np.isfinite(both), both, -np.inf).max(axis=1, keepdims=True, initial=-1e30))
    both = both / np.maximum(both.sum(axis=1, keepdims=True), 1e-30)  # [N, K + M]
    own = np.where(np.asarray(labels.ids) >= 0, (1 - weight) * both[:, : labels.k], -np.inf)
    votes = sum_votes(neighbours.ids, weight * both[:, labels.k :], positives)
    return add_scores(TopK(labels.ids, own.astype(np.float32)), votes, k)


def sum_votes(rows: np.ndarray, weights: np.ndarray, positives: Positives, k: int | None = None) -> TopK:
    """The labels of the neighbours, each with the summed weights of those that have it.

    Args:
        rows: neighbours of each query, rows of `positives`, `[N, M]`; -1 for none.
        weights: of each neighbour, `[N, M]`.
        k: labels to keep; by default all that have a vote.
    """
    truth = positives.numpy()
    parts = []
    for start in range(0, len(rows), ROWS):
        near, weight = rows[start : start + ROWS], weights[start : start + ROWS]
        query, column = np.nonzero(near >= 0)
        found = truth.take(near[query, column])
        parts.append(
            best_of(
                np.repeat(query, found.counts),
                found.indices,
                np.repeat(weight[query, column], found.counts),
                len(near),
                k,
            )
        )
    width = max((part.k for part in parts), default=0) if k is None else k
    ids = np.full((len(rows), width), -1, dtype=np.int64)
    scores = np.full((len(rows), width), -np.inf, dtype=np.float32)
    for start, part in zip(range(0, len(rows), ROWS), parts, strict=True):
        ids[start : start + ROWS, : part.k], scores[start : start + ROWS, : part.k] = part.ids, part.scores
    return TopK(ids, scores)


def best_of(rows: np.ndarray, labels: np.ndarray, scores: np.ndarray, num_rows: int, k: int | None) -> TopK:
    """Sum the scores of each (row, label), given in any order, and keep the k best labels of each row."""
    stride = int(labels.max(initial=0)) + 1
    keys, which = np.unique(rows * stride + labels, return_inverse=True)
    total = np.bincount(which, weights=scores, minlength=len(keys)).astype(np.float32)
    row, label = np.divmod(keys, stride)
    order = np.lexsort((label, -total, row))
    row, label, total = row[order], label[order], total[order]
    rank = np.arange(len(row)) - np.searchsorted(row, row)
    width = int(rank.max(initial=-1)) + 1 if k is None else k
    kept = rank < width
    ids = np.full((num_rows, width), -1, dtype=np.int64)
    best = np.full((num_rows, width), -np.inf, dtype=np.float32)
    ids[row[kept], rank[kept]], best[row[kept], rank[kept]] = label[kept], total[kept]
    return TopK(ids, best)


def add_scores(one: TopK, other: TopK, k: int) -> TopK:
    """Add up the scores of labels that are in both, and keep the k best, `[N, k]`. No list names a label twice."""
    ids = np.full((len(one), k), -1, dtype=np.int64)
    scores = np.full((len(one), k), -np.inf, dtype=np.float32)
    width = one.k + other.k
    step = max(1, CELLS // max(width, 1))
    for start in range(0, len(one) if width else 0, step):
        rows = slice(start, start + step)
        label = np.concatenate([one.ids[rows], other.ids[rows]], axis=1).astype(np.int64)
        score = np.concatenate([one.scores[rows], other.scores[rows]], axis=1)
        order = np.argsort(label, axis=1)
        label, score = np.take_along_axis(label, order, 1), np.take_along_axis(score, order, 1)
        twice = (label[:, 1:] == label[:, :-1]) & (label[:, 1:] >= 0)
        score[:, :-1] += np.where(twice, score[:, 1:], 0)
        label[:, 1:][twice] = -1
        score[label < 0] = -np.inf
        if k < width:
            best = np.argpartition(-score, k - 1, axis=1)[:, :k]
            label, score = np.take_along_axis(label, best, 1), np.take_along_axis(score, best, 1)
        ordered = TopK(label, score).sorted()
        ids[rows, : ordered.k], scores[rows, : ordered.k] = ordered.ids, ordered.scores
    return TopK(ids, scores)


def padded(topk: TopK, k: int) -> TopK:
    """The same with k columns."""
    missing = ((0, 0), (0, k - topk.k))
    return TopK(np.pad(topk.ids, missing, constant_values=-1), np.pad(topk.scores, missing, constant_values=-np.inf))


def grid(
    neighbours: Sequence[int] = (10, 30, 100),
    temperatures: Sequence[float] = (0.04, 0.08, 0.15),
    weights: Sequence[float] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9),
) -> list[FusionSettings]:
    """The settings that `tune_fusion` tries by default. The first is labels only; the joint softmax is tried at the
    number of neighbours that is largest."""
    sums = [FusionSettings("sum", w, n, t) for n, t, w in product(neighbours, temperatures, weights)]
    joint = [FusionSettings("joint", w, max(neighbours), t) for t, w in product(temperatures, weights[::2])]
    return [FusionSettings(weight=0.0), *sums, *joint]
