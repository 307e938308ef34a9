"""The two array types that every part of the package shares: the true labels, and the predicted ones."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hf_xmc.errors import DataError

Array = Any  # a numpy array or a torch tensor; only what both support is used here
SLOTS = 512  # buckets per row in the filter of `contains_ids`; a power of two
CHUNK_ROWS = 1024  # the filter and the predictions of this many rows stay within a core's cache


@dataclass(frozen=True)
class Positives:
    """The positive labels of each query, as a sparse matrix in CSR form.

    Args:
        indptr: integers, shape `[N + 1]`; row `i` owns `indices[indptr[i]:indptr[i + 1]]`.
        indices: label ids, shape `[nnz]`, sorted within a row and without repeats.
        weights: optional relevance, one float per pair, shape `[nnz]`. Losses turn their mean over the positives of a
            query into the weighted mean.

    Arrays are numpy arrays or torch tensors, all of the same kind. Nothing is checked on construction, which happens
    in every training step; call `validate` to check.

    >>> positives = Positives.from_lists([[3, 1], [], [2]])
    >>> positives.indices.tolist(), len(positives), positives.row(0).tolist()
    ([1, 3, 2], 3, [1, 3])
    """

    indptr: Array
    indices: Array
    weights: Array | None = None

    @classmethod
    def from_lists(cls, rows: Iterable[Sequence[int]], weights: Iterable[Sequence[float]] | None = None) -> Positives:
        """Build from one list of label ids per query; ids are sorted, and weights follow their id.

        Raises:
            DataError: an id that is no whole number, a row that repeats one, or weights of another number.
        """
        rows = [list(row) if isinstance(row, Iterable) else [row] for row in rows]
        flat = np.asarray([id_ for row in rows for id_ in row])
        if flat.size and flat.dtype.kind not in "iu":
            wrong = next((id_ for row in rows for id_ in row if type(id_) is not int), flat[0])
            raise DataError(f"{wrong!r:.60} is no label id; give whole numbers, which are rows of the label table.")
        indptr = np.zeros(len(rows) + 1, dtype=np.int64)
        np.cumsum([len(row) for row in rows], out=indptr[1:])
        indices = flat.astype(np.int64)
        row_of_pair = np.repeat(np.arange(len(rows)), np.diff(indptr))
        order = np.lexsort((indices, row_of_pair))
        values = None
        if weights is not None:
            values = np.fromiter((w for row in weights for w in row), dtype=np.float32)
            if len(values) != len(indices):
                raise DataError(f"Found {len(values)} weights for {len(indices)} positives; give one per pair.")
            values = values[order]
        positives = cls(indptr, indices[order], values)
        positives.validate()
        return positives

    @classmethod
    def from_padded(cls, ids: Array) -> Positives:
        """Build from a table `[N, K]` of label ids, in any order, padded with -1.

        >>> pairs = Positives.from_padded(np.array([[7, 2, -1], [-1, -1, -1]]))
        >>> pairs.indptr.tolist(), pairs.indices.tolist()
        ([0, 2, 2], [2, 7])
        """
        # Sorting puts the padding first.
        ids = np.sort(ids.astype(np.int64), axis=1) if isinstance(ids, np.ndarray) else ids.long().sort(1).values
        real = ids >= 0
        return cls(_pointers(real.sum(1)), ids[real])

    def __len__(self) -> int:
        """Number of queries (rows)."""
        return len(self.indptr) - 1

    @property
    def counts(self) -> Array:
        """Number of positives per query, shape `[N]`."""
        return self.indptr[1:] - self.indptr[:-1]

    @property
    def rows(self) -> Array:
        """The query (row) of each pair, shape `[nnz]`.

        >>> Positives.from_lists([[4, 9], [], [5]]).rows.tolist()
        [0, 0, 2]
        """
        if isinstance(self.indices, np.ndarray):
            return np.repeat(np.arange(len(self)), self.counts)
        torch = _torch()
        return torch.repeat_interleave(torch.arange(len(self), device=self.indices.device), self.counts)

    def keys(self, num_labels: int | None = None) -> Array:
        """One integer per pair, `row * num_labels + id`, which rises from pair to pair; shape `[nnz]`.

        Keys of two sets can be compared where `num_labels` is the same for both; by default it is the largest id of
        this set + 1.

        >>> Positives.from_lists([[4, 9], [], [5]]).keys(10).tolist()
        [4, 9, 25]
        """
        return self.rows * (_stride(self) if num_labels is None else num_labels) + self.indices

    def contains(self, topk: TopK) -> np.ndarray:
        """Which predictions are in this set, bool `[N, K]`; padding never is.

        Raises:
            DataError: another number of rows than the predictions.

        >>> positives = Positives.from_lists([[4], [7, 9]])
        >>> positives.contains(TopK.from_lists([[4, 7], [9]])).tolist()
        [[True, False], [True, False]]
        """
        ids, pairs = to_numpy(topk.ids).astype(np.int64, copy=False), self.numpy()
        if len(ids) != len(pairs):
            raise DataError(f"Found {len(ids):,} rows of predictions, but {len(pairs):,} rows of pairs.")
        found = np.zeros(ids.shape, dtype=bool)
        for start in range(0, len(ids), CHUNK_ROWS):
            found[start : start + CHUNK_ROWS] = contains_ids(ids[start : start + CHUNK_ROWS], pairs, start)
        return found

    def contains_pairs(self, others: Positives) -> Array:
        """Which pairs of `others` are in this set, bool, one per pair of `others`.

        >>> Positives.from_lists([[9], [5]]).contains_pairs(Positives.from_lists([[4, 9], [4]])).tolist()
        [False, True, False]
        """
        num_labels = max(_stride(self), _stride(others))
        keys, wanted = self.keys(num_labels), others.keys(num_labels)
        return np.isin(wanted, keys) if isinstance(keys, np.ndarray) else _torch().isin(wanted, keys)

    def keep(self, mask: Array) -> Positives:
        """The pairs where a mask `[nnz]` holds, with the same number of rows.

        >>> kept = Positives.from_lists([[4, 9], [5]]).keep(np.array([False, True, True]))
        >>> kept.indptr.tolist(), kept.indices.tolist()
        ([0, 1, 2], [9, 5])
        """
        before = _pointers(mask)  # kept pairs before each pair
        weights = None if self.weights is None else self.weights[mask]
        return Positives(before[self.indptr], self.indices[mask], weights)

    def without(self, labels: Iterable[int]) -> Positives:
        """This set without any pair of the given labels, as numpy arrays.

        >>> Positives.from_lists([[0, 2], [2], [1, 3]]).without({2}).indptr.tolist()
        [0, 1, 1, 3]
        """
        pairs = self.numpy()
        return pairs.keep(~np.isin(pairs.indices, np.fromiter(labels, dtype=np.int64)))

    def minus(self, others: Positives | None) -> Positives:
        """The pairs that are not in `others`.

        >>> Positives.from_lists([[4, 9], [5]]).minus(Positives.from_lists([[9], []])).indices.tolist()
        [4, 5]
        """
        return self if others is None else self.keep(~others.contains_pairs(self))

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
        """Check that this is a well-formed set of pairs.

        Raises:
            DataError: pointers that do not fit, ids below 0 or not below `num_labels`, a row that is not sorted or
                repeats a label, weights of another length. The message names the row.
        """
        csr = self.numpy()
        if csr.indptr[0] != 0 or csr.indptr[-1] != len(csr.indices) or (np.diff(csr.indptr) < 0).any():
            raise DataError(
                f"Positives have {len(csr.indices)} indices, but their indptr runs from {csr.indptr[0]} to "
                f"{csr.indptr[-1]}; it must start at 0, never fall, and end at the number of indices."
            )
        if csr.weights is not None and len(csr.weights) != len(csr.indices):
            raise DataError(f"Found {len(csr.weights)} weights for {len(csr.indices)} positives; give one per pair.")
        if not len(csr.indices):
            return
        row_of_pair = csr.rows
        outside = csr.indices < 0 if num_labels is None else (csr.indices < 0) | (csr.indices >= num_labels)
        if outside.any():
            pair = int(outside.argmax())
            table = "" if num_labels is None else f"; the label table has {num_labels:,} rows"
            raise DataError(
                f"Row {row_of_pair[pair]} refers to label id {csr.indices[pair]:,}{table}. "
                "Were positives and labels built from different sources?"
            )
        step, same_row = np.diff(csr.indices), np.diff(row_of_pair) == 0
        if (bad := same_row & (step == 0)).any():
            pair = int(bad.argmax())
            raise DataError(
                f"Row {row_of_pair[pair]} names label id {csr.indices[pair]} more than once; remove the duplicate."
            )
        if (bad := same_row & (step < 0)).any():
            raise DataError(
                f"The label ids of row {row_of_pair[int(bad.argmax())]} are not sorted; "
                "sort them, or build with Positives.from_lists."
            )

    def numpy(self) -> Positives:
        """This set as numpy arrays (int64 ids, float32 weights)."""
        weights = None if self.weights is None else to_numpy(self.weights).astype(np.float32, copy=False)
        indptr, indices = (to_numpy(x).astype(np.int64, copy=False) for x in (self.indptr, self.indices))
        return Positives(indptr, indices, weights)

    def torch(self, device: Any = None) -> Positives:
        """This set as torch tensors (int64 ids), on `device`."""
        torch = _torch()
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
            raise DataError(
                f"TopK needs ids and scores of one shape [N, K], found {tuple(self.ids.shape)} and "
                f"{tuple(self.scores.shape)}."
            )

    @classmethod
    def from_lists(cls, rows: Sequence[Sequence[int]]) -> TopK:
        """Build from one list of label ids per query, best first; each rank scores one less than the rank before.

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

    def first(self, k: int) -> TopK:
        """The first k columns, or all of them if there are fewer.

        >>> TopK.from_lists([[7, 2, 5]]).first(2).ids.tolist()
        [[7, 2]]
        """
        return TopK(self.ids[:, :k], self.scores[:, :k])

    def padded(self, k: int) -> TopK:
        """These results as numpy arrays with exactly k columns: cut, or filled up with padding.

        >>> TopK.from_lists([[7, 2]]).padded(3).ids.tolist(), TopK.from_lists([[7, 2]]).padded(1).ids.tolist()
        ([[7, 2, -1]], [[7]])
        """
        ids, scores = to_numpy(self.ids)[:, :k], to_numpy(self.scores)[:, :k]
        missing = ((0, 0), (0, k - ids.shape[1]))
        return TopK(np.pad(ids, missing, constant_values=-1), np.pad(scores, missing, constant_values=-np.inf))

    def sorted(self) -> TopK:
        """These results as numpy arrays, each row by falling score; of equal scores the lower id comes first.

        >>> TopK(np.array([[7, 2, -1]]), np.array([[0.5, 0.5, -np.inf]])).sorted().ids.tolist()
        [[2, 7, -1]]
        """
        ids, scores = to_numpy(self.ids), to_numpy(self.scores)
        scores = np.where(ids < 0, -np.inf, scores)
        ahead, behind = scores[:, :-1], scores[:, 1:]
        if ((ahead > behind) | ((ahead == behind) & (ids[:, :-1] <= ids[:, 1:]))).all():
            return TopK(ids, scores)  # as searches return them; checking is much faster than sorting
        order = np.lexsort((ids, -scores), axis=1)
        return TopK(np.take_along_axis(ids, order, 1), np.take_along_axis(scores, order, 1))


