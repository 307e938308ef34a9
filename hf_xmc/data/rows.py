"""The rows of `.csv`, `.tsv`, `.xlsx`, `.jsonl`, `.json` and `.parquet` files as dicts, with their line number.

Text tables are read as spreadsheet programs write them: separated by commas, semicolons, tabs or bars, with or
without a byte order mark, in UTF-8 or, where a file is not UTF-8, in the code page of Western Europe (cp1252).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from hf_xmc.data.dialect import LINES, UNQUOTED, Dialect, dialect_of, table_lines, table_rows
from hf_xmc.data.files import json_lines, plain_suffix, refuse_pointer
from hf_xmc.data.spreadsheets import spreadsheet_rows
from hf_xmc.errors import DataError, Problems

Rows = Iterator[tuple[int, dict[str, Any]]]
TEXT_TABLES = (".csv", ".tsv", ".tab")
SPREADSHEETS = (".xlsx", ".xlsm")
JSON = (".jsonl", ".ndjson", ".json")
TABLES = (*TEXT_TABLES, *SPREADSHEETS, *JSON, ".parquet")
OTHER_PROGRAMS = {  # what is not read -> what it can be saved as
    **dict.fromkeys((".xls", ".xlsb", ".ods", ".numbers"), ".xlsx"),
    **dict.fromkeys((".doc", ".docx", ".odt", ".rtf", ".pdf"), ".txt"),
    **dict.fromkeys((".feather", ".arrow", ".orc", ".avro", ".pkl", ".pickle", ".h5", ".hdf5"), ".parquet"),
    **dict.fromkeys((".db", ".sqlite", ".mdb", ".sav", ".dta", ".arff", ".yaml", ".yml"), ".csv"),
    **dict.fromkeys((".svm", ".libsvm", ".svmlight"), "a table with the texts, which numbered features do not have"),
}
DOUBTS = {UNQUOTED: "kept as they are written", LINES: "kept as one cell; is a quote missing?"}
KEYS = 1000  # rows of a JSON file that decide which columns it has


def rows(path: Path, encoding: str | None, problems: Problems) -> Rows:
    """The rows of a table as dicts, with their line (in a Parquet file, a spreadsheet or a JSON list: their row)."""
    suffix = plain_suffix(path)
    if suffix == ".parquet":
        yield from parquet_rows(path)
    elif suffix in JSON:
        yield from json_lines(path, problems, encoding)
    elif suffix in SPREADSHEETS:
        yield from as_dicts(spreadsheet_cells(path), path, problems, ragged=True)
    else:
        yield from as_dicts(csv_cells(path, encoding, problems), path, problems)


def as_dicts(table: Iterator[tuple[int, list[str]]], path: Path, problems: Problems, ragged: bool = False) -> Rows:
    """Rows of cells as dicts, by the names in the first row. `ragged`: rows may end before the header does."""
    header: list[str] = []
    for line, cells in table:
        if not header:
            header = unique(cells)
            continue
        if ragged:
            cells = cells + [""] * (len(header) - len(cells))
        if len(cells) != len(header):
            found = f"the row has {len(cells)} cells, and the header {len(header)}"
            bad = DataError(found, path, line, "put texts with separators in quotes")
            problems.error("unreadable rows", bad, "the row was left out")
        else:
            yield line, dict(zip(header, cells, strict=True))


def header_of(path: Path, encoding: str | None) -> list[str]:
    """The column names."""
    suffix = plain_suffix(path)
    if suffix == ".parquet":
        refuse_pointer(path)
        try:
            return pq.read_schema(path).names
        except (OSError, pa.ArrowException) as error:
            raise DataError(
                f"cannot be read as Parquet ({error!s:.200})", path, hint="is the file complete?"
            ) from error
    if suffix in JSON:
        problems = Problems(stop=False)
        some = islice(json_lines(path, problems, encoding), KEYS)
        header = list(dict.fromkeys(name for _, record in some for name in record))
        if not header and problems.found:
            raise DataError(problems.found[0].message)
        return header
    if suffix in SPREADSHEETS:
        return unique(next(spreadsheet_cells(path), (1, []))[1])
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


def spreadsheet_cells(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Row number and cells of each row of a spreadsheet; the first is the header."""
    for place, (number, cells) in enumerate(spreadsheet_rows(path)):
        yield number, [cell.strip() for cell in cells] if place == 0 else cells


def csv_cells(path: Path, encoding: str | None, problems: Problems) -> Iterator[tuple[int, list[str]]]:
    """Line and cells of each row that is not blank; the first is the header."""
    found = how_written(path, encoding)
    first = True
    for row in table_rows(table_lines(path, found), found.delimiter):
        if row.error:
            hint = "is a closing quote missing, or is it another format?"
            bad = DataError(f"not a table ({row.error})", path, row.line, hint)
            problems.error("unreadable rows", bad, "the row was left out")
        elif any(cell.strip() for cell in row.cells):
            if row.doubt:
                handled = (
                    "kept as they are written" if row.doubt == UNQUOTED else "kept as one cell; is a quote missing?"
                )
                problems.note(row.doubt, f"{path}, line {row.line}: {row.cells!r:.60}", handled)
            yield row.line, unique([cell.strip() for cell in row.cells]) if first else row.cells
            first = False


def how_written(path: Path, encoding: str | None) -> Dialect:
    """The dialect of a text table, which is found once per file."""
    try:
        status = path.stat()
    except OSError:
        return Dialect(encoding=encoding or "utf-8")  # whoever reads it says what is wrong
    return probed(path, encoding, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=32)
def probed(path: Path, encoding: str | None, size: int, changed: int) -> Dialect:
    """The dialect of a file of that size and time of change."""
    return dialect_of(path, encoding)


def parquet_rows(path: Path) -> Rows:
    """The rows of a Parquet file, read in batches."""
    row = 0
    refuse_pointer(path)
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
