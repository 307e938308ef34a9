"""From a reader's streams to Arrow files, checked on the way; memory holds one batch, and 20 bytes a row."""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, Features, List, Value
from tqdm.auto import tqdm

from hf_xmc.data.arrow import BATCH_CHARACTERS, BATCH_ROWS, ArrowTableWriter, map_table
from hf_xmc.data.errors import DataError, Problems
from hf_xmc.data.source import LEFT_OUT, Record, Records, Source

QUERY_FEATURES = Features({"uid": Value("string"), "text": Value("string"), "labels": List(Value("int32"))})
LABEL_FEATURES = {"texts": List(Value("string")), "description": Value("string"), "weight": Value("float32")}
LABEL_FEATURES["parents"] = List(Value("string"))
MAX_LABELS = 2**31 - 1


@dataclass
class Staged:
    """The queries of one split in an Arrow file, and what later steps need of every row at once.

    Args:
        table: `uid`, `text`, `labels`, perhaps `weights` and `time`, memory-mapped.
        lines: line of each row in the source, `[N]`.
        uid_hash, text_hash: 64 bits each, `[N]`.
        weighted: a relevance other than 1 was seen.
    """

    path: Path
    table: Dataset
    lines: np.ndarray
    uid_hash: np.ndarray
    text_hash: np.ndarray
    weighted: bool


def uid_hash(uid: str) -> int:
    """A hash of a uid or text that is the same on every machine and in every run, 64 bits."""
    return int.from_bytes(blake2b(uid.encode("utf-8"), digest_size=8).digest(), "big")


def hashes(texts: Sequence[str]) -> np.ndarray:
    """`uid_hash` of each, uint64 `[N]`."""
    digests = b"".join([blake2b(text.encode("utf-8"), digest_size=8).digest() for text in texts])
    return np.frombuffer(digests, dtype=">u8").astype(np.uint64)


def stage_queries(
    source: Source, split: str, num_labels: int, folder: Path, problems: Problems, progress: bool
) -> Staged:
    """Read one split.

    Raises:
        DataError: a row is not what it should be, and problems are not collected.
    """
    path = source.splits[split].path
    label_path = source.splits[split].label_path or path
    stream = tqdm(
        source.splits[split].rows(problems), desc=f"Reading {split}", unit=" queries", delay=1, disable=not progress
    )
    lines, digests, weighted = array("q"), ([np.zeros(0, np.uint64)], [np.zeros(0, np.uint64)]), False
    writer: ArrowTableWriter | None = None
    features = Features(QUERY_FEATURES)
    target = folder / f"staged-{split}.arrow"
    for numbers, records in in_batches(stream):
        if writer is None:
            features = Features({**QUERY_FEATURES, **optional_features(records)})
            writer = ArrowTableWriter(target, features)
        numbers, records = drop_non_text(numbers, records, path, problems)
        labels, weights = sorted_labels(numbers, records, num_labels, label_path, len(lines), problems)
        columns = {"uid": [r["uid"] for r in records], "text": [r["text"] for r in records], "labels": labels}
        if "weights" in features:
            columns["weights"] = weights
            weighted = weighted or any(w != 1 for row in weights for w in row)
        if "time" in features:
            columns["time"] = [None if r.get("time") is None else str(r["time"]) for r in records]
        writer.write(columns)
        lines.extend(numbers)
        digests[0].append(hashes(columns["uid"]))
        digests[1].append(hashes(columns["text"]))
    (writer or ArrowTableWriter(target, features)).__exit__(None, None, None)
    return Staged(
        path,
        map_table(target),
        np.frombuffer(lines, dtype=np.int64) if len(lines) else np.zeros(0, np.int64),
        np.concatenate(digests[0]),
        np.concatenate(digests[1]),
        weighted,
    )


