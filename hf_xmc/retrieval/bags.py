"""Bags of passages: the embeddings of texts that have several each, and the search for their labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, overload

import numpy as np

from hf_xmc.retrieval.passages import Passages
from hf_xmc.retrieval.search import as_matrix, as_topk, best_of_each, exact_search
from hf_xmc.types import TopK

DEPTH = 100  # best labels of each passage, at least, that are candidates of its text
ROWS = 64  # texts whose candidates are scored at a time
LABELS = 2048  # candidates of a text that are scored at a time, so that memory grows with its passages and no faster


class Bags:
    """Embeddings of the passages of N texts. It stands where the embeddings of texts stand, `[N, D]`, and has a length
    and slices by text as they have.

    As an array (`np.asarray(bags)`) it has one vector for each text, the mean of its passages, scaled to their length.

    Args:
        vectors: of all passages, text after text, `[sum T, D]`, array or tensor.
        indptr: the passages of text i are `indptr[i]` to `indptr[i + 1]`, `[N + 1]`.
        passages: how they give the score of a label.
        spans: where each passage begins and ends in its text, in characters, int64 `[sum T, 2]`, if that is known.

    >>> bags = Bags(np.eye(3), np.array([0, 2, 3]), Passages())
    >>> len(bags), bags[1:].vectors.tolist(), np.asarray(bags, float)[0].round(2).tolist()
    (2, [[0.0, 0.0, 1.0]], [0.71, 0.71, 0.0])
    """

    def __init__(self, vectors: Any, indptr: np.ndarray, passages: Passages, spans: np.ndarray | None = None) -> None:
        self.vectors = as_matrix(vectors)
        self.indptr = np.asarray(indptr, dtype=np.int64)
        self.passages = passages
        self.spans = spans

    def __len__(self) -> int:
        """Number of texts."""
        return len(self.indptr) - 1

    @property
    def counts(self) -> np.ndarray:
        """Number of passages of each text, int64 `[N]`."""
        return np.diff(self.indptr)

    @property
    def shape(self) -> tuple[int, int]:
        """That of the texts' embeddings as an array, `(N, D)`."""
        return len(self), self.vectors.shape[1]

    @overload
    def __getitem__(self, rows: int) -> np.ndarray: ...
    @overload
    def __getitem__(self, rows: slice | Sequence[int] | np.ndarray) -> Bags: ...
    def __getitem__(self, rows: int | slice | Sequence[int] | np.ndarray) -> Bags | np.ndarray:
        """The passages of one text, `[T, D]`, or those of several texts as bags."""
        chosen = np.arange(len(self))[rows]
        if chosen.ndim == 0:
            return self.vectors[self.indptr[chosen] : self.indptr[chosen + 1]]
        counts = self.counts[chosen]
        indptr = np.concatenate([[0], np.cumsum(counts)])
        places = np.arange(indptr[-1]) + np.repeat(self.indptr[:-1][chosen] - indptr[:-1], counts)
        return Bags(self.vectors[places], indptr, self.passages, None if self.spans is None else self.spans[places])

    def pooled_by(self, passages: Passages) -> Bags:
        """The same passages, which give the score of a label in another way."""
        return Bags(self.vectors, self.indptr, passages, self.spans)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if not len(self):
            return np.empty(self.shape, dtype or np.float32)
        sums = np.add.reduceat(self.vectors, self.indptr[:-1], axis=0)
        lengths = np.linalg.norm(self.vectors, axis=1)
        mean_length = np.add.reduceat(lengths, self.indptr[:-1]) / self.counts
        scale = mean_length / np.maximum(np.linalg.norm(sums, axis=1), 1e-12)
        several = self.counts > 1  # one passage stays as it is, bit for bit
        return np.where(several[:, None], sums * scale[:, None], sums).astype(dtype or np.float32)

    def merged(self, topk: TopK, k: int) -> TopK:
        """From what was found for each passage, `[sum T, K]`, the k best of each text, `[N, k]`; of what several
        passages found the best score counts."""
        found = []
        for start, stop in zip(self.indptr[:-1].tolist(), self.indptr[1:].tolist(), strict=True):
            flat = TopK(topk.ids[start:stop].reshape(1, -1), topk.scores[start:stop].reshape(1, -1)).sorted()
            ids, scores, _ = best_of_each(flat.ids, flat.scores)
            found.append(TopK(ids, scores).sorted().first(k).padded(k))
        if not found:
            return TopK(np.empty((0, k), np.int64), np.empty((0, k), np.float32))
        return TopK(np.concatenate([one.ids for one in found]), np.concatenate([one.scores for one in found]))