def to_numpy(x: Array) -> np.ndarray:
    """A numpy array, or a torch tensor on any device, as a numpy array; bfloat16 becomes float32."""
    if hasattr(x, "detach"):
        x = x.detach().cpu()
        x = x.float() if x.is_floating_point() and x.dtype.itemsize < 4 else x  # numpy has no bfloat16
    return np.asarray(x)


def contains_ids(ids: np.ndarray, pairs: Positives, start: int = 0) -> np.ndarray:
    """Whether each id is in its row of `pairs`; ids, int64 `[R, K]`, are rows `start` to `start + R` of it.

    Searching for every id would cost more than sorting them. So a row's pairs are first put into a few buckets, and
    only ids whose bucket is taken (the true ones, and about one in SLOTS / pairs others) are searched for.
    """
    pointers = pairs.indptr[start : start + len(ids) + 1]
    indices = pairs.indices[pointers[0] : pointers[-1]]
    if not len(indices):
        return np.zeros(ids.shape, dtype=bool)
    row_of_pair = np.repeat(np.arange(len(ids)), np.diff(pointers))
    taken = np.zeros(len(ids) * SLOTS, dtype=bool)
    taken[row_of_pair * SLOTS + (indices & (SLOTS - 1))] = True
    slots = ids & (SLOTS - 1)
    slots += np.arange(len(ids))[:, None] * SLOTS
    found = taken.take(slots.ravel(), mode="clip")  # no id is out of range; clip only saves the check
    maybe = np.flatnonzero(found)
    wanted_ids = ids.ravel()[maybe]
    stride = max(int(wanted_ids.max(initial=0)), int(indices.max())) + 2  # one number per (row, id), with padding
    keys = row_of_pair * stride + indices + 1
    wanted = maybe // ids.shape[1] * stride + wanted_ids + 1
    found[maybe] = keys[np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)] == wanted
    return found.reshape(ids.shape)


def _stride(pairs: Positives) -> int:
    """The largest label id + 1."""
    return int(pairs.indices.max()) + 1 if len(pairs.indices) else 1


def _pointers(counts: Array) -> Array:
    """Where each row starts and the last one ends, int64 `[N + 1]`, from the counts `[N]` of the rows."""
    if isinstance(counts, np.ndarray):
        return np.concatenate([np.zeros(1, dtype=np.int64), counts.cumsum(dtype=np.int64)])
    torch = _torch()
    return torch.cat([counts.new_zeros(1, dtype=torch.int64), counts.cumsum(0)])


def _torch() -> Any:
    """torch, imported late: the metrics need these types without torch."""
    import torch

    return torch
