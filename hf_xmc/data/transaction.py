"""Folders that are written as one: whoever is killed while writing leaves the old files or the new ones.

A writer holds a lock on the folder, and writes into a staging folder inside it that looks like the folder itself: its
files are there as hard links. One rename of the staging folder is the commit. After it the changed files are moved to
their places, which whoever opens the folder next does again if the writer was killed: all steps can be repeated.

    .hf_xmc.lock           locked while somebody writes; it stays
    .hf_xmc.holder.json    who that is, for messages
    .hf_xmc.staging-...    what is being written; without its writer it is rubbish
    .hf_xmc.commit         what is written and not yet all in its place

All of it stands inside the folder, since the folder may be a mount point or the working directory, and its parent may
not be writable. Readers take no lock and write nothing, unless a commit has to be finished.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from hf_xmc.data.writing import STAGING, replacing, says_full, sync
from hf_xmc.errors import DiskFullError, ModelFolderError, XMCError

if TYPE_CHECKING:
    from filelock import BaseFileLock

logger = logging.getLogger(__name__)
T = TypeVar("T")
OURS = ".hf_xmc."
LOCK, HOLDER = f"{OURS}lock", f"{OURS}holder.json"
COMMIT = f"{OURS}commit"
REMOVED = ".removed.json"  # in the staging folder: the names of files that go
WAIT = 20.0  # seconds for another writer
PATIENCE = 1.0  # seconds before a message says what is being waited for
DEPTH = 3  # of files that belong to a trained folder, as 2_Router/query_0_Dense/config.json
CHECKPOINTS = "checkpoint-"
TRIES = 5
Stamp = tuple[int, int, int]


@dataclass
class Held:
    """A folder that this thread has locked, and the staging folder of its transaction, if one is open."""

    staging: Path | None = None


class Holding(threading.local):
    """The folders that a thread has locked."""

    def __init__(self) -> None:
        self.folders: dict[Path, Held] = {}


holding = Holding()


@contextmanager
def locked(folder: str | os.PathLike[str], timeout: float = WAIT) -> Iterator[None]:
    """Keep other writers out of a folder, which is made if it is not there. A thread may do so again inside.

    What a killed writer left is put in order first.

    Args:
        timeout: seconds to wait for another writer.

    Raises:
        ModelFolderError: another process or thread still writes into the folder then; the message names it.
    """
    folder = Path(folder)
    key = folder.resolve()
    if key in holding.folders or in_staging(key):
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    lock = acquired(folder, timeout)
    holding.folders[key] = Held()
    try:
        note_holder(folder)
        put_in_order(folder)
        yield
    finally:
        del holding.folders[key]
        try:
            (folder / HOLDER).unlink(missing_ok=True)
        finally:
            lock.release()


@contextmanager
def transaction(
    folder: str | os.PathLike[str], timeout: float = WAIT, only: Collection[str] | None = None
) -> Iterator[Path]:
    """Write into a folder as one: all changes of the block are there afterwards, or none if it fails or is killed.

    Inside another transaction of the folder, or with its staging folder, the block takes part in that one.

    Args:
        timeout: seconds to wait for another writer.
        only: the files that are written, of a folder that may hold whatever else; by default all take part.

    Yields:
        A folder in the place of `folder`, with the same files, to write, replace and delete in. Its files are links to
        those of `folder`: replace them (`replacing`) or delete them first, since one that is opened for writing
        changes in both.

    Raises:
        ModelFolderError: as `locked`.

    >>> folder = Path(tempfile.mkdtemp())
    >>> try:
    ...     with transaction(folder) as staging:
    ...         _ = (staging / "a.txt").write_text("half of it")
    ...         raise KeyboardInterrupt
    ... except KeyboardInterrupt:
    ...     (folder / "a.txt").exists()
    False
    """
    folder = Path(folder)
    key = folder.resolve()
    outer = key if in_staging(key) else held.staging if (held := holding.folders.get(key)) else None
    if outer is not None:
        yield outer
        return
    with locked(folder, timeout):
        staging = Path(tempfile.mkdtemp(prefix=STAGING, dir=folder))
        try:
            before = fill(folder, staging, only)
            holding.folders[key].staging = staging
            yield staging
            commit(folder, staging, before)
        except XMCError as error:  # about a file in the staging folder, which nobody knows
            error.args = tuple(str(part).replace(str(staging), str(folder)) for part in error.args)
            raise
        except Exception as error:
            if isinstance(error, OSError) or not says_full(error):
                raise
            raise DiskFullError(
                f"no space left on the disk ({type(error).__name__}: {error!s:.200})",
                folder,
                hint="the folder is as it was; make room, and repeat the command",
            ) from error
        finally:
            holding.folders[key].staging = None
            shutil.rmtree(staging, ignore_errors=True)


def read_whole(folder: Path, read: Callable[[], T], names: Callable[[], Iterable[str]]) -> T:
    """What `read` returns, from a folder that was not changed while it read: of the old state or of the new one.

    Args:
        read: loads from the folder; it is called again if the folder has changed meanwhile.
        names: the files that it reads, relative to the folder.

    Raises:
        ModelFolderError: the folder changes all the time, or what a killed writer left cannot be finished.
    """
    for _ in range(TRIES):
        finish(folder)
        before = stamps(folder, names())
        try:
            found = read()
        except Exception:
            if stamps(folder, names()) == before and not (folder / COMMIT).is_dir():
                raise
            continue  # a file went away under its hands
        if stamps(folder, names()) == before and not (folder / COMMIT).is_dir():
            return found
    raise ModelFolderError(
        f"it was changed {TRIES} times while it was read", folder, hint=f"wait until {holder(folder)} is done"
    )


def finish(folder: Path, timeout: float = WAIT) -> None:
    """Complete what a writer committed that was killed, or wait for one that is at it.

    Raises:
        ModelFolderError: the folder cannot be written.
    """
    if not (folder / COMMIT).is_dir() or in_staging(folder.resolve()):
        return
    try:
        with locked(folder, timeout):
            pass
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        raise ModelFolderError(
            "a command was killed while it saved, and the files cannot be put in their places without the right to "
            "write here",
            folder,
            hint="load the folder once as somebody who may write, or copy it with its hidden files and load the copy",
        ) from error


def in_staging(path: Path) -> bool:
    """Whether a path is, or lies in, the staging folder of a transaction that this thread has open."""
    open_ones = [held.staging.resolve() for held in holding.folders.values() if held.staging is not None]
    return any(path.is_relative_to(staging) for staging in open_ones)


# ---- The lock ----


def acquired(folder: Path, timeout: float) -> BaseFileLock:
    """The lock of a folder, held; after a second of waiting a message says whom for."""
    from filelock import FileLock, Timeout  # slow to import, and only writers need it

    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=min(PATIENCE, timeout), poll_interval=0.02)
        return lock
    except Timeout:
        if timeout > PATIENCE:
            logger.warning(f"{folder}: waiting for {holder(folder)}, at most {timeout:.0f} s.")
    try:
        lock.acquire(timeout=max(timeout - PATIENCE, 0), poll_interval=0.05)
        return lock
    except Timeout:
        raise ModelFolderError(
            f"{holder(folder)} writes into it", folder, hint="wait until that is done, or give another folder"
        ) from None


def note_holder(folder: Path) -> None:
    """Say who writes. Options are left out, which may hold passwords."""
    command = [Path(sys.argv[0]).name, *sys.argv[1:]] if sys.argv else ["python"]
    options = [at for at, word in enumerate(command) if word.startswith("-")]
    about = {
        "command": " ".join(command[: options[0]] if options else command)[:200],
        "process": os.getpid(),
        "host": socket.gethostname(),
        "since": time.strftime("%Y-%m-%d %H:%M:%S"),
    }
    (folder / HOLDER).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")


def holder(folder: Path) -> str:
    """Who writes into a folder, in words."""
    try:
        about: dict[str, Any] = json.loads((folder / HOLDER).read_text(encoding="utf-8"))
        return f"{about['command']} (process {about['process']} on {about['host']}, since {about['since']})"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"


def put_in_order(folder: Path) -> None:
    """Finish what a killed writer committed, and delete what one did not; only under the lock."""
    if (folder / COMMIT).is_dir():
        move_into_place(folder)
    for rubbish in folder.glob(f"{STAGING}*"):
        shutil.rmtree(rubbish, ignore_errors=True)


# ---- Staging and commit ----


def fill(folder: Path, staging: Path, only: Collection[str] | None = None) -> dict[str, Stamp]:
    """Link the files of a folder, or only some, into its staging folder; returns how each looks there."""
    found = files_below(folder, DEPTH) if only is None else [name for name in only if (folder / name).is_file()]
    names = [name for name in found if not hidden(name)]
    for name in names:
        (staging / name).parent.mkdir(parents=True, exist_ok=True)
        link(folder / name, staging / name)
    return stamps(staging, names)


def link(path: Path, target: Path) -> None:
    """A hard link, or a copy where the file system has none."""
    try:
        os.link(path.resolve(), target)
    except OSError:
        shutil.copy2(path, target)


def unshare(staging: Path, names: Iterable[str]) -> None:
    """Give a staging folder copies in the place of links, for a library that opens these files for writing."""
    for name in names:
        with replacing(staging / name) as temporary:
            shutil.copy2(staging / name, temporary)


def commit(folder: Path, staging: Path, before: dict[str, Stamp]) -> None:
    """Make what was written final: put it on the disk, rename the staging folder, and move its files."""
    after = stamps(staging, before)
    removed = [name for name in before if name not in after]
    for name, stamp in after.items():
        if stamp == before[name]:
            (staging / name).unlink()
    changed = [staging / name for name in files_below(staging)]
    if not removed and not changed:
        return
    (staging / REMOVED).write_text(json.dumps(removed), encoding="utf-8")
    for path in (*changed, staging / REMOVED):
        sync(path)
    for directory in {path.parent for path in changed} | {staging}:
        sync(directory)
    os.rename(staging, folder / COMMIT)  # from here on the folder is the new one
    sync(folder)
    move_into_place(folder)


def move_into_place(folder: Path) -> None:
    """Move committed files to their places, and delete those that go; it can be done again from the start."""
    source = folder / COMMIT
    removed = names_in(source / REMOVED)
    touched = {folder}
    for name in files_below(source):
        if name != REMOVED:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            move(source / name, folder / name)
            touched.add((folder / name).parent)
    for name in removed:
        (folder / name).unlink(missing_ok=True)
    for name in removed:
        with suppress(OSError):  # other files are left in it
            for directory in [*Path(name).parents][:-1]:
                (folder / directory).rmdir()
    for directory in touched:
        sync(directory)
    shutil.rmtree(source)
    sync(folder)


def names_in(path: Path) -> list[str]:
    """The names in a list of removed files; none if it is gone, which it is after all else.

    Raises:
        ModelFolderError: the file was not written by `commit`, or names files elsewhere.
    """
    if not path.is_file():
        return []
    try:
        names = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        names = None
    if not isinstance(names, list) or not all(isinstance(name, str) and inside(name) for name in names):
        raise ModelFolderError("this is not a list of files of the folder", path, hint=f"delete {path.parent}")
    return names


def inside(name: str) -> bool:
    """Whether a relative path stays in its folder.

    >>> [inside(name) for name in ("index/index.json", "../x", "/etc/x", "a/../../x")]
    [True, False, False, False]
    """
    path = Path(name)
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts


def move(path: Path, target: Path) -> None:
    """Rename a file; where the target is on another file system, through a copy beside it."""
    try:
        os.replace(path, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        with replacing(target) as temporary:
            shutil.copy2(path, temporary)
        path.unlink()


def files_below(folder: Path, depth: int | None = None) -> list[str]:
    """The files of a folder and of those in it, relative to it, sorted."""
    found = []
    for directory, folders, files in os.walk(folder, followlinks=depth is not None):
        place = Path(directory).relative_to(folder)
        found += [(place / name).as_posix() for name in files if (Path(directory) / name).is_file()]
        if depth is not None:
            deep = len(place.parts) + 1 >= depth
            folders[:] = [] if deep else [name for name in folders if not hidden(name)]
    return sorted(found)


def hidden(name: str) -> bool:
    """Whether a file or folder is none of a trained folder's parts: hidden, or a checkpoint."""
    return name.startswith((".", CHECKPOINTS))


def stamps(folder: Path, names: Iterable[str]) -> dict[str, Stamp]:
    """What changes when a file does, for those of the files that are there."""
    found = {}
    for name in names:
        with suppress(OSError):
            status = (folder / name).stat()
            found[name] = (status.st_ino, status.st_size, status.st_mtime_ns)
    return found