def in_batches(stream: Iterable[tuple[int, Record]]) -> Iterable[tuple[list[int], list[Record]]]:
    """Batches of bounded rows and characters."""
    numbers: list[int] = []
    records: list[Record] = []
    size = 0
    for number, record in stream:
        numbers.append(number)
        records.append(record)
        size += len(record["text"])
        if len(records) == BATCH_ROWS or size > BATCH_CHARACTERS:
            yield numbers, records
            numbers, records, size = [], [], 0
    if records:
        yield numbers, records


def optional_features(records: list[Record]) -> dict[str, Any]:
    """The columns that not every source has."""
    found = {"weights": List(Value("float32")), "time": Value("string")}
    return {name: feature for name, feature in found.items() if any(name in record for record in records)}


def drop_non_text(
    numbers: list[int], records: list[Record], path: Path, problems: Problems
) -> tuple[list[int], list[Record]]:
    """Leave out rows whose strings no UTF-8 can hold (halves of surrogate pairs, from JSON escapes) or have NUL."""
    kept = []
    for i, record in enumerate(records):
        found = non_text(record["uid"], record["text"])
        if found is None:
            kept.append(i)
        else:
            error = DataError(found, path, numbers[i], "remove the characters")
            problems.error("non-text", error, LEFT_OUT)
    if len(kept) == len(records):
        return numbers, records
    return [numbers[i] for i in kept], [records[i] for i in kept]


def non_text(*texts: str) -> str | None:
    """What is wrong with the strings, if anything."""
    joined = "".join(texts)
    if "\0" in joined:
        return f"NUL characters in {joined!r:.60}"
    try:
        joined.encode("utf-8")
    except UnicodeEncodeError:
        return f"half a surrogate pair in {joined!r:.60}"
    return None


def sorted_labels(
    numbers: list[int], records: list[Record], num_labels: int, path: Path, first_row: int, problems: Problems
) -> tuple[list[list[int]], list[list[float]]]:
    """Label ids of each row, sorted and checked, and their weights in the same order (1 where there are none)."""
    ids, weights = [], []
    for i, record in enumerate(records):
        row = record["labels"]
        given = record.get("weights")
        if len(row) > 1:
            if given is None:
                row = sorted(row)
            else:
                order = sorted(range(len(row)), key=row.__getitem__)
                row, given = [row[j] for j in order], [given[j] for j in order]
        if row and not (row[0] >= 0 and row[-1] < num_labels and len(set(row)) == len(row)):
            row, given = mend_labels(row, given, num_labels, path, numbers[i], first_row + i, problems)
        ids.append(row)
        weights.append([1.0] * len(row) if given is None else given)
    return ids, weights


def mend_labels(
    row: list[int],
    weights: list[float] | None,
    num_labels: int,
    path: Path,
    line: int,
    number: int,
    problems: Problems,
) -> tuple[list[int], list[float] | None]:
    """The good ids of a row with bad ones; each bad one is a problem."""
    kept: dict[int, float] = {}
    for i, id_ in enumerate(row):
        if not 0 <= id_ < num_labels:
            error = DataError(
                f"the labels of row {number} refer to id {id_:,}",
                path,
                line,
                f"the label table has {num_labels:,} rows; was it built from another split?",
            )
            problems.error("bad ids", error, "the id was left out")
        elif id_ in kept:
            error = DataError(f"the labels of row {number} name an id twice: {row!r:.60}", path, line, "remove one")
            problems.error("ids twice in a row", error, "it was kept once")
        else:
            kept[id_] = 1.0 if weights is None else weights[i]
    return list(kept), None if weights is None else list(kept.values())


