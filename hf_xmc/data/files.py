"""Text files of any compression and encoding, line by line. Anything wrong with a file is raised as a `DataError`."""

from __future__ import annotations

import bz2
import codecs
import gzip
import hashlib
import io
import json
import lzma
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pyarrow as pa

from hf_xmc.data.damage import damage_of, is_pointer
from hf_xmc.data.writing import replacing as replacing  # of one file; a folder has `transaction`
from hf_xmc.errors import DataError, Problems

MAX_LINE = 4 * 2**20  # characters; a longer line means that the file has no line ends
COMPRESSED = ("", ".gz", ".bz2", ".xz", ".zst")
BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16: its mark begins with that of UTF-16
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
ENCODINGS = (
    "convert the file to UTF-8, or give its encoding (--encoding cp1252, latin-1, utf-16, ... of hf-xmc prepare, fit, "
    "predict and labels)"
)
BROKEN = (EOFError, OSError, zlib.error, lzma.LZMAError, pa.ArrowException)
COMPRESSIONS = ((b"\x1f\x8b", ".gz"), (b"BZh", ".bz2"), (b"\xfd7zXZ\0", ".xz"), (b"\x28\xb5\x2f\xfd", ".zst"))
OTHER_KINDS = (  # how files begin that are no text, whatever they are called
    (b"PK\x03\x04", "a spreadsheet (.xlsx) or another zip archive"),
    (b"PAR1", "a Parquet file"),
    (b"\xd0\xcf\x11\xe0", "a file of an old spreadsheet program (.xls)"),
    (b"%PDF", "a PDF"),
    (b"ARROW1", "an Arrow or Feather file"),
    (b"\x89HDF", "an HDF5 file"),
    (b"SQLite format", "an SQLite database"),
    (b"\x80\x04", "a pickle, which is never opened"),
)
START = 2**16  # bytes of a file that show its line ends
WRAPPERS = ("data", "rows", "records", "items", "documents", "examples")  # names of the list in a JSON document
MAX_DOCUMENT = 2**28  # characters of a JSON file that is one document


def write_page(html: str, path: str | os.PathLike[str]) -> Path:
    """Write an HTML page under a temporary name, then rename. Half of a surrogate pair, which some texts have and no
    encoding can write, becomes a character reference."""
    with replacing(path) as temporary:
        temporary.write_text(html, encoding="utf-8", errors="xmlcharrefreplace")
    return Path(path)


