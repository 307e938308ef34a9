"""Which predictions are right: the only step that looks at every predicted id, and the only one that breaks ties."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hf_xmc.errors import DataError
from hf_xmc.types import CHUNK_ROWS, Positives, TopK, contains_ids, to_numpy


@dataclass(frozen=True)
class Hits:
    """Predictions in their final order, with the truth.

    Args:
        ids: int64 `[N, depth]`, best first; -1 if a rank is missing or repeats a label with a better rank.
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

    Rows are processed in chunks, so that memory stays linear in N * K.

    Raises:
        ValueError: the truth has another number of rows, a score is NaN, ids are not integers or below -1, or the
            truth or filter is not sorted CSR. The message names the row.
    """
    ids, scores = to_numpy(topk.ids), to_numpy(topk.scores)
    if not np.issubdtype(ids.dtype, np.integer):
        raise DataError(f"Predicted ids must be integers, found {ids.dtype}.")
    truth = _checked(positives, len(ids), "positives")
    dropped = None if filters is None else _checked(filters, len(ids), "filters")
    width = min(depth, ids.shape[1])
    found = Hits(
        np.full((len(ids), depth), -1, dtype=np.int64),
        np.zeros((len(ids), depth), dtype=bool),
        np.zeros(len(ids), dtype=np.int64),
        truth,
    )
    for start in range(0, len(ids) if width else 0, CHUNK_ROWS):
        rows = slice(start, start + CHUNK_ROWS)
        ranked = ranked_ids(ids[rows], scores[rows], dropped, start)
        hit = contains_ids(ranked, truth, start)
        first = hit.argmax(axis=1)
        found.first[rows] = np.where(hit[np.arange(len(hit)), first], first + 1, 0)
        found.ids[rows, :width], found.hit[rows, :width] = ranked[:, :width], hit[:, :width]
    _drop_repeats(found)
    return found


def search_depth(k: int, filters: Positives | None) -> int:
    """The number of predictions per query that leave at least k after filtering.

    >>> search_depth(5, Positives.from_lists([[1], [2, 7]])), search_depth(5, None)
    (7, 5)
    """
    return k if filters is None else k + int(max(filters.counts, default=0))


def drop_pairs(topk: TopK, filters: Positives | None) -> TopK:
    """Predictions with the pairs that a filter list excludes replaced by padding (-1, -inf).

    >>> drop_pairs(TopK.from_lists([[4, 2], [7, 4]]), Positives.from_lists([[4], []])).ids.tolist()
    [[-1, 2], [7, 4]]
    """
    if filters is None:
        return topk
    ids, scores = to_numpy(topk.ids), to_numpy(topk.scores)
    gone = _checked(filters, len(ids), "filters").contains(topk)
    return TopK(np.where(gone, -1, ids), np.where(gone, -np.inf, scores))


def ranked_ids(ids: np.ndarray, scores: np.ndarray, dropped: Positives | None = None, start: int = 0) -> np.ndarray:
    """Ids `[R, K]` of a chunk of rows in their final order; padding and dropped pairs, as -1, come last.

    The chunk starts at row `start` of `dropped`. Predictions are usually ordered already, so rows with strictly
    decreasing scores are kept as they are. The others are sorted by integers that combine score and id, which also
    breaks ties.
    """
    if ids.dtype != np.int64:
        ids = ids.astype(np.int64)
    lowest = ids.min(initial=0)
    if lowest < -1:
        raise DataError(f"Row {start + int((ids < -1).any(1).argmax())} predicts label id {lowest}; padding is -1.")
    if dropped is not None and (gone := contains_ids(ids, dropped, start)).any():
        ids, lowest = np.where(gone, -1, ids), -1
    if lowest < 0:
        scores = np.where(ids < 0, -np.inf, scores)
    flat = np.ascontiguousarray(scores).ravel()
    falls = np.empty(flat.shape, dtype=bool)
    np.greater(flat[:-1], flat[1:], out=falls[:-1])  # one long comparison; the next line corrects those across rows
    falls[scores.shape[1] - 1 :: scores.shape[1]] = ~np.isnan(scores[:, -1])
    if falls.all():
        return ids
    rows = np.flatnonzero(~falls.reshape(scores.shape).all(axis=1))
    if (invalid := np.isnan(scores[rows]).any(axis=1)).any():
        raise DataError(f"Row {start + int(rows[invalid.argmax()])} has a score that is NaN.")
    if len(rows) == len(ids):
        return _sorted_ids(ids, scores)
    result = ids.copy()
    result[rows] = _sorted_ids(ids[rows], scores[rows])
    return result


def _sorted_ids(ids: np.ndarray, scores: np.ndarray) -> np.ndarray:
    narrow = scores.astype(np.float32, copy=False)
    if ids.max() >= 2**32 - 1 or not np.array_equal(narrow, scores):
        order = np.lexsort((ids.view(np.uint64), -scores), axis=1)  # -1 is the largest unsigned number: padding last
        return np.take_along_axis(ids, order, axis=1)
    bits = (narrow + np.float32(0)).view(np.int32)  # + 0 makes -0.0 and 0.0 the same bits
    # The larger of two floats gets the smaller integer. As signed integers, the bits of positive floats increase with
    # the float and those of negative floats decrease, so the former are inverted.
    keys = np.where(bits < 0, bits ^ -(2**31), ~bits).astype(np.int64)
    keys <<= 32
    keys |= ids & 0xFFFFFFFF  # padding becomes the largest id
    keys.sort(axis=1)
    keys &= 0xFFFFFFFF
    if ids.min() < 0:
        keys[keys == 0xFFFFFFFF] = -1
    return keys


def _drop_repeats(found: Hits) -> None:
    """A label that is predicted twice counts at its better rank; the other rank counts as a miss."""
    ordered = np.sort(found.ids, axis=1)
    rows = np.flatnonzero(((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)).any(axis=1))
    ids = found.ids[rows]
    order = np.argsort(ids, axis=1, kind="stable")
    ordered = np.take_along_axis(ids, order, axis=1)
    row, column = np.nonzero(ordered[:, 1:] == ordered[:, :-1])
    found.ids[rows[row], order[row, column + 1]] = -1
    found.hit[rows[row], order[row, column + 1]] = False


def _checked(pairs: Positives, num_rows: int, name: str) -> Positives:
    if len(pairs) != num_rows:
        raise DataError(
            f"Predictions have {num_rows:,} rows, but {name} have {len(pairs):,}; were they made for the same split?"
        )
    pairs = pairs.numpy()
    pairs.validate()
    return pairs