def stage_labels(source: Source, folder: Path, problems: Problems, progress: bool) -> Dataset:
    """Read the label table; a label without text gets its uid for one.

    Raises:
        DataError: a uid that stands twice, a text that is empty, a column that changes its kind.
    """
    stream: Records = tqdm(
        source.labels(problems), desc="Reading labels", unit=" labels", delay=1, disable=not progress
    )
    path, target = source.label_path, folder / "staged-labels.arrow"
    writer: ArrowTableWriter | None = None
    rows: list[np.ndarray] = []
    count = 0
    for numbers, records in in_batches(stream):
        for number, record in zip(numbers, records, strict=True):
            check_label(record, path, number, problems)
        if writer is None:
            features = label_features(records)
            writer = ArrowTableWriter(target, features)
        writer.write({name: column(records, numbers, name, features[name], path) for name in features})
        rows.append(hashes([record["uid"] for record in records]))
        count += len(records)
    if writer is None:
        raise DataError("no labels", path, cure="a label table needs one row at least")
    writer.__exit__(None, None, None)
    if count > MAX_LABELS:
        raise DataError(f"{count:,} labels", path, cure=f"ids are 32-bit: at most {MAX_LABELS:,}")
    table = map_table(target)
    for first, second in repeated(np.concatenate(rows), table):
        uid = table[int(second)]["uid"]
        raise DataError(f"uid {uid!r} stands in rows {first} and {second}", path, cure="each must be unique")
    return table


def check_label(record: Record, path: Path, line: int, problems: Problems) -> None:
    found = non_text(record["uid"], record["text"])
    if found is not None:
        raise DataError(found, path, line, "remove the characters")
    if not record["text"].strip():
        error = DataError(f"label {record['uid']!r} has an empty text", path, line, "give it a name")
        problems.error("labels without text", error, "the uid stands for it")
        record["text"] = record["uid"] or f"label {line}"


def label_features(records: list[Record]) -> Features:
    """Columns and their kinds, from the first batch."""
    features = Features({"uid": Value("string"), "text": Value("string")})
    for name in dict.fromkeys(name for record in records for name in record):
        if name not in features:
            values = [record[name] for record in records if record.get(name) is not None]
            features[name] = LABEL_FEATURES.get(name) or kind_of(values)
    return features


def kind_of(values: list[Any]) -> Any:
    """The narrowest feature that holds the values: bool, int64, float64, lists of strings, else strings."""
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
    """The values of one column; what is no text goes into a text column as JSON."""
    values = []
    for number, record in zip(numbers, records, strict=True):
        value = record.get(name)
        if value is not None and feature == Value("string") and not isinstance(value, str):
            value = json.dumps(value, ensure_ascii=False)
        if value is not None and not fits(value, feature):
            expected = "texts" if isinstance(feature, List) else getattr(feature, "dtype", feature)
            raise DataError(f'"{name}" is {value!r:.60}', path, number, f"expected {expected}, as in other rows")
        values.append(value)
    return values


def fits(value: Any, feature: Any) -> bool:
    """Whether a value can stand in a column."""
    if isinstance(feature, List):
        return isinstance(value, list) and all(isinstance(item, str) and non_text(item) is None for item in value)
    if feature == Value("string"):
        return non_text(value) is None
    if feature == Value("bool"):
        return isinstance(value, bool)
    if feature == Value("int64"):
        return type(value) is int and -(2**63) <= value < 2**63
    return type(value) in (int, float) and abs(value) < 1e30


def repeated(digests: np.ndarray, table: Dataset, column: str = "uid") -> list[tuple[int, int]]:
    """Pairs (first row, later row) of equal values in a column, by falling on equal hashes, then compared."""
    order = np.argsort(digests, kind="stable")
    same = digests[order][1:] == digests[order][:-1]
    if not same.any():
        return []
    group = np.concatenate([[0], np.cumsum(~same)])  # [N]
    starts = np.flatnonzero(np.concatenate([[True], ~same]))
    pairs = []
    for i in np.flatnonzero(same) + 1:
        first, later = int(order[starts[group[i]]]), int(order[i])
        if table[first][column] == table[later][column]:
            pairs.append((first, later))
    return sorted(pairs, key=lambda pair: pair[1])
