"""How a `.csv` or `.tsv` file is written: encoding, separator, quotes and line ends, found from the file itself, so
that a file of the same kind can be written again."""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from hf_xmc.data.files import BYTE_ORDER_MARKS, MAX_LINE, lines, open_bytes, plain_suffix
from hf_xmc.errors import DataError

SEPARATORS = (",", ";", "\t", "|")
SAMPLE = 100  # rows that are looked at
FALLBACK = "cp1252"  # of files that are not UTF-8, which older spreadsheet programs write
WIDE = {(True, False, True, False): "utf-16-le", (False, True, False, True): "utf-16-be"}  # bytes that are not 0
BLOCK = 2**20
MANY = 20  # lines of a cell that are hardly a text if each of them has as many separators as a row
UNQUOTED = "quotes that are part of a text"
LINES = "cells with line breaks that look like rows"
NUMBER = re.compile(r"[-+]?\d+([.,])\d+")


@dataclass(frozen=True)
class Dialect:
    """How a table of cells is written.

    Args:
        delimiter: between the cells of a row.
        encoding: of the file, as Python names it; `utf-8-sig` is UTF-8 with a byte order mark.
        guessed: whether the encoding was guessed, because the file is not UTF-8.
        quote_all: every cell is in quotes.
        line_end: of each row.
        decimal: the sign before decimals, `.` or `,`.
    """

    delimiter: str = ","
    encoding: str = "utf-8"
    guessed: bool = False
    quote_all: bool = False
    line_end: str = "\n"
    decimal: str = "."


def encoding_of(path: Path) -> tuple[str, bool]:
    """The encoding of a text file, and whether it was guessed: that of its byte order mark; else UTF-8; else, for a
    file that is not UTF-8 and may be Windows-1252, that.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "a.txt"
    >>> _ = path.write_bytes("blå".encode("cp1252"))
    >>> encoding_of(path)
    ('cp1252', True)
    """
    try:
        with open_bytes(path) as file:
            start = file.read(4)
        if found := next((name for mark, name in BYTE_ORDER_MARKS if start.startswith(mark)), ""):
            return found, False
        if len(start) == 4 and (found := WIDE.get((start[0] > 0, start[1] > 0, start[2] > 0, start[3] > 0), "")):
            return (found, True) if decodes(path, found) else ("utf-8", False)
        if decodes(path, "utf-8"):
            return "utf-8", False
        return (FALLBACK, True) if decodes(path, FALLBACK) else ("utf-8", False)
    except (OSError, EOFError, ValueError):
        return "utf-8", False  # reading says what is wrong


def decodes(path: Path, encoding: str) -> bool:
    """Whether a whole file is text in this encoding."""
    decoder = codecs.getincrementaldecoder(encoding)()
    with open_bytes(path) as file:
        try:
            while block := file.read(BLOCK):
                if "\0" in decoder.decode(block):
                    return False
            decoder.decode(b"", final=True)
        except UnicodeError:
            return False
    return True


def dialect_of(path: Path, encoding: str | None = None) -> Dialect:
    """How a `.csv` or `.tsv` file is written.

    The separator is the one that a first line `sep=;` states; or else the one that splits the first rows into the same
    number of cells, more than one; in a `.tsv` file tabs, if it has any.

    Args:
        encoding: of the file, if it is known.

    Raises:
        DataError: the file is missing or incomplete, or has another encoding.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "a.csv"
    >>> _ = path.write_text("title;price" + chr(10) + "Dune, part 1;9,50", encoding="utf-8-sig")
    >>> found = dialect_of(path)
    >>> found.delimiter, found.encoding, found.decimal
    (';', 'utf-8-sig', ',')
    """
    found, guessed = (encoding, False) if encoding else encoding_of(path)
    head = [line for _, line in islice(lines(path, found), SAMPLE)]
    delimiter = delimiter_of(head)
    if plain_suffix(path) == ".tsv" and (any("\t" in line for line in head) or delimiter not in "".join(head[:1])):
        delimiter = "\t"
    if head and names_separator(head[0]):
        delimiter, head = head[0].strip('" ')[4:] or "\t", head[1:]
    cells = [cell for row in parsed(head, delimiter)[1:] for cell in row]
    signs = [match[1] for cell in cells if (match := NUMBER.fullmatch(cell.strip()))]
    # Spreadsheet programs separate cells by semicolons where the comma is the decimal sign.
    decimal = "," if "," in signs or (delimiter == ";" and "." not in signs) else "."
    quoted = [line for line in head if line.strip()]
    quote_all = bool(quoted) and all(line.startswith('"') and line.endswith('"') for line in quoted)
    return Dialect(delimiter, found, guessed, quote_all, line_end_of(path, found), decimal)


def names_separator(line: str) -> bool:
    """Whether a line is the one in which spreadsheet programs name the separator: `sep=;`."""
    return line.strip().strip('"').lower().startswith("sep=") and len(line.strip().strip('"')) <= 5


