"""Adding up the scores that labels get from several sources, query by query."""

from __future__ import annotations

import numpy as np

from hf_xmc.types import TopK

CELLS = 2**22  # entries sorted at a time


def add_scores(one: TopK, other: TopK, k: int) -> TopK:
    """Add up the scores of labels that are in both rankings, and keep the k best, `[N, k]`.

    Neither ranking may name a label twice.
    """
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


def best_of(rows: np.ndarray, labels: np.ndarray, scores: np.ndarray, num_rows: int, k: int | None) -> TopK:
    """Sum the scores of each (row, label) pair, given in any order, and keep the k best labels of each row."""
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
