"""How a `.csv` or `.tsv` file is written: encoding, separator, quotes and line ends, found from the file itself, so
that a file of the same kind can be written again."""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from hf_xmc.data.files import BYTE_ORDER_MARKS, MAX_LINE, lines, open_bytes, plain_suffix
from hf_xmc.errors import DataError

SEPARATORS = (",", ";", "\t", "|")
SAMPLE = 100  # rows that are looked at
FALLBACK = "cp1252"  # of files that are not UTF-8, which older spreadsheet programs write
BLOCK = 2**20
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

    The separator of a `.csv` file is the one that splits its first rows into the same number of cells, more than one;
    a `.tsv` file has tabs.

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
    delimiter = "\t" if plain_suffix(path) == ".tsv" else delimiter_of(head)
    cells = [cell for row in parsed(head, delimiter)[1:] for cell in row]
    signs = [match[1] for cell in cells if (match := NUMBER.fullmatch(cell.strip()))]
    # Spreadsheet programs separate cells by semicolons where the comma is the decimal sign.
    decimal = "," if "," in signs or (delimiter == ";" and "." not in signs) else "."
    quoted = [line for line in head if line.strip()]
    quote_all = bool(quoted) and all(line.startswith('"') and line.endswith('"') for line in quoted)
    return Dialect(delimiter, found, guessed, quote_all, line_end_of(path, found), decimal)


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


def dialect_cells(path: Path, dialect: Dialect) -> Iterator[tuple[int, list[str]]]:
    """Line and cells of each row, blank rows included.

    Raises:
        DataError: a row that cannot be read; the message names the line.
    """
    csv.field_size_limit(MAX_LINE)
    source = (f"{line}\n" for _, line in lines(path, dialect.encoding))
    reader = csv.reader(source, delimiter=dialect.delimiter, strict=True)
    while True:
        start = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            hint = "is a closing quote missing, or is it another format?"
            raise DataError(f"not a table ({error})", path, start, hint) from error
        yield start, cells
