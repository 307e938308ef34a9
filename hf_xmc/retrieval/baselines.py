"""Simple baselines that a trained model has to beat. Only the last one learns from pairs of text and
label, by looking them up."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer

from hf_xmc.types import Positives, TopK

ROWS = 1024  # queries scored at a time
NEIGHBOURS = 30  # training queries that vote


def popularity(train_label_counts: np.ndarray, num_queries: int, k: int) -> TopK:
    """The most frequent labels of the training split, the same for every query.

    >>> popularity(np.array([3, 9, 3]), num_queries=1, k=2).ids.tolist()
    [[1, 0]]
    """
    best = np.lexsort((np.arange(len(train_label_counts)), -train_label_counts))[:k]
    shape = (num_queries, len(best))
    return TopK(np.broadcast_to(best, shape), np.broadcast_to(train_label_counts[best].astype(np.float32), shape))


def tfidf(queries: Sequence[str], labels: Sequence[str], train_queries: Sequence[str], k: int) -> TopK:
    """Labels by the cosine of tf-idf vectors of their texts and the query; word weights are learned from the training
    queries and the label texts.

    >>> tfidf(["a red car"], ["blue", "red", "car red"], ["blue car"], k=2).ids.tolist()
    [[2, 1]]
    """
    vectorizer = TfidfVectorizer(sublinear_tf=True, dtype=np.float32)
    vectorizer.fit([*train_queries, *labels])
    label_matrix = vectorizer.transform(labels).T.tocsc()  # [V, L]
    query_matrix = vectorizer.transform(queries)  # [N, V]
    k = min(k, len(labels))
    ids, scores = np.empty((len(queries), k), np.int64), np.empty((len(queries), k), np.float32)
    for start in range(0, len(queries), ROWS):
        block = (query_matrix[start : start + ROWS] @ label_matrix).toarray()  # [rows, L]
        best = np.argsort(-block, axis=1, kind="stable")[:, :k]  # stable: of equal scores the lower id
        ids[start : start + ROWS] = best
        scores[start : start + ROWS] = np.take_along_axis(block, best, 1)
    return TopK(ids, scores)


def tfidf_neighbours(
    queries: Sequence[str],
    train_queries: Sequence[str],
    positives: Positives,
    k: int,
    num_neighbours: int = NEIGHBOURS,
) -> TopK:
    """Labels of the training queries with the most similar tf-idf vectors; each votes with its cosine.

    Args:
        queries, train_queries: texts, `[N]` and `[M]`.
        positives: of the training queries, M rows.
        k: labels per query; rows with fewer are padded.
        num_neighbours: training queries that vote.

    >>> found = tfidf_neighbours(["a red car"], ["red car", "blue sky"], Positives.from_lists([[4, 2], [0]]), k=2)
    >>> found.ids.tolist()
    [[2, 4]]
    """
    vectorizer = TfidfVectorizer(sublinear_tf=True, dtype=np.float32)
    train = vectorizer.fit_transform(train_queries).T.tocsr()  # [V, M]
    asked = vectorizer.transform(queries)
    ids = np.full((len(queries), k), -1, np.int64)
    scores = np.full((len(queries), k), -np.inf, np.float32)
    for start in range(0, len(queries), ROWS):
        similar = (asked[start : start + ROWS] @ train).tocsr()  # [rows, M], sparse
        for row in range(similar.shape[0]):
            part = slice(similar.indptr[row], similar.indptr[row + 1])
            near, cosines = similar.indices[part], similar.data[part]
            if len(near) > num_neighbours:
                best = np.argpartition(-cosines, num_neighbours)[:num_neighbours]
                near, cosines = near[best], cosines[best]
            labels, votes = sum_of_votes(positives.take(near), cosines)
            order = np.lexsort((labels, -votes))[:k]
            ids[start + row, : len(order)], scores[start + row, : len(order)] = labels[order], votes[order]
    return TopK(ids, scores)


def sum_of_votes(positives: Positives, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The labels of some queries, and the sum of the weights of those queries that have each."""
    labels, place = np.unique(positives.indices, return_inverse=True)
    return labels, np.bincount(place, np.repeat(weights, positives.counts), minlength=len(labels))