def table_lines(path: Path, dialect: Dialect) -> Iterator[tuple[int, str]]:
    """Number and text of the lines of a table, without the one that names the separator."""
    numbered = lines(path, dialect.encoding)
    return ((number, line) for number, line in numbered if number > 1 or not names_separator(line))


def delimiter_of(head: list[str]) -> str:
    """The separator of the first lines of a file; a comma if there is only one column.

    >>> delimiter_of(["title;abstract", "Dune, 1;A planet, of sand"]), delimiter_of(["text", "a, b"])
    (';', ',')
    """
    best, most = ",", (0.0, 1)
    for delimiter in SEPARATORS:
        rows = parsed(head, delimiter)
        if rows and (width := len(rows[0])) > 1:
            score = (sum(len(row) == width for row in rows) / len(rows), width)
            if score > most:
                best, most = delimiter, score
    return best


def parsed(head: list[str], delimiter: str) -> list[list[str]]:
    """The cells of the first lines, as far as they can be read; the last row may be cut off."""
    rows = []
    try:
        for row in csv.reader((f"{line}\n" for line in head), delimiter=delimiter, strict=True):
            if row:
                rows.append(row)
    except csv.Error:
        pass
    return rows


def line_end_of(path: Path, encoding: str) -> str:
    """The end of the first line."""
    with open_bytes(path) as file:
        start = io.TextIOWrapper(file, encoding, errors="replace", newline="").read(2**16)
    place = start.find("\n")
    return "\r\n" if place > 0 and start[place - 1] == "\r" else "\n"


class Row(NamedTuple):
    """A row of a text table.

    Args:
        line: its first line.
        cells: empty if it cannot be read.
        doubt: `UNQUOTED`, `LINES` or nothing.
        error: why it cannot be read, or nothing.
    """

    line: int
    cells: list[str]
    doubt: str = ""
    error: str = ""


def table_rows(numbered: Iterator[tuple[int, str]], delimiter: str) -> Iterator[Row]:
    """The rows of a text table; the first one says how many cells a row has.

    A quote at the beginning of a cell may be part of the text, as in `"Hamlet" and other plays`, or `"Hamlet` where
    another quote follows many rows later. Where that is no cell in quotes, or one in which each line is a row of its
    own, the line is split as it is and the next line is a row again: `UNQUOTED`. With a comma or semicolon a few such
    lines may also be a text, and stay one: `LINES`.

    >>> lines = ["title,place", '"Hamlet" by W.,"stage"', '"a b",1', '"Open,door', "end,door"]
    >>> [row.cells for row in table_rows(enumerate(lines, 1), ",")][1:]
    [['"Hamlet" by W.', 'stage'], ['a b', '1'], ['"Open', 'door'], ['end', 'door']]
    """
    csv.field_size_limit(MAX_LINE)
    waiting: deque[tuple[int, str]] = deque()
    taken: list[tuple[int, str]] = []

    def fed() -> Iterator[str]:
        while (item := waiting.popleft() if waiting else next(numbered, None)) is not None:
            taken.append(item)
            yield f"{item[1]}\n"

    def fresh() -> Any:
        return csv.reader(fed(), delimiter=delimiter, strict=True)

    reader, width = fresh(), 0
    while True:
        taken.clear()
        cells, error = [], ""
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as found:
            error = str(found)
        line, text = taken[0]
        if not error and len(taken) == 1:
            width = width or len(cells)
            yield Row(line, cells)
            continue
        rows = width > 1 and all(its.count(delimiter) + 1 == width for _, its in taken)
        alone = width > 1 and text.count(delimiter) + 1 == width
        if error or (rows and (delimiter == "\t" or len(taken) > MANY)):
            waiting.extendleft(reversed(taken[1:]))
            reader = fresh()  # the other one may be at its end
            yield Row(line, unquoted(text, delimiter), UNQUOTED) if alone else Row(line, [], error=error)
        else:
            width = width or len(cells)
            yield Row(line, cells, LINES if rows else "")


def unquoted(line: str, delimiter: str) -> list[str]:
    """The cells of a line in which a quote may be part of a text; those that are in quotes as a whole without them."""
    whole = re.compile(r'"([^"]*)"')
    return [match[1] if (match := whole.fullmatch(cell)) else cell for cell in line.split(delimiter)]


def dialect_cells(path: Path, dialect: Dialect) -> Iterator[tuple[int, list[str]]]:
    """Line and cells of each row, blank rows included.

    Raises:
        DataError: a row that cannot be read; the message names the line.
    """
    for row in table_rows(table_lines(path, dialect), dialect.delimiter):
        if row.error:
            hint = "is a closing quote missing, or is it another format?"
            raise DataError(f"not a table ({row.error})", path, row.line, hint)
        yield row.line, row.cells
