"""The two array types that every part of the package shares: who is true for whom, and what was predicted."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = Any  # a numpy array or a torch tensor; both support what is used of them here


@dataclass(frozen=True)
class Positives:
    """The positive labels of each query, as a sparse matrix in CSR form.

    Args:
        indptr: integers, shape `[N + 1]`; row `i` owns `indices[indptr[i]:indptr[i + 1]]`.
        indices: label ids, shape `[nnz]`, sorted within a row and without repeats.
        weights: optional relevance, one float a pair, shape `[nnz]`. Losses turn their mean over the positives of a
            query into the weighted mean.

    Arrays are numpy arrays or torch tensors, all of the same kind. Nothing is checked here, because this is made in
    every training step; `validate` checks.

    >>> positives = Positives.from_lists([[3, 1], [], [2]])
    >>> positives.indices.tolist(), len(positives), positives.row(0).tolist()
    ([1, 3, 2], 3, [1, 3])
    """

    indptr: Array
    indices: Array
    weights: Array | None = None

    @classmethod
    def from_lists(cls, rows: Iterable[Sequence[int]], weights: Iterable[Sequence[float]] | None = None) -> Positives:
        """Build from one list of label ids a query; ids are sorted, and weights follow their id.

        Raises:
            ValueError: a label id stands twice in a row, or a row has not one weight an id.
        """
        rows = list(rows)
        indptr = np.zeros(len(rows) + 1, dtype=np.int64)
        np.cumsum([len(row) for row in rows], out=indptr[1:])
        indices = np.fromiter((id_ for row in rows for id_ in row), dtype=np.int64, count=int(indptr[-1]))
        row_of_pair = np.repeat(np.arange(len(rows)), np.diff(indptr))
        order = np.lexsort((indices, row_of_pair))
        values = None
        if weights is not None:
            values = np.fromiter((w for row in weights for w in row), dtype=np.float32)
            if len(values) != len(indices):
                raise ValueError(f"Found {len(values)} weights for {len(indices)} positives; give one weight a pair.")
            values = values[order]
        positives = cls(indptr, indices[order], values)
        positives.validate()
        return positives

    def __len__(self) -> int:
        """Number of queries (rows)."""
        return len(self.indptr) - 1

    @property
    def counts(self) -> Array:
        """Positives a query, shape `[N]`."""
        return self.indptr[1:] - self.indptr[:-1]

    def row(self, i: int) -> Array:
        """The label ids of query `i`."""
        return self.indices[int(self.indptr[i]) : int(self.indptr[i + 1])]

    def take(self, rows: Array) -> Positives:
        """The given rows (ids, or a mask over all rows), in the given order, as numpy arrays."""
        rows = np.asarray(rows)
        source, rows = self.numpy(), np.flatnonzero(rows) if rows.dtype == bool else rows.astype(np.int64)
        counts = source.counts[rows]
        indptr = np.zeros(len(rows) + 1, dtype=np.int64)
        np.cumsum(counts, out=indptr[1:])
        pairs = np.arange(indptr[-1]) - np.repeat(indptr[:-1] - source.indptr[rows], counts)
        return Positives(indptr, source.indices[pairs], None if source.weights is None else source.weights[pairs])

    def label_counts(self, num_labels: int) -> np.ndarray:
        """How many queries have each label, int64 `[L]`."""
        return np.bincount(self.numpy().indices, minlength=num_labels)

    def validate(self, num_labels: int | None = None) -> None:
        """Check the form.

        Raises:
            ValueError: pointers that do not fit, ids below 0 or not below `num_labels`, a row that is not sorted or
                names a label twice, weights of another length. The message names the row.
        """
        csr = self.numpy()
        if csr.indptr[0] != 0 or csr.indptr[-1] != len(csr.indices) or (np.diff(csr.indptr) < 0).any():
            raise ValueError(
                f"Positives have {len(csr.indices)} indices, but their indptr runs from {csr.indptr[0]} to "
                f"{csr.indptr[-1]}; it must start at 0, never fall, and end at the number of indices."
            )
        if csr.weights is not None and len(csr.weights) != len(csr.indices):
            raise ValueError(f"Found {len(csr.weights)} weights for {len(csr.indices)} positives; give one a pair.")
        if not len(csr.indices):
            return
        row_of_pair = np.repeat(np.arange(len(csr)), csr.counts)
        outside = csr.indices < 0 if num_labels is None else (csr.indices < 0) | (csr.indices >= num_labels)
        if outside.any():
            pair = int(outside.argmax())
            table = "" if num_labels is None else f"; the label table has {num_labels:,} rows"
            raise ValueError(
                f"Row {row_of_pair[pair]} refers to label id {csr.indices[pair]:,}{table}. "
                "Were positives and labels built from different sources?"
            )
        step, same_row = np.diff(csr.indices), np.diff(row_of_pair) == 0
        if (bad := same_row & (step == 0)).any():
            pair = int(bad.argmax())
            raise ValueError(
                f"Row {row_of_pair[pair]} names label id {csr.indices[pair]} more than once; remove the duplicate."
            )
        if (bad := same_row & (step < 0)).any():
            raise ValueError(
                f"The label ids of row {row_of_pair[int(bad.argmax())]} are not sorted; "
                "sort them, or build with Positives.from_lists."
            )

    def numpy(self) -> Positives:
        """The same on numpy arrays (int64 ids, float32 weights)."""
        to_numpy = lambda x, dtype: np.asarray(x.cpu() if hasattr(x, "cpu") else x, dtype=dtype)  # noqa: E731
        weights = None if self.weights is None else to_numpy(self.weights, np.float32)
        return Positives(to_numpy(self.indptr, np.int64), to_numpy(self.indices, np.int64), weights)

    def torch(self, device: Any = None) -> Positives:
        """The same on torch tensors (int64 ids), on `device`."""
        import torch  # metrics need these types, but not torch

        weights = None if self.weights is None else torch.as_tensor(self.weights, device=device)
        indptr = torch.as_tensor(self.indptr, dtype=torch.int64, device=device)
        return Positives(indptr, torch.as_tensor(self.indices, dtype=torch.int64, device=device), weights)


@dataclass(frozen=True)
class TopK:
    """The best labels of each query, best first.

    Args:
        ids: label ids, integers `[N, K]`; -1 where a query has fewer than K results.
        scores: their scores, floats `[N, K]`; -inf at padding.
    """

    ids: Array
    scores: Array

    def __post_init__(self) -> None:
        if tuple(self.ids.shape) != tuple(self.scores.shape) or len(self.ids.shape) != 2:
            raise ValueError(
                f"TopK needs ids and scores of one shape [N, K], found {tuple(self.ids.shape)} and "
                f"{tuple(self.scores.shape)}."
            )

    @classmethod
    def from_lists(cls, rows: Sequence[Sequence[int]]) -> TopK:
        """From one list of label ids a query, best first; scores fall by one a rank.

        >>> TopK.from_lists([[7, 2], [5]]).ids.tolist()
        [[7, 2], [5, -1]]
        """
        width = max((len(row) for row in rows), default=0)
        ids = np.full((len(rows), width), -1, dtype=np.int64)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = row
        return cls(ids, np.broadcast_to(-np.arange(width, dtype=np.float32), ids.shape))

    def __len__(self) -> int:
        """Number of queries (rows)."""
        return int(self.ids.shape[0])

    @property
    def k(self) -> int:
        """Number of columns."""
        return int(self.ids.shape[1])

    def sorted(self) -> TopK:
        """The same as numpy arrays, rows ordered by falling score; of equal scores the lower id comes first.

        >>> TopK(np.array([[7, 2, -1]]), np.array([[0.5, 0.5, -np.inf]])).sorted().ids.tolist()
        [[2, 7, -1]]
        """
        ids = np.asarray(self.ids.cpu() if hasattr(self.ids, "cpu") else self.ids)
        # numpy has no bfloat16
        scores = np.asarray(self.scores.float().cpu() if hasattr(self.scores, "cpu") else self.scores)
        scores = np.where(ids < 0, -np.inf, scores)
        ahead, behind = scores[:, :-1], scores[:, 1:]
        if ((ahead > behind) | ((ahead == behind) & (ids[:, :-1] <= ids[:, 1:]))).all():
            return TopK(ids, scores)  # as searches give them; to look is much faster than to sort
        order = np.lexsort((ids, -scores), axis=1)
        return TopK(np.take_along_axis(ids, order, 1), np.take_along_axis(scores, order, 1))
