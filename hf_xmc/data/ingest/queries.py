"""Queries: from the stream of a reader to an Arrow file, with every row checked. Memory holds one batch, and 24 bytes
per row."""

from __future__ import annotations

import os
import re
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset, Features, List, Value, concatenate_datasets
from tqdm.auto import tqdm

from hf_xmc.data.arrow import BATCH_CHARACTERS, BATCH_ROWS, ArrowTableWriter, batches, map_table
from hf_xmc.data.formats.label_cells import check_not_multi_hot
from hf_xmc.data.formats.source import LEFT_OUT, Record, Source
from hf_xmc.errors import DataError, Problems

QUERY_FEATURES = Features({"uid": Value("string"), "text": Value("string"), "labels": List(Value("int32"))})
OPTIONAL_FEATURES = Features(
    {"weights": List(Value("float32")), "time": Value("string"), "schemes": List(Value("string"))}
)
MAX_LABELS = 2**31 - 1
NOT_TEXT = "invalid characters"
ROW_NUMBER = re.compile(r"row-\d+")  # uids in tables that have no column for them


@dataclass
class Staged:
    """The queries of one split in an Arrow file, and what later steps need of all rows at once.

    Args:
        path: the file in the source, for error messages.
        table: `uid`, `text`, `labels`, and if any row has them `weights` (null in batches without), `time` and
            `schemes`, memory-mapped.
        lines: line of each row in the source, `[N]`.
        uid_hash, text_hash: 64 bits each, `[N]`.
        weighted: whether a row has a relevance other than 1.
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
        DataError: a row is not valid, and problems are not collected.
    """
    path = source.splits[split].path
    label_path = source.splits[split].label_path or path
    stream = tqdm(
        source.splits[split].rows(problems), desc=f"Reading {split}", unit=" queries", delay=1, disable=not progress
    )
    lines, digests, weighted = array("q"), ([np.zeros(0, np.uint64)], [np.zeros(0, np.uint64)]), False
    found: set[str] = set()  # optional columns that occur in any row
    target = folder / f"staged-{split}.arrow"
    with ArrowTableWriter(target, Features({**QUERY_FEATURES, **OPTIONAL_FEATURES})) as writer:
        for numbers, records in in_batches(stream):
            numbers, records = drop_non_text(numbers, records, path, problems)
            if not lines and source.ids_given:
                check_not_multi_hot((record["labels"] for record in records), label_path)
            here = {name for name in OPTIONAL_FEATURES if any(name in record for record in records)}
            found |= here
            labels, weights = sorted_labels(numbers, records, num_labels, label_path, len(lines), problems)
            weighted = weighted or ("weights" in here and any(w != 1 for row in weights for w in row))
            columns: dict[str, list[Any]] = {
                "uid": [r["uid"] for r in records],
                "text": [r["text"] for r in records],
                "labels": labels,
                "weights": weights if "weights" in here else [None] * len(records),
                "schemes": [r.get("schemes") for r in records],
                "time": [None if r.get("time") is None else str(r["time"]) for r in records],
            }
            writer.write(columns)
            lines.extend(numbers)
            digests[0].append(hashes(columns["uid"]))
            digests[1].append(hashes(columns["text"]))
    return Staged(
        path,
        map_table(target).remove_columns([name for name in OPTIONAL_FEATURES if name not in found]),
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


def drop_non_text(
    numbers: list[int], records: list[Record], path: Path, problems: Problems
) -> tuple[list[int], list[Record]]:
    """Leave out rows with strings that cannot be encoded (halves of surrogate pairs) or have NUL."""
    kept = []
    for i, record in enumerate(records):
        found = non_text(record["uid"], record["text"])
        if found is None:
            kept.append(i)
        else:
            error = DataError(found, path, numbers[i], "remove the characters")
            problems.error(NOT_TEXT, error, LEFT_OUT)
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
    """Label ids of each row, sorted and checked, and their weights in the same order (1 if there are none)."""
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
            row, given = repair_labels(row, given, num_labels, path, numbers[i], first_row + i, problems)
        ids.append(row)
        weights.append([1.0] * len(row) if given is None else given)
    return ids, weights


def repair_labels(
    row: list[int],
    weights: list[float] | None,
    num_labels: int,
    path: Path,
    line: int,
    number: int,
    problems: Problems,
) -> tuple[list[int], list[float] | None]:
    """The valid ids of a row that has invalid ones; each invalid one is reported."""
    kept: dict[int, float] = {}
    for i, id_ in enumerate(row):
        if not 0 <= id_ < num_labels:
            error = DataError(
                f"the labels of row {number} refer to id {id_:,}",
                path,
                line,
                f"the label table has {num_labels:,} rows, counted from 0; "
                + ("do ids begin with 1 here?" if id_ == num_labels else "was it built from another split?"),
            )
            problems.error("bad ids", error, "the id was left out")
        elif id_ in kept:
            error = DataError(f"the labels of row {number} repeat an id: {row!r:.60}", path, line, "remove one")
            problems.error("repeated ids", error, "the id was kept once")
        else:
            kept[id_] = 1.0 if weights is None else weights[i]
    return list(kept), None if weights is None else list(kept.values())


def repeated(digests: np.ndarray, table: Dataset, column: str = "uid") -> list[tuple[int, int]]:
    """Pairs (first row, later row) with the same value in a column: rows with equal hashes, then compared."""
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


def repeated_in_pool(staged: dict[str, Staged]) -> list[tuple[str, tuple[str, int], tuple[str, int]]]:
    """Uids that occur more than once in the splits together, with split and row of the first and of a later one."""
    digests = np.concatenate([part.uid_hash for part in staged.values()])
    if len(np.unique(digests)) == len(digests):
        return []
    uids = concatenate_datasets([part.table.select_columns(["uid"]) for part in staged.values()])
    starts = np.cumsum([0, *(len(part.table) for part in staged.values())])

    def origin(row: int) -> tuple[str, int]:
        """Split and row within the split of a row in the pool."""
        split = int(np.searchsorted(starts, row, side="right")) - 1
        return list(staged)[split], row - int(starts[split])

    pairs = repeated(digests, uids)
    return [(uids[first]["uid"], origin(first), origin(later)) for first, later in pairs]


def with_split_in_uids(staged: dict[str, Staged], folder: Path) -> dict[str, Staged]:
    """Make uids like `row-0` unique: `train-row-0`, `test-row-0`. Other uids are kept."""
    named = {}
    for split, part in staged.items():
        digests, target = [np.zeros(0, np.uint64)], folder / f"named-{split}.arrow"
        with ArrowTableWriter(target, part.table.features) as writer:
            for batch in batches(part.table):
                uids = [f"{split}-{u}" if ROW_NUMBER.fullmatch(u) else u for u in batch["uid"].to_pylist()]
                digests.append(hashes(uids))
                writer.write_table(batch.drop_columns("uid").append_column("uid", pa.array(uids, pa.string())))
        os.replace(target, folder / f"staged-{split}.arrow")
        table = map_table(folder / f"staged-{split}.arrow")
        named[split] = replace(part, table=table, uid_hash=np.concatenate(digests))
    return named