def file_fingerprint(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def find_file(folder: Path, *names: str) -> Path | None:
    """The first of these files that exists, plain or compressed."""
    return next((p for name in names for end in COMPRESSED if (p := folder / f"{name}{end}").is_file()), None)


def plain_suffix(path: Path) -> str:
    """The suffix without that of the compression, in lower case.

    >>> plain_suffix(Path("a/trn.JSON.gz"))
    '.json'
    """
    suffixes = [suffix.lower() for suffix in path.suffixes]
    return next((suffix for suffix in reversed(suffixes) if suffix not in COMPRESSED), "")


def lines(path: Path, encoding: str | None = None) -> Iterator[tuple[int, str]]:
    """Number (from 1) and text of each line, without its end (LF or CRLF).

    A file with a byte order mark is decoded accordingly; any other file with `encoding`, by default UTF-8.

    Raises:
        DataError: the file is missing or incomplete, it cannot be decoded, or a line has NUL bytes or more than
            4 Mi characters.
    """
    number = 0
    try:
        with open_text(path, encoding) as file:
            while line := file.readline(MAX_LINE + 1):
                number += 1
                if len(line) > MAX_LINE:
                    raise DataError(
                        f"the line is longer than {MAX_LINE:,} characters", path, number, "break it, or shorten it"
                    )
                if "\0" in line:
                    refuse_other_kind(path)
                    raise DataError(
                        "the line has NUL bytes", path, number, "is it a text file, and is its encoding right?"
                    )
                yield number, line.rstrip("\r\n")
    except UnicodeError as error:
        refuse_other_kind(path)
        raise DataError(
            f"not {'UTF-8' if encoding in (None, 'utf-8') else encoding} ({getattr(error, 'reason', error)})",
            path,
            number + 1,
            ENCODINGS,
        ) from error
    except LookupError as error:
        raise DataError(f"unknown encoding {encoding!r}", path, hint="use a name that Python knows") from error
    except BROKEN as error:
        raise DataError(f"cannot be read ({error})", path, number + 1, "is the file complete?") from error


def first_lines(path: Path, count: int) -> list[str]:
    """The first lines of a file that are not blank, to see what it is: with `�` for what cannot be decoded, and
    without any if it cannot be read. Reading the file says what is wrong with it."""
    try:
        with open_text(path, None, errors="replace") as file:
            some = (file.readline(MAX_LINE) for _ in range(10 * count))
            return [line.rstrip("\r\n") for line in some if line.strip()][:count]
    except (DataError, *BROKEN):
        return []


def open_text(path: Path, encoding: str | None, errors: str = "strict") -> IO[str]:
    """Open for reading. Only line feeds end a line, because texts may contain other line separators; or carriage
    returns, in a file that has no line feeds, as programs of old Macs write them."""
    with open_bytes(path) as file:
        start = file.read(START)
    found = next((name for mark, name in BYTE_ORDER_MARKS if start.startswith(mark)), encoding or "utf-8")
    end = "\r" if b"\r" in start and b"\n" not in start else "\n"
    return io.TextIOWrapper(open_bytes(path), encoding=found, errors=errors, newline=end)


def open_bytes(path: Path) -> Any:
    """Open for reading. What is compressed (gzip, bzip2, xz, Zstandard) is decompressed, whatever it is called."""
    if path.is_fifo():  # which would be waited for without end
        raise DataError("this is a pipe, not a file", path, hint="write it to a file first, and give that")
    refuse_pointer(path)
    with path.open("rb") as file:
        start = file.read(8)
    kind = next((suffix for mark, suffix in COMPRESSIONS if start.startswith(mark)), "")
    if kind == ".gz":
        return gzip.open(path, "rb")
    if kind == ".bz2":
        return bz2.open(path, "rb")
    if kind == ".xz":
        return lzma.open(path, "rb")
    if kind == ".zst":
        return io.BufferedReader(pa.input_stream(str(path), compression="zstd"), 2**20)
    return path.open("rb")


def refuse_pointer(path: Path) -> None:
    """Refuse a pointer of Git LFS, whose lines would be read as data.

    Raises:
        DataError: it is one.
    """
    if path.is_file() and is_pointer(path):
        found, hint = damage_of(path)
        raise DataError(found, path, hint=hint)


def refuse_other_kind(path: Path) -> None:
    """Say what a file is that is no text.

    Raises:
        DataError: it begins as a file of another kind.
    """
    with open_bytes(path) as file:
        start = file.read(16)
    if found := next((kind for mark, kind in OTHER_KINDS if start.startswith(mark)), ""):
        raise DataError(f"this is {found}", path, hint="give the file its right ending, or save it as .csv")


def json_lines(path: Path, problems: Problems, encoding: str | None = None) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line number and object of each line that is not blank; anything but an object is an error. In a file that is one
    document, a list of objects or an object with such a list, the number of the object instead."""
    records = whole_document(path, encoding)
    if records is not None:
        for number, record in enumerate(records, start=1):
            if isinstance(record, dict):
                yield number, record
                continue
            error = DataError(f"found {record!r:.60}", path, number, "expected a list of JSON objects")
            problems.error("unreadable rows", error, "the row was left out")
        return
    for number, line in lines(path, encoding):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except RecursionError:
            error = DataError("JSON nested too deeply", path, number, "expected a flat JSON object per line")
        except ValueError as bad:  # also numbers of more than 4,300 digits, which Python does not parse
            reason = getattr(bad, "msg", bad)
            error = DataError(f"not JSON ({reason})", path, number, "expected a JSON object per line")
        else:
            if isinstance(record, dict):
                yield number, record
                continue
            error = DataError(f"found {line.strip()!r:.60}", path, number, "expected a JSON object per line")
        problems.error("unreadable rows", error, "the row was left out")


def whole_document(path: Path, encoding: str | None) -> list[Any] | None:
    """The records of a JSON file that is one document; None for a file with an object a line.

    A document is a list of objects, or one object over several lines: the list of objects in it, if there is just one
    (`{"data": [...]}`), or else itself.
    """
    first, *more = first_lines(path, 2) or [""]
    if not first.lstrip().startswith(("[", "{")) or (is_object(first) and (more or not lists_in(json.loads(first)))):
        return None
    try:
        found = read_json(path, encoding)
    except DataError:
        if first.lstrip().startswith("[") and not more:
            raise
        return None  # its lines say what is wrong
    return found if isinstance(found, list) else next(iter(lists_in(found)), [found])


def is_object(line: str) -> bool:
    """Whether a line is a JSON object as a whole."""
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def lists_in(found: Any) -> list[list[Any]]:
    """The list of objects that a JSON object is wrapped around, in a list; empty if there is none, or several."""
    items = found.items() if isinstance(found, dict) else ()
    lists = [
        value
        for name, value in items
        if isinstance(value, list) and value and isinstance(value[0], dict) and (len(items) == 1 or name in WRAPPERS)
    ]
    return lists if len(lists) == 1 else []


def read_json(path: Path, encoding: str | None = None) -> Any:
    """The content of a JSON file.

    Raises:
        DataError: the file cannot be read, or is not JSON.
    """
    text = whole_text(path, encoding)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        line = getattr(error, "lineno", None)
        raise DataError(f"not JSON ({getattr(error, 'msg', error)})", path, line, "is the file complete?") from error


def whole_text(path: Path, encoding: str | None = None) -> str:
    """A text file as one string, whose lines may be of any length.

    Raises:
        DataError: as `lines`, or more than 256 Mi characters.
    """
    try:
        with open_text(path, encoding) as file:
            text = file.read(MAX_DOCUMENT + 1)
    except (UnicodeError, LookupError, *BROKEN):
        text = "\n".join(line for _, line in lines(path, encoding))  # which says what is wrong, and in which line
    if len(text) > MAX_DOCUMENT:
        raise DataError(f"longer than {MAX_DOCUMENT:,} characters", path, hint="write a JSON object per line")
    return text
