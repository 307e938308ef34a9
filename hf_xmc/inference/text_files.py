"""Reading files of texts one window of rows at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from hf_xmc.data.dialect import Dialect, dialect_cells, dialect_of, encoding_of
from hf_xmc.data.files import json_lines, lines, plain_suffix, refuse_pointer
from hf_xmc.data.reading import Reading, parse_columns, places, plain_name
from hf_xmc.data.rows import JSON, OTHER_PROGRAMS, SPREADSHEETS, TABLES, TEXT_TABLES, unique
from hf_xmc.data.spreadsheets import spreadsheet_rows
from hf_xmc.data.templates import Template
from hf_xmc.errors import DataError, Problems, SettingsError

KINDS = (*TABLES, ".txt")
SAMPLE = 100  # rows that are looked at to find the text
PARTS = ("title", "abstract", "description")  # make up a text together, if there is no column of texts
USUAL = ("text", "sentence", "content", "document", "body", "query", *PARTS)


@dataclass(frozen=True)
class TextFile:
    """A file of texts, looked into and ready to be read.

    Args:
        path: the file.
        reading: which columns make up a text.
        columns: of the file, as far as its first rows show.
        encoding: of a file of characters.
        dialect: how a table of cells is written, for `.csv` and `.tsv`.
        said: what was found out and the user may want to know, one line each.
    """

    path: Path
    reading: Reading
    columns: tuple[str, ...]
    encoding: str | None = None
    dialect: Dialect | None = None
    said: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        """The suffix, without that of a compression."""
        return plain_suffix(self.path)


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


def open_texts(
    path: str | Path,
    text_column: str | Sequence[str] | None = None,
    query_template: str | None = None,
    encoding: str | None = None,
    remembered: Reading | None = None,
) -> TextFile:
    """Look into a file of texts: its kind, encoding, separator and columns.

    Args:
        text_column: the column that holds the text, or several, separated by commas, that are joined.
        query_template: the text as a template of columns, `"{title}. {abstract}"`.
        encoding: of `.txt`, `.csv`, `.tsv` and `.jsonl` files; by default found from the file.
        remembered: how the rows that a tagger was trained on became texts; used if the file has its columns.

    Raises:
        DataError: no such file, an unknown kind, a file that cannot be read, or no column that is clearly the text.
        SettingsError: `text_column` and `query_template` are both given.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "new.csv"
    >>> _ = path.write_text("nr;title;abstract\\n1;Dune;A planet of sand.\\n", encoding="utf-8")
    >>> found = open_texts(path)
    >>> found.reading.text, found.dialect.delimiter
    (('title', 'abstract'), ';')
    """
    path = Path(path)
    check_kind(path)
    if text_column and query_template:
        raise SettingsError("text_column and query_template are both given", hint="the template names its columns")
    said = []
    kind, dialect = plain_suffix(path), None
    if kind in TEXT_TABLES:
        dialect = dialect_of(path, encoding)
        encoding, guessed = dialect.encoding, dialect.guessed
    elif kind == ".txt" or kind in JSON:
        encoding, guessed = (encoding, False) if encoding else encoding_of(path)
    else:
        guessed = False
    if guessed:
        said.append(f"{path.name} is not UTF-8 and was read as {encoding}; another encoding is given with --encoding")
    columns, sample = first_rows(path, encoding, dialect)
    reading, why = choose_reading(columns, sample, path, text_column, query_template, remembered)
    said += [why] if why else []
    return TextFile(path, reading, columns, encoding, dialect, tuple(said))


def check_kind(path: Path) -> None:
    """Raise a DataError if this is not a file that can be read."""
    suffix = plain_suffix(path)
    if suffix not in KINDS:
        other = OTHER_PROGRAMS.get(suffix)
        hint = f"save it as {other}" if other else f"give {', '.join(KINDS)}"
        raise DataError(f"cannot read {suffix or 'a file without an ending'}", path, hint=hint)
    if not path.is_file():
        raise DataError("no such file", path)
    refuse_pointer(path)


def first_rows(path: Path, encoding: str | None, dialect: Dialect | None) -> tuple[tuple[str, ...], list[Any]]:
    """The columns, and some rows as dicts."""
    if plain_suffix(path) != ".parquet":
        source = read_rows(path, encoding, dialect)
        sample = [row for _, row in islice(source, SAMPLE)]
        return tuple(dict.fromkeys(name for row in sample for name in row)), sample
    try:
        with pq.ParquetFile(path) as file:
            batch = next(file.iter_batches(batch_size=SAMPLE), None)
            return tuple(file.schema_arrow.names), [] if batch is None else batch.to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise unreadable(error, path) from error


def choose_reading(
    columns: Sequence[str],
    sample: Sequence[Mapping[str, Any]],
    path: Path,
    text_column: str | Sequence[str] | None = None,
    query_template: str | None = None,
    remembered: Reading | None = None,
) -> tuple[Reading, str]:
    """Which columns make up the text, and a line that says so where it is not plain.

    In this order: what the user names; the columns of training; `text`; another usual name, `title` and `abstract`
    together; the only column with several words.
    """
    if query_template:
        reading = Reading(tuple(Template(query_template).fields), query_template)
        return needed(reading, columns, path), ""
    if text_column:
        given = text_column[0] if len(text_column) == 1 else text_column
        names, words = parse_columns(given, columns)
        return needed(Reading(tuple(names), words=words), columns, path), ""
    if not columns:
        return remembered or Reading(), ""  # no rows, which is found when they are read
    if remembered is not None and remembered.is_in(columns):
        absent = [name for name in remembered.text if name not in places(remembered.text, tuple(columns))]
        if absent:
            return remembered, f"{path.name} has no column {', '.join(map(repr, absent))}, which training had"
        plain = remembered.text == ("text",) and not remembered.template
        return remembered, "" if plain else f"{str(remembered)[:1].upper()}{str(remembered)[1:]}, as in training"
    found = usual_columns(columns) or wordy_columns(columns, sample)
    if len(found) == 1 or (found and plain_name(found[0]) in PARTS):
        joined = " and ".join(map(repr, found))
        text = "" if found == ["text"] else f"Text in {joined}; other columns are named with --text_column"
        return Reading(tuple(found)), text
    raise DataError(
        "no column is clearly the text", path, hint=f"it has {shown(columns)}; choose one or more with --text_column"
    )


def needed(reading: Reading, columns: Sequence[str], path: Path) -> Reading:
    """The reading, if a file with these columns has all of its columns."""
    there = places(reading.text, tuple(columns))
    if columns and (absent := [name for name in reading.text if name not in there]):
        raise missing(absent[0], columns, path)
    return reading


def usual_columns(columns: Sequence[str]) -> list[str]:
    """The columns with the most usual name of a text."""
    by_name = {plain_name(name): name for name in reversed(columns)}
    first = next((name for name in USUAL if name in by_name), "")
    return [by_name[name] for name in (PARTS if first in PARTS else (first,)) if name in by_name]


def wordy_columns(columns: Sequence[str], sample: Sequence[Mapping[str, Any]]) -> list[str]:
    """The columns of which most values have several words; all columns of strings, if there is only one."""
    values = {name: [str(row[name]) for row in sample if isinstance(row.get(name), str)] for name in columns}
    texts = {name: [its for its in given if its.strip()] for name, given in values.items()}
    wordy = [name for name, its in texts.items() if its and sum(len(it.split()) > 1 for it in its) > len(its) / 2]
    return wordy or ([columns[0]] if len(columns) == 1 and texts[columns[0]] else [])


def read_windows(file: TextFile, size: int) -> Iterator[Window]:
    """The rows of a file, `size` at a time. Cells of `.csv`, `.tsv` and `.xlsx` are strings.

    Raises:
        DataError: an invalid line.
    """
    if file.kind == ".parquet":
        yield from parquet_windows(file.path, size)
        return
    source = read_rows(file.path, file.encoding, file.dialect)
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


def read_rows(
    path: Path, encoding: str | None = None, dialect: Dialect | None = None
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line and row of a file of any kind, the rows as dicts. Each line of a `.txt` file is a row, also a blank one. An
    encoding that is not given is found from the file."""
    check_kind(path)
    suffix = plain_suffix(path)
    if encoding is None and (suffix == ".txt" or suffix in JSON):
        encoding, _ = encoding_of(path)
    if suffix == ".txt":
        yield from ((line, {"text": text}) for line, text in lines(path, encoding))
    elif suffix in JSON:
        yield from json_lines(path, Problems(), encoding)
    elif suffix == ".parquet":
        for window in parquet_windows(path, 10_000):
            assert isinstance(window.rows, pa.Table)
            yield from zip(window.lines, window.rows.to_pylist(), strict=True)
    elif suffix in SPREADSHEETS:
        yield from with_header(spreadsheet_rows(path), path)
    else:
        yield from with_header(dialect_cells(path, dialect or dialect_of(path, encoding)), path)


