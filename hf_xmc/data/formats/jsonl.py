"""The JSON-lines trio: `trn`, `tst` and, if given, `val` hold `{"uid", "text", "labels": [ids]}`, `lbl` holds
`{"uid", "text"}`; row number in `lbl` = label id. Each `.jsonl` or `.jsonl.gz`. Beside them, if given,
`filter_labels_{trn,val,tst}.txt` (a row of the split and a label id a line: pairs that do not count), and a
description of the set, `dataset.json` or `stats.json` (`licence`, `source`, `propensity: {"a", "b"}`).
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from hf_xmc.data.errors import DataError
from hf_xmc.data.raw import RawDataset, RawQueries

SPLITS = {"trn": "train", "val": "validation", "tst": "test"}


def find_file(folder: Path, stem: str) -> Path | None:
    """`stem.jsonl` or `stem.jsonl.gz`, whichever is there."""
    return next((p for end in (".jsonl", ".jsonl.gz") if (p := folder / f"{stem}{end}").is_file()), None)


def detect(folder: Path) -> bool:
    """Whether the folder holds a trio: training queries and labels at least."""
    return find_file(folder, "trn") is not None and find_file(folder, "lbl") is not None


def read(folder: Path) -> RawDataset:
    """Read a folder.

    Raises:
        DataError: a file or a field is missing, a line is not what it should be; it names file and line.
    """
    for stem, what in (("trn", "training queries"), ("lbl", "labels")):
        if find_file(folder, stem) is None:
            raise DataError(f"no {stem}.jsonl or {stem}.jsonl.gz", folder, cure=f"the {what} are read from it")
    label_path = find_file(folder, "lbl")
    assert label_path is not None
    labels = [record for _, record in records(label_path)]
    queries = {}
    for stem, split in SPLITS.items():
        path = find_file(folder, stem)
        if path is not None:
            queries[split] = read_queries(path, folder / f"filter_labels_{stem}.txt")
    return RawDataset(queries, labels, describe(folder), label_path)


def read_queries(path: Path, filter_path: Path) -> RawQueries:
    """The queries of one split, with the pairs of its filter file where there is one."""
    queries = RawQueries(path)
    for line, record in records(path):
        ids = record.get("labels")
        if not isinstance(ids, list) or not all(type(id_) is int for id_ in ids):
            raise DataError(
                f'"labels" is {ids!r:.60}', path, line, 'expected a list of label ids, as in "labels": [3, 17]'
            )
        queries.append(record["uid"], record["text"], ids)
    if filter_path.is_file():
        queries.filters = read_filter(filter_path, len(queries))
    return queries


def records(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line number (from 1) and object of each line, `uid` and `text` checked to be strings."""
    line = 0
    try:
        with open_text(path) as file:
            for line, text in enumerate(file, start=1):
                if not text.strip():
                    continue
                record = json.loads(text)
                if not isinstance(record, dict):
                    raise DataError(f"found {text.strip()!r:.60}", path, line, "expected a JSON object a line")
                for field in ("uid", "text"):
                    if not isinstance(record.get(field), str):
                        found = "is missing" if field not in record else f"is {record[field]!r:.60}"
                        raise DataError(f'"{field}" {found}', path, line, "it must be a string")
                yield line, record
    except json.JSONDecodeError as error:
        raise DataError(f"not JSON ({error.msg})", path, line, "expected a JSON object a line") from error
    except RecursionError as error:
        raise DataError("JSON nested too deeply", path, line, "expected a flat JSON object a line") from error
    except UnicodeDecodeError as error:
        raise DataError(f"not UTF-8 ({error.reason})", path, line + 1, "convert the file to UTF-8") from error
    except (EOFError, gzip.BadGzipFile, OSError) as error:
        raise DataError(f"cannot be read ({error})", path, line + 1, "is the file complete?") from error


def read_filter(path: Path, num_rows: int) -> dict[int, list[int]]:
    """Row of the split -> label ids that do not count for it."""
    filters: dict[int, list[int]] = {}
    with open_text(path) as file:
        for line, text in enumerate(file, start=1):
            try:
                row, label = (int(part) for part in text.split())
            except ValueError as error:
                raise DataError(f"found {text.strip()!r:.60}", path, line, "expected 'row label'") from error
            if not 0 <= row < num_rows:
                raise DataError(f"row {row}", path, line, f"the split has rows 0 to {num_rows - 1}")
            filters.setdefault(row, []).append(label)
    return filters


def describe(folder: Path) -> dict[str, Any]:
    """What the folder says of itself: `dataset.json`, else `stats.json`, else nothing."""
    for name in ("dataset.json", "stats.json"):
        path = folder / name
        if path.is_file():
            try:
                description = json.loads(path.read_text(encoding="utf-8"))
            except ValueError as error:
                raise DataError(f"not JSON ({error})", path) from error
            if not isinstance(description, dict):
                raise DataError("expected a JSON object", path)
            return description
    return {}


def open_text(path: Path) -> IO[str]:
    """Open for reading as UTF-8 (a byte order mark is skipped), unpacking `.gz`."""
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8-sig")
    return path.open(encoding="utf-8-sig")
