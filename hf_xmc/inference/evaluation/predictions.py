"""Files of predictions, of this package and of other systems."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json
import pyarrow.parquet as pq

from hf_xmc.data.dialect import encoding_of
from hf_xmc.data.files import json_lines, plain_suffix, replacing
from hf_xmc.data.rows import JSON
from hf_xmc.data.transaction import finish
from hf_xmc.errors import DataError, Problems
from hf_xmc.types import TopK

FORM = "expected columns ids or labels (lists of label ids or label uids), best first, optionally scores and uid"


def write_predictions(topk: TopK, uids: Sequence[str], path: str | Path) -> Path:
    """Write `predictions.parquet`: columns `uid`, `ids: list<int32>`, `scores` in the precision given; no padding."""
    path = Path(path)
    ordered = topk.sorted()
    if len(ordered) != len(uids):
        raise DataError(
            f"there are {len(ordered):,} rows of predictions and {len(uids):,} uids", hint="give one uid per row"
        )
    kept = ordered.ids >= 0
    precision = pa.float64() if ordered.scores.dtype == np.float64 else pa.float32()
    offsets = pa.array(np.concatenate([[0], np.cumsum(kept.sum(axis=1))]), pa.int32())
    table = pa.table(
        {
            "uid": pa.array(uids, pa.string()),
            "ids": pa.ListArray.from_arrays(offsets, pa.array(ordered.ids[kept], pa.int32())),
            "scores": pa.ListArray.from_arrays(offsets, pa.array(ordered.scores[kept], precision)),
        }
    )
    with replacing(path) as temporary:
        pq.write_table(table, temporary)
    return path


def read_predictions(path: str | Path, uids: Sequence[str], label_uids: Sequence[str]) -> TopK:
    """Read predictions of any system from `.parquet` or `.jsonl`, in the order of the queries `uids`.

    Each row is a query. Its labels, best first, are in a column `ids` or `labels`: as integer ids (rows of the label
    table), as label uids, or in the form that `hf-xmc predict` writes. Their scores are in `scores`; without that
    column, the order ranks them. With a column `uid`, rows may come in any order; without it, they must be the queries
    of the split in their order.

    Returns:
        ids int64 `[N, K]` and scores float64 `[N, K]`, K that of the longest row.

    Raises:
        DataError: a file in another form, a query or label that is unknown, missing or repeated, or scores that do not
            fit their labels; the message names the file and the row.
    """
    path = Path(path)
    try:
        return _predictions(_read(path), path, uids, label_uids)
    except (pa.ArrowException, IndexError) as error:
        raise DataError(f"cannot be understood ({error!s:.200})", path, hint=FORM) from error


def _predictions(table: pa.Table, path: Path, uids: Sequence[str], label_uids: Sequence[str]) -> TopK:
    name = next((name for name in ("ids", "labels") if name in table.column_names), None)
    if name is None:
        raise DataError(f"no column ids or labels (found {', '.join(table.column_names) or 'none'})", path, hint=FORM)
    lists = _column(table, name)
    if pa.types.is_null(lists.type):
        lists = lists.cast(pa.list_(pa.int64()))
    if not pa.types.is_list(lists.type) and not pa.types.is_large_list(lists.type):
        raise DataError(f"column {name} is {lists.type}", path, hint=FORM)
    lengths = np.asarray(lists.value_lengths().fill_null(0), dtype=np.int64)
    flat = lists.flatten()
    scores = None
    if pa.types.is_struct(flat.type):
        fields = [field.name for field in flat.type]
        if "uid" not in fields or "score" not in fields:
            raise DataError(f"{name} are records of {', '.join(fields)}", path, hint="expected uid and score in them")
        flat, scores = flat.field("uid"), flat.field("score")
    row_of_label = np.repeat(np.arange(len(lengths)), lengths)
    start_of_label = np.repeat(np.cumsum(lengths) - lengths, lengths)
    rank = np.arange(len(row_of_label)) - start_of_label
    if name == "labels" and pa.types.is_integer(flat.type) and _are_other_numbers(label_uids):
        raise DataError(
            "labels are integers, and so are the label uids of the set",
            path,
            hint="call the column ids if they are rows of the label table, or write uids as strings",
        )
    ids = _label_ids(flat, row_of_label, label_uids, path)
    if "scores" in table.column_names:
        scores = _scores(_column(table, "scores"), lengths, path)
    values = -rank.astype(np.float64) if scores is None else _numbers(scores, row_of_label, path)
    order = _rows_of_queries(table, uids, path)
    topk_ids = np.full((len(lengths), int(lengths.max(initial=0))), -1, dtype=np.int64)
    topk_scores = np.full(topk_ids.shape, -np.inf)
    topk_ids[row_of_label, rank], topk_scores[row_of_label, rank] = ids, values
    return TopK(topk_ids[order], topk_scores[order])


def _are_other_numbers(label_uids: Sequence[str]) -> bool:
    """Whether all uids are whole numbers, other than their row numbers."""
    numbers = all(uid.isdecimal() for uid in label_uids)
    return numbers and any(uid != str(row) for row, uid in enumerate(label_uids))


def _read(path: Path) -> pa.Table:
    finish(path.parent)
    if not path.is_file():
        raise DataError("no such file", path)
    kind = plain_suffix(path)
    try:
        if kind == ".parquet":
            return pq.read_table(path)
        encoding, _ = encoding_of(path)
        if kind == ".jsonl" and encoding == "utf-8" and is_plain(path):
            return pa.json.read_json(path)
        if kind in JSON:  # slower: compressed, in another encoding, or one list
            return pa.Table.from_pylist([row for _, row in json_lines(path, Problems(), encoding)])
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"cannot be read ({error!s:.200})", path, hint=f"is it {path.suffix} as named?") from error
    raise DataError(f"cannot read {path.suffix or 'a file without an ending'}", path, hint="give .parquet or .jsonl")


def is_plain(path: Path) -> bool:
    """Whether a file begins with a JSON object, and is not compressed."""
    with path.open("rb") as file:
        return file.read(1) == b"{"


def _column(table: pa.Table, name: str) -> pa.Array:
    chunks = table[name].combine_chunks()
    return chunks.combine_chunks() if isinstance(chunks, pa.ChunkedArray) else chunks


def _label_ids(flat: pa.Array, row: np.ndarray, label_uids: Sequence[str], path: Path) -> np.ndarray:
    """Ids `[pairs]` of labels given as ids or as uids."""
    if pa.types.is_null(flat.type) and not len(flat):
        return np.empty(0, dtype=np.int64)
    if pa.types.is_integer(flat.type):
        ids = np.asarray(flat.fill_null(-1), dtype=np.int64)
        if (bad := (ids < 0) | (ids >= len(label_uids))).any():
            raise DataError(
                f"row {row[bad.argmax()] + 1} predicts label id {flat[int(bad.argmax())]}",
                path,
                hint=f"ids are rows of the label table, 0 to {len(label_uids) - 1:,}; or give label uids",
            )
        return ids
    if not pa.types.is_string(flat.type) and not pa.types.is_large_string(flat.type):
        raise DataError(f"labels are {flat.type}", path, hint="expected integer ids or label uids as strings")
    found = pc.index_in(flat, value_set=pa.array(label_uids, flat.type))
    if found.null_count:
        first = int(np.asarray(found.is_null()).argmax())
        raise DataError(
            f"row {row[first] + 1} predicts label {flat[first].as_py()!r:.80}",
            path,
            hint=f"the label table has no such uid; its first is {label_uids[0]!r}" if len(label_uids) else "",
        )
    return np.asarray(found, dtype=np.int64)


def _scores(lists: pa.Array, lengths: np.ndarray, path: Path) -> pa.Array:
    if pa.types.is_null(lists.type):
        lists = lists.cast(pa.list_(pa.float64()))
    if not pa.types.is_list(lists.type) and not pa.types.is_large_list(lists.type):
        raise DataError(f"column scores is {lists.type}", path, hint="expected one list of numbers per row")
    found = np.asarray(lists.value_lengths().fill_null(0), dtype=np.int64)
    if (bad := found != lengths).any():
        i = int(bad.argmax())
        raise DataError(
            f"row {i + 1} has {lengths[i]} labels and {found[i]} scores", path, hint="give one score per label"
        )
    return lists.flatten()


def _numbers(scores: pa.Array, row: np.ndarray, path: Path) -> np.ndarray:
    try:
        values = np.asarray(scores.cast(pa.float64()).fill_null(np.nan))
    except pa.ArrowException as error:
        raise DataError(f"scores are {scores.type}", path, hint="expected numbers") from error
    if (bad := np.isnan(values)).any():
        raise DataError(
            f"row {row[bad.argmax()] + 1} has a score that is not a number", path, hint="leave such labels out"
        )
    return values


def _rows_of_queries(table: pa.Table, uids: Sequence[str], path: Path) -> np.ndarray:
    """For each query of the split, its row of the file, `[N]`."""
    if "uid" not in table.column_names:
        if table.num_rows != len(uids):
            raise DataError(
                f"{table.num_rows:,} rows for {len(uids):,} queries",
                path,
                hint="give one row per query, or a column uid",
            )
        return np.arange(len(uids))
    found = _column(table, "uid").cast(pa.string())
    known = pc.index_in(found, value_set=pa.array(uids, pa.string()))
    if known.null_count:
        first = int(np.asarray(known.is_null()).argmax())
        raise DataError(
            f"row {first + 1} is query {found[first].as_py()!r:.80}",
            path,
            hint="the split has no such query; is it from another split?",
        )
    rows = np.asarray(known, dtype=np.int64)
    times = np.bincount(rows, minlength=len(uids))
    if (times > 1).any():
        second = int(np.flatnonzero(rows == times.argmax())[1])
        raise DataError(
            f"row {second + 1} repeats query {uids[int(times.argmax())]!r:.80}", path, hint="give one row per query"
        )
    if (times == 0).any():
        absent = uids[int(times.argmin())]
        raise DataError(
            f"{(times == 0).sum():,} of {len(uids):,} queries have no row, the first is {absent!r:.80}",
            path,
            hint="give every query of the split a row, with an empty list if nothing was predicted",
        )
    order = np.empty(len(uids), dtype=np.int64)
    order[rows] = np.arange(len(rows))
    return order
