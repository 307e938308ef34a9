"""What a process does to the disk, step by step.

A kill point is a moment before a step: before a file is opened for writing, renamed, deleted, linked or synced, or a
folder is made or deleted. Python reports these to an audit hook, those of the standard library included. Libraries in
other languages (safetensors, FAISS, Arrow, tokenizers) write without a report; what they leave when they are killed in
the midst of a file is had by a limit on its size, see `kill_at_size`.
"""

from __future__ import annotations

import hashlib
import os
import re
import resource
import shutil
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

STEPS = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate", "os.chmod")
PASSED_OVER = re.compile(r"\.hf_xmc\.(staging-.*|lock|holder\.json)|\..*\.tmp")
PROGRESS = re.compile(r"/\.|/checkpoint-|/(tagger|model)/fit/|/train\.yaml$|\.csv\.parts/")
TIMED = re.compile(rb"second|runtime|kWh|written by hf_xmc")
UNLIKE = ("manifest.json", "run.json", "fit.json", "fit.html")  # they hold times, or hashes of files that do
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


@dataclass
class Recorder:
    """Tells `at_step` of each step below a folder, before it is taken; in this process, until it ends.

    Args:
        root: the folder.
        at_step: called with the number of the step, from 0, and what it is.
    """

    root: Path
    at_step: Callable[[int, str], None]
    steps: int = 0
    busy: bool = field(default=False, repr=False)

    def start(self) -> None:
        fsync = os.fsync

        def synced(descriptor: int) -> None:
            self.step("os.fsync", f"/proc/self/fd/{descriptor}")
            fsync(descriptor)

        os.fsync = synced
        sys.addaudithook(self.hook)

    def hook(self, event: str, given: tuple[Any, ...]) -> None:
        if self.busy:
            return
        if event == "open":
            path, _, flags = given
            if isinstance(flags, int) and flags & WRITES:
                self.step(event, path)
        elif event in STEPS:
            folder = next((x for x in given[1:] if isinstance(x, int) and x > 2), None)
            # Relative to an open folder, as shutil.rmtree deletes: the name alone says nothing.
            absolute = isinstance(given[0], int) or os.path.isabs(os.fspath(given[0]))
            self.step(event, given[0] if absolute or folder is None else f"/proc/self/fd/{folder}")

    def step(self, event: str, path: Any) -> None:
        if self.busy or not self.is_inside(path):
            return
        self.busy = True
        try:
            self.at_step(self.steps, f"{event} {os.path.basename(os.fspath(path)) if path else ''}")
            self.steps += 1
        finally:
            self.busy = False

    def is_inside(self, path: Any) -> bool:
        if isinstance(path, int):
            path = f"/proc/self/fd/{path}"
        if not isinstance(path, (str, bytes, os.PathLike)):
            return False
        name = os.fsdecode(path)
        try:
            name = os.readlink(name) if name.startswith("/proc/self/fd/") else os.path.abspath(name)
        except OSError:
            return False
        return name.startswith(f"{self.root}{os.sep}") or name == str(self.root)


def kill_at_size(size: int) -> None:
    """Let the kernel kill this process when a file of its grows beyond a size, with that many bytes written."""
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # which Python ignores
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def full_at_size(size: int) -> None:
    """Let writing fail with an OSError when a file grows beyond a size, as on a full disk."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def files(folder: Path) -> list[str]:
    """All files and empty folders below a folder, relative to it; nothing of an empty one."""
    found = []
    for path, folders, names in os.walk(folder):
        found += [os.path.relpath(os.path.join(path, name), folder) for name in names]
        found += [os.path.relpath(path, folder) + os.sep] if not folders and not names and path != str(folder) else []
    return sorted(found)


def digest(folder: Path, passed_over: bool = True) -> str:
    """A hash of the names and contents of a tree. The random part of hidden names is left out.

    Args:
        passed_over: with what readers pass over: staging folders, locks and temporary files.
    """
    lines = []
    for name in files(folder):
        parts = name.split(os.sep)
        if not passed_over and any(PASSED_OVER.fullmatch(part) for part in parts):
            continue
        plain = os.sep.join("." if part[:1] == "." and part != "." else part for part in parts)
        path = folder / name
        content = "" if path.is_dir() or not path.is_file() else hashlib.sha1(path.read_bytes()).hexdigest()
        lines.append(f"{plain} {content}")
    return hashlib.sha1("\n".join(sorted(lines)).encode()).hexdigest()


def shown(folder: Path) -> dict[str, str]:
    """The files that a command is for, and a hash of each: without hidden ones, the cache, checkpoints, the settings
    that a training writes when it begins and the work of `fit`, and without the lines that name a time."""
    found = {}
    for name in files(folder):
        if name.startswith("cache/") or name.endswith(os.sep) or PROGRESS.search(f"/{name}"):
            continue
        content = (folder / name).read_bytes()
        if name.endswith((".json", ".md", ".html")):
            content = b"\n".join(line for line in content.split(b"\n") if not TIMED.search(line))
        found[name] = "" if name.endswith(UNLIKE) else hashlib.sha1(content).hexdigest()
    return found


def restore(source: Path, target: Path) -> None:
    """Make a tree like another one, times included."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target, symlinks=True)
