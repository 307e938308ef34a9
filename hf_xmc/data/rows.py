"""The rows of `.csv`, `.tsv` and `.parquet` files as dicts, with their line number."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from hf_xmc.data.files import MAX_LINE, lines, plain_suffix
from hf_xmc.errors import DataError, Problems

Rows = Iterator[tuple[int, dict[str, Any]]]


def rows(path: Path, encoding: str | None, problems: Problems) -> Rows:
    """The rows of a table as dicts, with their line (in a Parquet file: their row, from 1)."""
    if plain_suffix(path) == ".parquet":
        yield from parquet_rows(path)
        return
    header: list[str] = []
    for line, cells in csv_cells(path, encoding, problems):
        if not header:
            header = unique(cells)
        elif len(cells) != len(header):
            found = f"the row has {len(cells)} cells, and the header {len(header)}"
            bad = DataError(found, path, line, "put texts with separators in quotes")
            problems.error("unreadable rows", bad, "the row was left out")
        else:
            yield line, dict(zip(header, cells, strict=True))


def header_of(path: Path, encoding: str | None) -> list[str]:
    """The column names."""
    if plain_suffix(path) == ".parquet":
        try:
            return pq.read_schema(path).names
        except (OSError, pa.ArrowException) as error:
            raise DataError(
                f"cannot be read as Parquet ({error!s:.200})", path, hint="is the file complete?"
            ) from error
    return next(csv_cells(path, encoding, Problems()), (1, []))[1]


def unique(header: list[str]) -> list[str]:
    """The header with repeated names numbered: `label`, `label.1`, `label.2`."""
    seen: dict[str, int] = {}
    result = []
    for name in header:
        count = seen.get(name, 0)
        seen[name] = count + 1
        result.append(f"{name}.{count}" if count else name)
    return result


def csv_cells(path: Path, encoding: str | None, problems: Problems) -> Iterator[tuple[int, list[str]]]:
    """Line and cells of each row that is not blank; the first is the header."""
    csv.field_size_limit(MAX_LINE)
    source = (f"{line}\n" for _, line in lines(path, encoding))
    reader = csv.reader(source, delimiter="\t" if plain_suffix(path) == ".tsv" else ",", strict=True)
    first = True
    while True:
        start = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            hint = "is a closing quote missing, or is it another format?"
            bad = DataError(f"not a table ({error})", path, start, hint)
            problems.error("unreadable rows", bad, "the row was left out")
            continue
        if any(cell.strip() for cell in cells):
            yield start, unique([cell.strip() for cell in cells]) if first else cells
            first = False


def parquet_rows(path: Path) -> Rows:
    """The rows of a Parquet file, read in batches."""
    row = 0
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=10_000):
                for record in batch.to_pylist():
                    row += 1
                    yield row, record
    except (OSError, pa.ArrowException, ValueError, OverflowError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(
            f"cannot be read as Parquet ({error!s:.200})", path, row + 1, "is the file complete?"
        ) from error
