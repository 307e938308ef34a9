"""Checks of a raw data set: what is wrong is an error that names file and row."""

from __future__ import annotations

from pathlib import Path

from hf_xmc.data.errors import DataError
from hf_xmc.data.raw import RawDataset


def validate(raw: RawDataset) -> None:
    """Check ids and texts.

    Raises:
        DataError: no labels or no training queries; a uid that stands twice in a split or in the label table; a label
            id out of range, or twice in one row; a label without text.
    """
    if not raw.labels:
        raise DataError("no labels", raw.label_path, cure="a label table needs one row at least")
    if not len(raw.queries.get("train", [])):
        raise DataError("no training queries", cure="a data set needs one at least")
    check_uids([record["uid"] for record in raw.labels], raw.label_path)
    for row, record in enumerate(raw.labels):
        if not record["text"].strip():
            raise DataError(f"label {record['uid']!r} has an empty text", raw.label_path, row + 1, "give it a name")
    for queries in raw.queries.values():
        check_uids(queries.uids, queries.path)
        check_ids(dict(enumerate(queries.labels)), len(raw.labels), queries.path, "labels")
        check_ids(queries.filters, len(raw.labels), queries.path, "filter pairs")


def check_uids(uids: list[str], path: Path | None) -> None:
    seen: dict[str, int] = {}
    for row, uid in enumerate(uids):
        if uid in seen:
            raise DataError(f"uid {uid!r} stands in rows {seen[uid]} and {row}", path, cure="each must be unique")
        seen[uid] = row


def check_ids(rows: dict[int, list[int]], num_labels: int, path: Path | None, what: str) -> None:
    for row, ids in rows.items():
        for id_ in ids:
            if not 0 <= id_ < num_labels:
                raise DataError(
                    f"the {what} of row {row} refer to id {id_:,}",
                    path,
                    cure=f"the label table has {num_labels:,} rows; was it built from another split?",
                )
        if len(set(ids)) != len(ids):
            raise DataError(f"the {what} of row {row} name an id twice: {sorted(ids)}", path, cure="remove one")
