"""The label table: from the stream of a reader to an Arrow file, with every label checked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset, Features, List, Value
from tqdm.auto import tqdm

from hf_xmc.data.arrow import ArrowTableWriter, batches, map_table
from hf_xmc.data.formats.source import Record, Records, Source
from hf_xmc.data.ingest.queries import MAX_LABELS, hashes, in_batches, non_text, repeated
from hf_xmc.errors import DataError, Problems

LABEL_FEATURES = {
    "texts": List(Value("string")),
    "kinds": List(Value("string")),
    "description": Value("string"),
    "parents": List(Value("string")),
    "weight": Value("float32"),
}


def stage_labels(source: Source, folder: Path, problems: Problems, progress: bool) -> Dataset:
    """Read the label table. A label without text gets its uid as text; an additional column of the source that has no
    value is left out.

    Raises:
        DataError: a uid is repeated, a text is empty, or the values of a column are of different types.
    """
    stream: Records = tqdm(
        source.labels(problems), desc="Reading labels", unit=" labels", delay=1, disable=not progress
    )
    path, target = source.label_path, folder / "staged-labels.arrow"
    writer: ArrowTableWriter | None = None
    features = Features({"uid": Value("string"), "text": Value("string")})
    rows: list[np.ndarray] = []
    count = 0
    for numbers, records in in_batches(stream):
        for number, record in zip(numbers, records, strict=True):
            check_label(record, path, number, problems)
        new = new_features(records, features)
        features = Features({**features, **new})
        if writer is None:
            writer = ArrowTableWriter(target, features)
        elif new:
            writer.__exit__(None, None, None)
            writer = widened(target, features)
        writer.write({name: column(records, numbers, name, features[name], path) for name in features})
        rows.append(hashes([record["uid"] for record in records]))
        count += len(records)
    if writer is None:
        raise DataError("no labels", path, hint=problems.why("a label table needs at least one row"))
    writer.__exit__(None, None, None)
    if count > MAX_LABELS:
        raise DataError(f"{count:,} labels", path, hint=f"ids are 32-bit: at most {MAX_LABELS:,}")
    table = map_table(target)
    for first, second in repeated(np.concatenate(rows), table):
        uid = table[int(second)]["uid"]
        raise DataError(f"uid {uid!r} is in rows {first} and {second}", path, hint="uids must be unique")
    return table


def check_label(record: Record, path: Path, line: int, problems: Problems) -> None:
    """Check uid and text of a label; an empty text is replaced by the uid if problems are collected."""
    found = non_text(record["uid"], record["text"])
    if found is not None:
        raise DataError(found, path, line, "remove the characters")
    if not record["text"].strip():
        error = DataError(f"label {record['uid']!r} has an empty text", path, line, "give it a name")
        problems.error("labels without text", error, "the uid is used as the text")
        record["text"] = record["uid"] or f"label {line}"


def new_features(records: list[Record], features: Features) -> dict[str, Any]:
    """Columns that occur for the first time in this batch, with their features. A column that is not one of the usual
    ones is added with its first value, which determines its type."""
    new = {}
    for name in dict.fromkeys(name for record in records for name in record):
        values = [record[name] for record in records if record.get(name) is not None]
        if name not in features and (values or name in LABEL_FEATURES):
            new[name] = LABEL_FEATURES.get(name) or kind_of(values)
    return new


def widened(path: Path, features: Features) -> ArrowTableWriter:
    """Rewrite a table with new columns, which are null so far, and return its writer for further rows."""
    narrow = path.rename(path.with_suffix(".narrow"))
    writer = ArrowTableWriter(path, features)
    for batch in batches(map_table(narrow)):
        for field in writer.schema:
            if field.name not in batch.column_names:
                batch = batch.append_column(field.name, pa.nulls(len(batch), field.type))
        writer.write_table(batch)
    narrow.unlink()
    return writer


def kind_of(values: list[Any]) -> Any:
    """The narrowest feature that holds the values: bool, int64, float64, lists of strings, or else strings."""
    kinds = {type(value) for value in values}
    if kinds == {bool}:
        return Value("bool")
    if kinds == {int} and all(-(2**63) <= value < 2**63 for value in values):
        return Value("int64")
    if kinds and kinds <= {int, float}:
        return Value("float64")
    if kinds == {list} and all(isinstance(item, str) for value in values for item in value):
        return List(Value("string"))
    return Value("string")


def column(records: list[Record], numbers: list[int], name: str, feature: Any, path: Path) -> list[Any]:
    """The values of one column; other values in a column of strings are written as JSON."""
    values = []
    for number, record in zip(numbers, records, strict=True):
        value = record.get(name)
        if value is not None and feature == Value("string") and not isinstance(value, str):
            value = json.dumps(value, ensure_ascii=False)
        if value is not None and not fits(value, feature):
            expected = "a list of strings" if isinstance(feature, List) else getattr(feature, "dtype", feature)
            raise DataError(f'"{name}" is {value!r:.60}', path, number, f"expected {expected}, as in other rows")
        values.append(value)
    return values


def fits(value: Any, feature: Any) -> bool:
    """Whether a value fits the feature of a column."""
    if isinstance(feature, List):
        return isinstance(value, list) and all(isinstance(item, str) and non_text(item) is None for item in value)
    if feature == Value("string"):
        return non_text(value) is None
    if feature == Value("bool"):
        return isinstance(value, bool)
    if feature == Value("int64"):
        return type(value) is int and -(2**63) <= value < 2**63
    return type(value) in (int, float) and abs(value) < 1e30
