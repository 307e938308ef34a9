"""Files that are whole or not there: written under a name of this process alone, renamed once they are on the disk.

A folder of several files is written by `hf_xmc.data.transaction`.
"""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from glob import escape
from pathlib import Path

HOST = hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]  # in temporary names, which tell whose they are
STAGING = ".hf_xmc.staging-"  # begins the names of folders that are not final; see `hf_xmc.data.transaction`
# What a full disk, or a limit on the size of files, is called by Rust, C and PyTorch's archive writer.
FULL = ("No space left", "os error 28", "File too large", "os error 27", "inline_container.cc")
DAY = 24 * 60 * 60  # seconds


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary path to write to, renamed to `path` at the end of the block, when it is on the disk. If the block
    fails, as on a full disk, the temporary file is removed and the existing file at `path` is kept. Two writers of one
    file do not share it.

    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp()) / "new" / "a.txt"
    >>> with replacing(target) as temporary:
    ...     _ = temporary.write_text("whole")
    >>> target.read_text(), [p.name for p in target.parent.iterdir()]
    ('whole', ['a.txt'])
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = beside(path)
    try:
        yield temporary
        staged = any(part.startswith(STAGING) for part in path.parts)  # all of it is synchronised before the commit
        if not staged:
            sync(temporary)
        os.replace(temporary, path)
        if not staged:
            sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def beside(path: Path) -> Path:
    """A hidden name beside a file or folder, of this process alone. What processes that are gone left under such names
    is deleted.

    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp()) / "a.txt"
    >>> beside(target) == beside(target)
    False
    """
    remove_left(path.parent, escape(path.name))
    return path.with_name(f".{path.name}.{HOST}-{os.getpid()}-{secrets.token_hex(4)}.tmp")


@contextmanager
def scratch_beside(path: Path) -> Iterator[Path]:
    """A new folder beside a file or folder, hidden and of this process alone, that is deleted at the end of the block;
    to be renamed, if it is to stay."""
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = beside(path)
    folder.mkdir(mode=0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def remove_left(folder: Path, name: str = "*") -> None:
    """Delete the temporary files and folders that processes which are gone left in a folder.

    Args:
        name: a pattern for what they were to become.
    """
    for old in folder.glob(f".{name}.*.tmp"):
        if is_left(old):
            remove(old)


def is_left(temporary: Path) -> bool:
    """Whether the process that made a temporary name is gone; on another machine, or where processes cannot be asked,
    whether nothing was written to it for a day."""
    host, _, rest = temporary.name.split(".")[-2].partition("-")
    process = rest.partition("-")[0]
    if host == HOST and process.isdecimal() and os.name == "posix":
        try:
            os.kill(int(process), 0)
        except ProcessLookupError:
            return True
        except OSError:  # of another user
            return False
        return False
    try:
        return time.time() - temporary.stat().st_mtime > DAY
    except OSError:
        return False


def remove(path: Path) -> None:
    """Delete a file or folder, if it is there and may be deleted."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


def says_full(error: BaseException) -> bool:
    """Whether something could not be written for want of space. Libraries in other languages raise errors of their
    own, with the words of the operating system.

    >>> says_full(OSError(errno.ENOSPC, "No space left on device")), says_full(ValueError("a full moon"))
    (True, False)
    """
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return True
    return any(words in str(error) for words in FULL)


def sync_all(folder: Path) -> None:
    """`sync` a folder and everything in it."""
    for path in (*folder.rglob("*"), folder):
        sync(path)


def sync(path: Path) -> None:
    """Have a file or a folder's entries on the disk, not in a cache alone, before a rename says that they are. Some
    file systems cannot do this for folders."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except PermissionError:  # a folder, on Windows
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EBADF, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)