class Searchable(Protocol):
    """What bags need of a label index."""

    @property
    def has_several_texts(self) -> bool: ...

    def search(
        self,
        queries: Any,
        k: int = 5,
        allowed: Any = None,
        forbidden: Any = None,
        where: Mapping[str, Any] | None = None,
    ) -> TopK: ...

    def vectors(self, label_ids: Any = None) -> np.ndarray: ...


class ExactLabels:
    """Label embeddings without an index, `[L, D]`, for `search_bags`."""

    has_several_texts = False

    def __init__(self, labels: Any) -> None:
        self.labels = as_matrix(labels)

    def search(self, queries: Any, k: int = 5, allowed: Any = None, forbidden: Any = None, where: Any = None) -> TopK:
        """The k best labels of each query; there are no filters."""
        return exact_search(queries, self.labels, k)

    def vectors(self, label_ids: Any = None) -> np.ndarray:
        """Their embeddings, `[n, D]`."""
        return self.labels if label_ids is None else self.labels[label_ids]


def search_bags(index: Searchable, bags: Bags, k: int, **filters: Any) -> TopK:
    """The k best labels of each text, best first, `[N, k]`.

    Candidates are the best labels of each passage, at least `DEPTH` of them; their scores are exact. A text of one
    passage is searched as any query.

    Args:
        **filters: `allowed`, `forbidden` and `where` of [`LabelIndex.search`].
    """
    ids, scores = np.full((len(bags), k), -1, np.int64), np.full((len(bags), k), -np.inf, np.float32)
    single = np.flatnonzero(bags.counts == 1)
    if len(single):
        found = index.search(bags.vectors[bags.indptr[single]], k, **filters)
        ids[single], scores[single] = found.ids, found.scores
    several = np.flatnonzero(bags.counts > 1)
    for start in range(0, len(several), ROWS):
        rows = several[start : start + ROWS]
        best = best_of_bags(index, bags[rows], k, **filters)
        ids[rows], scores[rows] = best.ids, best.scores
    return TopK(ids, scores)


def best_of_bags(index: Searchable, bags: Bags, k: int, **filters: Any) -> TopK:
    """`search_bags` for texts of several passages."""
    found = index.search(bags.vectors, max(k, DEPTH), **filters)
    best = []
    for row in range(len(bags)):
        own = slice(bags.indptr[row], bags.indptr[row + 1])
        ids = np.unique(found.ids[own])
        ids = ids[ids >= 0]
        blocks = (passage_scores(index, bags.vectors[own], ids[i : i + LABELS]) for i in range(0, len(ids), LABELS))
        pooled = np.concatenate([np.empty(0, np.float32), *map(bags.passages.pooled, blocks)])
        order = np.argsort(-pooled, kind="stable")[:k]
        best.append(as_topk(ids[None, order], pooled[None, order].astype(np.float32), k))
    return TopK(np.concatenate([one.ids for one in best]), np.concatenate([one.scores for one in best]))


def passage_scores(index: Searchable, vectors: np.ndarray, label_ids: np.ndarray) -> np.ndarray:
    """The scores of labels `[n]` by each passage `[T, D]` of a text, float32 `[T, n]`; -inf for labels that are not in
    the index."""
    if not index.has_several_texts:
        return vectors @ index.vectors(label_ids).T
    unique = np.unique(label_ids)
    found = index.search(vectors, len(unique), allowed=unique)
    scores = np.full((len(vectors), len(unique)), -np.inf, np.float32)
    rows, columns = np.nonzero(found.ids >= 0)
    scores[rows, np.searchsorted(unique, found.ids[rows, columns])] = found.scores[rows, columns]
    return scores[:, np.searchsorted(unique, label_ids)]
