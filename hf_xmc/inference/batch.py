"""Tagging a file of texts: read, tagged and written a block at a time."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from tqdm.auto import tqdm

from hf_xmc.data.errors import DataError, Problems
from hf_xmc.data.files import json_lines, lines, plain_suffix, replacing
from hf_xmc.data.formats.rows import rows as table_rows
from hf_xmc.inference.pipeline import XMCPipeline

BLOCK = 2048  # texts in memory at a time
KINDS = (".txt", ".jsonl", ".csv", ".tsv", ".parquet")
TAG = pa.struct({"label": pa.string(), "uid": pa.string(), "id": pa.int64(), "score": pa.float64()})


def predict_file(
    pipeline: XMCPipeline,
    source: Path,
    target: Path,
    text_column: str = "text",
    k: int = 5,
    threshold: float | None = None,
    batch_size: int = 64,
) -> int:
    """Tag every row of `source` and write it to `target` with a column `labels`; returns the number of rows.

    Args:
        source: `.txt` (one text a line, blank lines are left out), `.jsonl`, `.csv`, `.tsv` or `.parquet`; the first
            four also compressed (`.gz`, `.bz2`, `.xz`, `.zst`).
        target: `.jsonl`, or `.parquet` (columns `uid` where there is one, `text`, `labels`). It appears when it is
            whole: until then the rows stand in a file of a temporary name.

    Raises:
        DataError: a kind of file that is not known, a missing text column, a text that is not a string.
    """
    count = 0
    with replacing(target) as temporary, closing(open_writer(target, temporary)) as writer:
        rows = iter(read_rows(source))
        with tqdm(unit=" texts", desc="Tagging", delay=2) as bar:
            while block := list(islice(rows, BLOCK)):
                texts = [text_of(row, text_column, source, line) for line, row in block]
                tagged = pipeline(texts, k=k, threshold=threshold, batch_size=batch_size)
                writer.write([with_tags(row, tags) for (_, row), tags in zip(block, tagged, strict=True)])
                count += len(block)
                bar.update(len(block))
        if not count:
            raise DataError("no rows", source, cure="there is nothing to tag")
    return count


def read_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line and columns of each row of a file, streamed. Cells of `.csv` and `.tsv` stay the strings that they are.

    Raises:
        DataError: no such file, a kind that is not known, a line that is not what it should be.
    """
    suffix = plain_suffix(path)
    if suffix not in KINDS:
        raise DataError(f"cannot read {suffix or 'a file without an ending'}", path, cure=f"give {', '.join(KINDS)}")
    if not path.is_file():
        raise DataError("no such file", path)
    if suffix == ".txt":
        yield from ((line, {"text": text}) for line, text in lines(path) if text.strip())
    elif suffix == ".jsonl":
        yield from json_lines(path, Problems())
    else:
        yield from table_rows(path, None, Problems())


def text_of(row: dict[str, Any], column: str, path: Path, line: int) -> str:
    if column not in row:
        raise DataError(f"no column {column!r}", path, cure=f"it has {', '.join(row)}; choose one with --text_column")
    if not isinstance(row[column], str):
        raise DataError(f"the text is {row[column]!r:.60}", path, line, "every row needs a text")
    return row[column]


def with_tags(row: dict[str, Any], tags: list[dict[str, Any]]) -> dict[str, Any]:
    """A row of the output; labels that the input had are kept beside as `given_labels`."""
    given = {"given_labels": row["labels"]} if "labels" in row else {}
    return {**row, **given, "labels": tags}


class JsonLinesWriter:
    def __init__(self, path: Path) -> None:
        self.file = path.open("w", encoding="utf-8")

    def write(self, rows: list[dict[str, Any]]) -> None:
        self.file.writelines(json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in rows)

    def close(self) -> None:
        self.file.close()


class ParquetWriter:
    """Columns of the input are kept as they are in its first block."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.writer: pq.ParquetWriter | None = None

    def write(self, rows: list[dict[str, Any]]) -> None:
        tags = pa.array([row.pop("labels") for row in rows], pa.list_(TAG))
        if self.writer is None:
            columns = pa.Table.from_pylist(rows).append_column("labels", tags)
            self.writer = pq.ParquetWriter(self.path, columns.schema)
        schema = self.writer.schema
        try:
            table = pa.Table.from_pylist(rows, schema.remove(schema.get_field_index("labels")))
        except pa.ArrowException as error:
            found = f"a column changes its type ({error!s:.200})"
            raise DataError(found, self.path, cure="write .jsonl, which takes every type") from error
        self.writer.write_table(table.append_column("labels", tags))

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()


def open_writer(target: Path, temporary: Path) -> JsonLinesWriter | ParquetWriter:
    kinds: dict[str, type[JsonLinesWriter] | type[ParquetWriter]] = {
        ".jsonl": JsonLinesWriter,
        ".parquet": ParquetWriter,
    }
    if target.suffix not in kinds:
        found = target.suffix or "a file without an ending"
        raise DataError(f"cannot write {found}", target, cure=f"name it {' or '.join(kinds)}")
    return kinds[target.suffix](temporary)
