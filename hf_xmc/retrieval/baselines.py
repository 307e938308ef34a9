"""Simple baselines that a trained model has to beat. None of them learns from pairs of text and label."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer

from hf_xmc.types import TopK

ROWS = 1024  # queries scored at a time


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
