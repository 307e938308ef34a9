"""Archives, unpacked whole or not at all into the cache, by their content: a replaced archive is another one.

What an archive may hold is limited, since a stranger may have made it: a few bytes can claim to be a full disk.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from shutil import disk_usage
from typing import IO, Any, cast

from hf_xmc.data.arrow import cached_folder
from hf_xmc.data.files import file_fingerprint
from hf_xmc.errors import DataError

ARCHIVES = (".zip", ".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz")
BROKEN = (
    OSError,
    EOFError,
    zipfile.BadZipFile,
    tarfile.TarError,
    lzma.LZMAError,
    zlib.error,
    RuntimeError,
    ValueError,
)
MOST_FILES = 100_000
MOST_RATIO = 200  # unpacked to packed bytes; text with much repetition reaches 30
LEAST_CHECKED = 64 * 2**20  # bytes below which the ratio does not matter
LONGEST_NAME = 1_000  # characters
KEPT_FREE = 256 * 2**20  # bytes that unpacking leaves on the disk
BLOCK = 2**20
LONGEST_HEADER = 16 * 2**20  # bytes
VERSION = 1  # of the content of the cache


@dataclass(frozen=True)
class Member:
    """A file in an archive: its path there, the bytes that it claims to have, and how to open it."""

    name: str
    size: int
    file: IO[bytes] | None


def is_archive(path: Path) -> bool:
    """Whether a path is a file whose name says that it is an archive."""
    return path.name.lower().endswith(ARCHIVES) and path.is_file()


def unpacked(path: Path) -> Path:
    """The folder in the cache that holds the files of an archive.

    Raises:
        DataError: the archive is broken, holds links, devices or names outside of it, or is larger than the limits.
    """
    return cached_folder("archives", [VERSION, file_fingerprint(path)], lambda folder: unpack(path, folder))


def unpack(path: Path, folder: Path) -> None:
    """Write the files of an archive into an empty folder."""
    room = disk_usage(folder).free - KEPT_FREE
    packed, written, count = path.stat().st_size, 0, 0
    try:
        with ExitStack() as stack:
            for member in (zip_members if path.suffix.lower() == ".zip" else tar_members)(path, stack):
                count += 1
                check_name(member.name, path)
                if count > MOST_FILES:
                    raise refused(path, f"it holds more than {MOST_FILES:,} files")
                if member.file is None:
                    continue
                target = folder / member.name
                target.parent.mkdir(parents=True, exist_ok=True)
                with member.file as source, target.open("xb") as file:
                    while block := source.read(BLOCK):
                        written += len(block)
                        if written > LEAST_CHECKED and written > MOST_RATIO * packed:
                            raise refused(path, f"its files are more than {MOST_RATIO} times as large as itself")
                        if written > room:
                            raise refused(path, f"the disk has no room for its files ({folder.parent})")
                        file.write(block)
    except FileExistsError as error:
        raise refused(path, f"it holds two files called {Path(error.filename).name}") from error
    except BROKEN as error:
        if isinstance(error, DataError) or is_of_the_system(error):
            raise
        raise DataError(f"cannot be unpacked ({error!s:.120})", path, hint="is the file complete?") from error


def is_of_the_system(error: BaseException) -> bool:
    """Whether the disk failed, not the archive."""
    return isinstance(error, OSError) and error.errno is not None


def zip_members(path: Path, stack: ExitStack) -> Iterator[Member]:
    """The files of a `.zip`, in their order."""
    archive = stack.enter_context(zipfile.ZipFile(path))
    for info in archive.infolist():
        kind = stat.S_IFMT(info.external_attr >> 16)
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise refused(path, f"it holds a link or a device ({info.filename[:80]!r})")
        if info.flag_bits & 1:
            raise DataError("is encrypted", path, hint="unpack it yourself, and give the folder")
        yield Member(info.filename, info.file_size, None if info.is_dir() else archive.open(info))


def tar_members(path: Path, stack: ExitStack) -> Iterator[Member]:
    """The files of a `.tar`, plain or compressed, in their order."""
    stream: Any = Bounded(stack.enter_context(decompressed(path)))
    archive = stack.enter_context(tarfile.TarFile(fileobj=stream))
    for info in archive:
        if not (info.isfile() or info.isdir()):
            raise refused(path, f"it holds a link or a device ({info.name[:80]!r})")
        yield Member(info.name, info.size, archive.extractfile(info) if info.isfile() else None)


def decompressed(path: Path) -> IO[bytes]:
    """A `.tar` as it was before it was compressed, which its first bytes tell."""
    with path.open("rb") as file:
        start = file.read(6)
    if start.startswith(b"\x1f\x8b"):
        return cast("IO[bytes]", gzip.open(path, "rb"))
    if start.startswith(b"BZh"):
        return bz2.open(path, "rb")
    if start.startswith(b"\xfd7zXZ\x00"):
        return lzma.open(path, "rb")
    return path.open("rb")


class Bounded:
    """A file that gives no more bytes at once than a header has: a longer one would be read into memory whole."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= LONGEST_HEADER:
            raise ValueError("a header is too long")
        return self.file.read(size)


def check_name(name: str, path: Path) -> None:
    """Refuse a name that is no plain path inside of a folder."""
    parts = PurePosixPath(name.replace("\\", "/")).parts
    if name in ("./", "."):  # the folder itself
        return
    outside = name.startswith(("/", "\\")) or ".." in parts or (parts and ":" in parts[0])
    if outside or "\0" in name or not parts:
        raise refused(path, f"it holds a file outside of it ({name[:80]!r})")
    if len(name) > LONGEST_NAME or any(len(os.fsencode(part)) > 255 for part in parts):
        raise refused(path, f"it holds a name that is too long ({name[:40]!r}...)")


def refused(path: Path, why: str) -> DataError:
    return DataError(f"is not unpacked: {why}", path, hint="if you trust it, unpack it yourself, and give the folder")
