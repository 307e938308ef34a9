"""Fields of a record: the usual names of columns, and texts, uids, label names and weights, each checked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hf_xmc.data.formats.source import Record
from hf_xmc.data.templates import Template as Template
from hf_xmc.data.templates import template as template  # readers find both here
from hf_xmc.errors import DataError

TEXT_FIELDS = ("text", "sentence", "content", "document", "abstract", "description", "body", "query", "title")
LABEL_TEXT_FIELDS = ("text", "title", "name", "label", "prefLabel")
LABEL_COLUMNS = ("labels", "label", "tags", "tag", "subjects", "subject_uris", "categories", "category", "keywords")
UID_COLUMNS = ("uid", "id", "doc_id", "document_id")
SPLIT_NAMES = {
    "train": ("train", "trn", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "tst"),
}


def text_of(record: Record, template: Template | None, fields: tuple[str, ...], path: Path, line: int) -> str:
    """The text of a record: filled into the template, or else the first of the given fields that the record has.

    Raises:
        DataError: there is no such field, or it is not a string.
    """
    if template is not None:
        if not any(name in record for name in template.fields):
            raise DataError(f"none of the fields {template.fields}", path, line, f"found {list(record)[:8]}")
        return template.fill(record)
    name = next((name for name in fields if name in record), fields[0])
    value = record.get(name)
    if not isinstance(value, str):
        found = "is missing" if name not in record else f"is {value!r:.60}"
        raise DataError(f'"{name}" {found}', path, line, "it must be a string")
    return value


def uid_of(record: Record, path: Path, line: int) -> str:
    """The uid of a record; an integer is converted to a string.

    Raises:
        DataError: the uid is missing, or neither a string nor an integer.
    """
    uid = record.get("uid")
    if type(uid) is int:
        return str(uid)
    if not isinstance(uid, str):
        found = "is missing" if uid is None else f"is {uid!r:.60}"
        raise DataError(f'"uid" {found}', path, line, "it must be a string")
    return uid


def find_column(header: list[str], path: Path, given: str | None, usual: tuple[str, ...], flag: str | None) -> str:
    """The column that the user named, or else the first of the usual ones. Without a `flag` the column is optional,
    and the result is empty if there is none.

    Raises:
        DataError: there is no such column.
    """
    if given is not None and given not in header:
        raise DataError(f"no column {given!r}", path, 1, f"it has {', '.join(header)[:200]}")
    lower = {name.lower(): name for name in reversed(header)}
    found = given or next((lower[name] for name in usual if name in lower), "")
    if not found and flag:
        raise DataError(f"no column with one of the names {', '.join(usual)}", path, 1, f"name it with {flag}")
    return found


def names_in(cell: Any, delimiter: str | None, path: Path, line: int) -> list[str]:
    """The label names in a cell, stripped of white space; empty names are dropped.

    >>> names_in("red; dark blue;", ";", Path("a.csv"), 1), names_in(["red"], None, Path("a.parquet"), 1)
    (['red', 'dark blue'], ['red'])
    """
    if cell is None:
        return []
    if delimiter == "json" and isinstance(cell, str):
        if not cell.strip():
            return []
        try:
            cell = json.loads(cell)
        except (ValueError, RecursionError) as error:
            raise DataError(
                f"found the labels {cell!r:.60}", path, line, "expected a JSON list, as in other rows"
            ) from error
    if isinstance(cell, list | tuple):
        if not all(isinstance(name, str | int) for name in cell):
            raise DataError(f"found the labels {cell!r:.60}", path, line, "expected a list of names")
        return [str(name) for name in cell]
    if not isinstance(cell, str | int):
        raise DataError(f"found the labels {cell!r:.60}", path, line, "expected names")
    names = str(cell).split(delimiter) if delimiter and delimiter != "json" else [str(cell)]
    return [name.strip() for name in names if name.strip()]


def checked_weights(weights: Any, count: int, name: str, path: Path, line: int) -> list[float]:
    """The relevance of each label of a row: one non-negative number per label.

    Raises:
        DataError: there are more or fewer, or something else.
    """
    good = isinstance(weights, list) and all(type(w) in (int, float) and 0 <= w < 1e30 for w in weights)
    if not good or len(weights) != count:
        raise DataError(f'"{name}" is {weights!r:.60}', path, line, f"expected {count} numbers, one per label")
    return [float(w) for w in weights]
