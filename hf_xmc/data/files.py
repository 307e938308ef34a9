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
BROKEN = (EOFError, OSError, zlib.error, lzma.LZMAError, pa.ArrowException)


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
                    raise DataError(
                        "the line has NUL bytes", path, number, "is it a text file, and is its encoding right?"
                    )
                yield number, line.rstrip("\r\n")
    except UnicodeError as error:
        raise DataError(
            f"not {'UTF-8' if encoding in (None, 'utf-8') else encoding} ({getattr(error, 'reason', error)})",
            path,
            number + 1,
            "convert the file to UTF-8, or give its encoding (--encoding cp1252, latin-1, utf-16, ...)",
        ) from error
    except LookupError as error:
        raise DataError(f"unknown encoding {encoding!r}", path, hint="use a name that Python knows") from error
    except BROKEN as error:
        raise DataError(f"cannot be read ({error})", path, number + 1, "is the file complete?") from error


def open_text(path: Path, encoding: str | None) -> IO[str]:
    """Open for reading. Only line feeds end a line, because texts may contain other line separators."""
    with open_bytes(path) as file:
        start = file.read(4)
    found = next((name for mark, name in BYTE_ORDER_MARKS if start.startswith(mark)), encoding or "utf-8")
    return io.TextIOWrapper(open_bytes(path), encoding=found, newline="\n")


def open_bytes(path: Path) -> Any:
    """Open for reading; `.gz`, `.bz2`, `.xz` and `.zst` files are decompressed."""
    if path.is_fifo():  # which would be waited for without end
        raise DataError("this is a pipe, not a file", path, hint="write it to a file first, and give that")
    suffix = path.suffix.lower()
    if suffix == ".gz":
        return gzip.open(path, "rb")
    if suffix == ".bz2":
        return bz2.open(path, "rb")
    if suffix == ".xz":
        return lzma.open(path, "rb")
    if suffix == ".zst":
        return io.BufferedReader(pa.input_stream(str(path), compression="zstd"), 2**20)
    return path.open("rb")


def json_lines(path: Path, problems: Problems, encoding: str | None = None) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line number and object of each line that is not blank; anything but an object is an error."""
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


def read_json(path: Path, encoding: str | None = None) -> Any:
    """The content of a JSON file.

    Raises:
        DataError: the file cannot be read, or is not JSON.
    """
    text = "\n".join(line for _, line in lines(path, encoding))
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        line = getattr(error, "lineno", None)
        raise DataError(f"not JSON ({getattr(error, 'msg', error)})", path, line, "is the file complete?") from error