def with_header(cells: Iterator[tuple[int, list[str]]], path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Rows of cells as dicts; the first row that is not blank names the columns. Cells at the end of a row may be left
    out, as spreadsheet programs do. A blank line is a row only where there is one column."""
    header: list[str] = []
    for line, row in cells:
        if not header:
            header = unique([cell.strip() for cell in row]) if any(cell.strip() for cell in row) else []
            continue
        if not row and len(header) > 1:
            continue
        if any(cell.strip() for cell in row[len(header) :]):
            found = f"the row has {len(row)} cells, and the header {len(header)}"
            raise DataError(found, path, line, "put texts with separators in quotes")
        yield line, dict(zip(header, [*row, *[""] * (len(header) - len(row))], strict=False))


def texts_of(window: Window, reading: Reading, path: Path) -> list[str]:
    """The texts of a window; empty where a row has none.

    Raises:
        DataError: no such column, or a text that is not a string; the message names the line.
    """
    rows = window.rows
    if isinstance(rows, pa.Table):
        names = [*places(reading.text, tuple(rows.column_names)).values()]
        if not names:
            raise missing(reading.text[0], rows.column_names, path)
        rows = rows.select(names).to_pylist()
    return [text_of(row, reading, path, line) for row, line in zip(rows, window.lines, strict=True)]


def text_of(row: Mapping[str, Any], reading: Reading, path: Path, line: int) -> str:
    """The text of one row; empty where its columns are missing or empty."""
    found = places(reading.text, tuple(row))
    values = [row[column] for column in found.values() if row[column] is not None]
    for value in values:
        if not isinstance(value, str) and (isinstance(value, dict | list) or len(reading.text) == 1):
            raise DataError(f"the text is {value!r:.60}", path, line, "it must be a string")
    if not values:
        return ""
    return str(values[0]) if len(reading.text) == 1 and not reading.template else reading.text_of(row)


def missing(column: str, names: Sequence[str], path: Path) -> DataError:
    hint = f"it has {shown(names)}; choose one or more with --text_column"
    return DataError(f"no column {column!r}", path, hint=hint)


def shown(names: Sequence[str]) -> str:
    """Names of columns for a message.

    >>> shown(["id", "note"]), shown([str(i) for i in range(30)])
    ('id, note', '0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11 and 18 more')
    """
    names = list(names)
    return ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")


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
