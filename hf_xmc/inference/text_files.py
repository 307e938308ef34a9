"""Reading files of texts one window of rows at a time, and writing windows with their tags."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from hf_xmc.data.files import json_lines, lines, plain_suffix
from hf_xmc.data.rows import rows as table_rows
from hf_xmc.errors import DataError, Problems

KINDS = (".txt", ".jsonl", ".csv", ".tsv", ".parquet")
# Type of a tag in Parquet; the probability is null if the model is not calibrated.
TAG = pa.struct(
    {"label": pa.string(), "uid": pa.string(), "id": pa.int64(), "score": pa.float64(), "probability": pa.float64()}
)
Tags = list[list[dict[str, Any]]]


@dataclass(frozen=True)
class Window:
    """Consecutive rows of a file.

    Args:
        number: of the window, from 0.
        rows: dicts, or a table as read from a Parquet file.
        lines: line number of each row in the file.
    """

    number: int
    rows: list[dict[str, Any]] | pa.Table
    lines: list[int] | range

    def __len__(self) -> int:
        return len(self.rows)


def read_windows(path: Path, size: int) -> Iterator[Window]:
    """The rows of a file, `size` at a time. Cells of `.csv` and `.tsv` remain strings.

    Raises:
        DataError: no such file, an unknown kind of file, or an invalid line.
    """
    if plain_suffix(path) == ".parquet" and path.is_file():
        yield from parquet_windows(path, size)
        return
    source = read_rows(path)
    for number in count():
        if not (some := list(islice(source, size))):
            return
        yield Window(number, [row for _, row in some], [line for line, _ in some])


def parquet_windows(path: Path, size: int) -> Iterator[Window]:
    number, waiting = 0, []
    try:
        with pq.ParquetFile(path) as file:
            empty = file.schema_arrow.empty_table()
            for batch in file.iter_batches(batch_size=size):  # a batch ends with its row group
                waiting.append(pa.Table.from_batches([batch]))
                while sum(map(len, waiting)) >= size:
                    table = pa.concat_tables(waiting)
                    yield Window(number, table.slice(0, size), range(number * size + 1, (number + 1) * size + 1))
                    number, waiting = number + 1, [table.slice(size)]
    except (OSError, pa.ArrowException) as error:
        raise unreadable(error, path, number * size + 1) from error
    if len(rest := pa.concat_tables([empty, *waiting])):
        yield Window(number, rest, range(number * size + 1, number * size + len(rest) + 1))


def read_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    suffix = plain_suffix(path)
    if suffix not in KINDS:
        raise DataError(f"cannot read {suffix or 'a file without an ending'}", path, hint=f"give {', '.join(KINDS)}")
    if not path.is_file():
        raise DataError("no such file", path)
    if suffix == ".txt":
        yield from ((line, {"text": text}) for line, text in lines(path) if text.strip())
    elif suffix == ".jsonl":
        yield from json_lines(path, Problems())
    else:
        yield from table_rows(path, None, Problems())


def texts_of(window: Window, column: str, path: Path) -> list[str]:
    """The texts of a window.

    Raises:
        DataError: no such column, or a text that is missing or not a string; the message names the line.
    """
    if isinstance(window.rows, pa.Table):
        if column not in (names := window.rows.column_names):
            raise missing(column, names, path)
        values = window.rows[column].to_pylist()
    else:
        values = [row.get(column) for row in window.rows]
    for place, value in enumerate(values):
        if not isinstance(value, str):
            if not isinstance(window.rows, pa.Table) and column not in (row := window.rows[place]):
                raise missing(column, list(row), path)
            raise DataError(f"the text is {value!r:.60}", path, window.lines[place], "every row needs a text")
    return values


def missing(column: str, names: list[str], path: Path) -> DataError:
    return DataError(f"no column {column!r}", path, hint=f"it has {', '.join(names)}; choose one with --text_column")


def write_window(
    window: Window, tags: Tags, path: Path, suffix: str, schema: pa.Schema | None = None
) -> pa.Schema | None:
    """Write a window with its tags in the column `labels`; a column `labels` of the input is renamed `given_labels`.

    Returns:
        For Parquet the columns of this window and of those before (`schema`), else None.

    Raises:
        DataError: a Parquet column has another type than before; nothing is written then.
    """
    if suffix == ".jsonl":
        rows = window.rows.to_pylist() if isinstance(window.rows, pa.Table) else window.rows
        with path.open("w", encoding="utf-8") as file:
            for row, found in zip(rows, tags, strict=True):
                file.write(json.dumps({**given(row), "labels": found}, ensure_ascii=False, default=str) + "\n")
        return None
    try:
        table = with_tags(window, tags)
        schema = table.schema if schema is None else pa.unify_schemas([schema, table.schema])
    except pa.ArrowException as error:
        raise changed_type(error) from error
    pq.write_table(table, path)
    return schema


def with_tags(window: Window, tags: Tags) -> pa.Table:
    table = window.rows if isinstance(window.rows, pa.Table) else pa.Table.from_pylist(window.rows)
    if "labels" in table.column_names:
        columns = ["given_labels" if name == "labels" else name for name in table.column_names]
        table = table.rename_columns(columns)
    return table.append_column("labels", pa.array(tags, pa.list_(TAG)))


def given(row: dict[str, Any]) -> dict[str, Any]:
    return {**row, "given_labels": row["labels"]} if "labels" in row else row


def changed_type(error: Exception) -> DataError:
    return DataError(f"a column changes its type ({error!s:.200})", hint="write .jsonl, which takes every type")


def number_of_rows(path: Path) -> int | None:
    """The number of rows, if the file states it; else None."""
    if plain_suffix(path) != ".parquet" or not path.is_file():
        return None
    try:
        return int(pq.read_metadata(path).num_rows)
    except (OSError, pa.ArrowException) as error:
        raise unreadable(error, path) from error


def unreadable(error: Exception, path: Path, line: int | None = None) -> DataError:
    return DataError(f"cannot be read as Parquet ({error!s:.200})", path, line, "is the file complete?")
