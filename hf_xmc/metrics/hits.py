"""Which predictions are true: the one step that touches every predicted id, and the only place where ties are broken."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hf_xmc.types import Array, Positives, TopK

SLOTS = 1024  # buckets a row in the filter of `_contains`; a power of two
CHUNK_ROWS = 1024  # filter and predictions of so many rows stay within a core's cache


@dataclass(frozen=True)
class Hits:
    """Predictions in their final order, beside the truth.

    Args:
        ids: int64 `[N, depth]`, best first; -1 where a rank is missing or repeats a label of a better rank.
        hit: bool `[N, depth]`, whether the id is a positive of its query.
        first: int64 `[N]`, rank (from 1) of the first hit among all K columns, 0 if there is none.
        positives: the truth, numpy arrays.
    """

    ids: np.ndarray
    hit: np.ndarray
    first: np.ndarray
    positives: Positives


def find_hits(topk: TopK, positives: Positives, depth: int, filters: Positives | None = None) -> Hits:
    """Order predictions by (-score, id), drop the filtered pairs, and mark the hits among the first `depth`.

    Rows are worked off in chunks, so that memory stays linear in N * K.

    Raises:
        ValueError: other numbers of rows than the truth, a score that is NaN, ids below -1, or a truth or filter that
            is not sorted CSR. The message names the row.
    """
    ids, scores = _to_numpy(topk.ids), _to_numpy(topk.scores)
    if not np.issubdtype(ids.dtype, np.integer):
        raise ValueError(f"Predicted ids must be integers, found {ids.dtype}.")
    truth = _checked(positives, len(ids), "positives")
    dropped = None if filters is None else _checked(filters, len(ids), "filters")
    width = min(depth, ids.shape[1])
    found = Hits(
        np.full((len(ids), depth), -1, dtype=np.int64),
        np.zeros((len(ids), depth), dtype=bool),
        np.zeros(len(ids), dtype=np.int64),
        truth,
    )
    if not ids.shape[1]:
        return found
    for start in range(0, len(ids), CHUNK_ROWS):
        rows = slice(start, start + CHUNK_ROWS)
        ranked = _ranked(ids[rows], scores[rows], dropped, start)
        hit = _contains(ranked, truth, start)
        first = hit.argmax(axis=1)
        found.first[rows] = np.where(hit[np.arange(len(hit)), first], first + 1, 0)
        found.ids[rows, :width], found.hit[rows, :width] = ranked[:, :width], hit[:, :width]
    _drop_repeats(found)
    return found


def _to_numpy(x: Array) -> np.ndarray:
    if hasattr(x, "detach"):  # a torch tensor
        x = x.detach().cpu()
        x = x.float() if x.is_floating_point() and x.dtype.itemsize < 4 else x  # numpy has no bfloat16
    return np.asarray(x)


def _checked(pairs: Positives, num_rows: int, name: str) -> Positives:
    if len(pairs) != num_rows:
        raise ValueError(
            f"Predictions have {num_rows:,} rows, but {name} have {len(pairs):,}; were they made for the same split?"
        )
    pairs = pairs.numpy()
    pairs.validate()
    return pairs


def _ranked(ids: np.ndarray, scores: np.ndarray, dropped: Positives | None, start: int) -> np.ndarray:
    """Ids `[R, K]` of a chunk of rows in their final order; padding and dropped pairs, as -1, come last."""
    ids = ids.astype(np.int64)  # a copy: what follows writes
    if dropped is not None:
        ids[_contains(ids, dropped, start)] = -1
    padding = ids < 0
    if padding.any():
        if (ids < -1).any():
            raise ValueError(f"Row {start + int((ids < -1).any(1).argmax())} predicts id {ids.min()}; padding is -1.")
        scores = np.where(padding, -np.inf, scores)
    if np.isnan(scores).any():
        raise ValueError(f"Row {start + int(np.isnan(scores).any(1).argmax())} has a score that is NaN.")
    tie_breaker = ids.view(np.uint64)  # -1 becomes the largest of all: of equal scores padding is last
    ordered = (scores[:, :-1] > scores[:, 1:]) | (
        (scores[:, :-1] == scores[:, 1:]) & (tie_breaker[:, :-1] <= tie_breaker[:, 1:])
    )
    unordered = np.flatnonzero(~ordered.all(axis=1))
    if len(unordered):
        order = np.lexsort((tie_breaker[unordered], -scores[unordered]), axis=1)
        ids[unordered] = np.take_along_axis(ids[unordered], order, axis=1)
    return ids


def _contains(ids: np.ndarray, pairs: Positives, start: int) -> np.ndarray:
    """Whether each id stands in its row of `pairs`; ids `[R, K]` are rows `start` to `start + R` of it.

    A search for every id would cost more than sorting them. So a row's pairs are first thrown into a few buckets, and
    only ids whose bucket is taken (the true ones, and about one in SLOTS / pairs others) are searched.
    """
    pointers = pairs.indptr[start : start + len(ids) + 1]
    indices = pairs.indices[pointers[0] : pointers[-1]]
    if not len(indices):
        return np.zeros(ids.shape, dtype=bool)
    row_of_pair = np.repeat(np.arange(len(ids)), np.diff(pointers))
    taken = np.zeros(len(ids) * SLOTS, dtype=bool)
    taken[row_of_pair * SLOTS + (indices & (SLOTS - 1))] = True
    found = taken[(ids & (SLOTS - 1)) + np.arange(len(ids))[:, None] * SLOTS]
    maybe = np.nonzero(found)
    stride = max(int(ids.max()), int(indices.max())) + 2  # one number a (row, id), padding included
    keys = row_of_pair * stride + indices + 1
    wanted = maybe[0] * stride + ids[maybe] + 1
    found[maybe] = keys[np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)] == wanted
    return found


def _drop_repeats(found: Hits) -> None:
    """A label predicted twice counts at its best rank; the worse rank stays, as a miss."""
    order = np.argsort(found.ids, axis=1, kind="stable")
    in_order = np.take_along_axis(found.ids, order, axis=1)
    row, column = np.nonzero((in_order[:, 1:] == in_order[:, :-1]) & (in_order[:, 1:] >= 0))
    found.ids[row, order[row, column + 1]] = -1
    found.hit[row, order[row, column + 1]] = False
