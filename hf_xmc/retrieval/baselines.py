"""Simple baselines that a trained model has to beat. Only the last one learns from pairs of text and
label, by looking them up."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from scipy.sparse import csr_matrix
from sklearn.feature_extraction.text import CountVectorizer, TfidfTransformer, TfidfVectorizer

from hf_xmc.types import Positives, TopK

ROWS = 1024  # queries scored at a time, at most
CELLS = 2**23  # pairs of a query and a label that share a word, held at a time
TEXTS = 2**15  # training queries whose words are counted at a time
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
    """Labels by the cosine of tf-idf vectors of their texts and the query, up to a factor of the query; word weights
    are learned from the training queries and the label texts. Of equal scores the lower id comes first.

    Only the words of labels are kept, as no other word can find one, and products stay sparse: memory depends neither
    on the number of training queries nor on that of queries times labels.

    >>> tfidf(["a red car"], ["blue", "red", "car red"], ["blue car"], k=2).ids.tolist()
    [[2, 1]]
    """
    k = min(k, len(labels))
    ids, scores = np.empty((len(queries), k), np.int64), np.zeros((len(queries), k), np.float32)
    counter = CountVectorizer(dtype=np.float32)
    try:
        label_counts = counter.fit_transform(labels)  # [L, V]
    except ValueError:  # labels without words: all scores are 0
        ids[:] = np.arange(k)
        return TopK(ids, scores)
    texts_with = np.asarray((label_counts > 0).sum(axis=0)).ravel().astype(np.int64)  # [V]
    for start in range(0, len(train_queries), TEXTS):
        found = counter.transform(train_queries[start : start + TEXTS])
        texts_with += np.bincount(found.indices, minlength=len(texts_with))
    weights = TfidfTransformer(sublinear_tf=True)
    weights.idf_ = (np.log((1 + len(train_queries) + len(labels)) / (1 + texts_with)) + 1).astype(np.float32)
    label_matrix = weights.transform(label_counts).T.tocsr()  # [V, L]
    labels_with = np.diff(label_matrix.indptr)  # [V]
    for start in range(0, len(queries), ROWS):
        asked = weights.transform(counter.transform(queries[start : start + ROWS]))  # [rows, V]
        for rows in of_bounded_work(asked, labels_with):
            product = (asked[rows] @ label_matrix).tocsr()  # [some, L]
            for row, first in enumerate(product.indptr[:-1], start + rows.start):
                part = slice(first, product.indptr[row - start - rows.start + 1])
                ids[row], scores[row] = best_of(product.indices[part], product.data[part], k)
    return TopK(ids, scores)


def of_bounded_work(asked: csr_matrix, labels_with: np.ndarray) -> Iterator[slice]:
    """Slices of rows whose product with the labels has at most `CELLS` cells that are not zero, or of one row.

    Args:
        asked: the words of each text, `[rows, V]`.
        labels_with: how many labels have each word, `[V]`.
    """
    cells = np.concatenate([[0], np.cumsum(labels_with[asked.indices], dtype=np.int64)])[asked.indptr]  # before a row
    start = 0
    while start < asked.shape[0]:
        stop = max(start + 1, int(np.searchsorted(cells, cells[start] + CELLS, side="right")) - 1)
        yield slice(start, stop)
        start = stop


def best_of(ids: np.ndarray, scores: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k labels with the highest scores, best first, of equal ones the lower id; those that are not among `ids`
    score 0. There are at least k labels.

    >>> found = best_of(np.array([7, 2, 5]), np.array([0.5, 0.5, 0.9]), k=4)
    >>> found[0].tolist(), found[1].tolist()
    ([5, 2, 7, 0], [0.9, 0.5, 0.5, 0.0])
    """
    if len(ids) > k:
        least = np.partition(scores, len(scores) - k)[len(scores) - k]
        kept = np.flatnonzero(scores >= least)  # more than k where several score the least
        ids, scores = ids[kept], scores[kept]
    order = np.lexsort((ids, -scores))[:k]
    ids, scores = ids[order], scores[order]
    if (missing := k - len(ids)) > 0:
        others = np.setdiff1d(np.arange(k), ids)[:missing]  # the lowest ids that are not there
        ids, scores = np.concatenate([ids, others]), np.concatenate([scores, np.zeros(missing, scores.dtype)])
    return ids, scores


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
