"""What else happens to commands: a full disk, a folder that cannot be written, two writers, a reader beside a writer.

Each function takes a command and the folder of the inputs, and returns what went wrong, in words; nothing is good.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.faults.commands import Command
from tests.faults.disk import files, full_at_size, restore
from tests.faults.forks import Ended, start_forked
from tests.faults.kill_points import Look, Sandbox, judge, repeated, spread, visible

Looks = tuple[Look, Look, list[str]]


def begun(command: Command, folder: Path) -> tuple[Sandbox, str, Looks]:
    """The sandbox of a command, the name of its first tree, and what is seen before and after a good run."""
    box = Sandbox(command, folder)
    command.prepare(box.given, box.work)
    tree, old = box.keep(), box.look()
    restore(box.trees[tree], box.work)
    ended = box.run()
    assert ended.code == 0, ended.said
    return box, tree, (old, box.look(), visible(box.work))


def complaint(ended: Ended) -> str:
    """What is wrong with how a command that could not write has ended: it should fail with a sentence."""
    if ended.code == 0:
        return ""
    if "Traceback" in ended.said:
        return f"a traceback: {ended.said.strip().splitlines()[-1][:200]}"
    return "" if "Error" in ended.said else f"no sentence: {ended.said[-200:]}"


LEAST = 4096  # bytes that a file may have: what the command says goes to a file as well


def fill_by_size(command: Command, folder: Path, sizes: int = 4) -> list[str]:
    """No file may grow beyond a size, for several sizes: old or new, a sentence, and new as soon as there is room."""
    box, tree, (old, new, names) = begun(command, folder)
    sizes_of = {path.stat().st_size for path in box.work.rglob("*") if path.is_file()}
    grown = sorted((size for size in sizes_of if size >= 2 * LEAST), reverse=True)
    found = []
    for size in spread(grown, sizes):
        restore(box.trees[tree], box.work)
        ended = box.run(lambda size=size: full_at_size(size // 2))
        seen, again = judge("", box.look(), old, new), repeated(box, new, names)
        found += [f"{command.name}, files of {size // 2} bytes: {what}" for what in problems(ended, seen, again)]
    return found


def problems(ended: Ended, seen: Any, again: str) -> Iterator[str]:
    if what := complaint(ended):
        yield what
    if seen.found not in ("old", "new"):
        yield f"{seen.found}: {seen.why}"
    if again:
        yield again


@contextmanager
def small_disk(size: int, place: Path) -> Iterator[Callable[[bool], None]]:
    """A file system of its own at a place; what it yields makes it read-only. It needs the right to mount.

    Raises:
        PermissionError: this process may not mount.
    """
    place.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)], capture_output=True)
    if done.returncode:
        raise PermissionError(done.stderr.decode())
    try:
        yield (
            lambda closed: (
                subprocess.run(
                    ["mount", "-o", f"remount,{'ro' if closed else 'rw'}", str(place)], check=True, capture_output=True
                )
                and None
            )
        )
    finally:
        subprocess.run(["umount", "-l", str(place)], check=False, capture_output=True)


def fill_disk(command: Command, folder: Path, room: int) -> list[str]:
    """A disk with so much room, in bytes, beside what is there."""
    box, tree, (old, new, names) = begun(command, folder)
    size = sum(path.stat().st_size + 4096 for path in box.trees[tree].rglob("*"))
    with small_disk(size + room, box.work):
        put(box.trees[tree], box.work)
        ended = box.run()
        seen = judge("", box.look(), old, new)
        left = [name for name in files(box.work) if "/." in f"/{name}" and name not in names]
        what = list(problems(ended, seen, f"left over: {left[:3]}" if left and not holds_lock(left) else ""))
    return [f"{command.name}, {room} bytes of room: {line}" for line in what]


def holds_lock(names: list[str]) -> bool:
    return all(name.endswith(".hf_xmc.lock") for name in names)


def put(source: Path, target: Path) -> None:
    """Copy a tree into a folder that is there."""
    subprocess.run(["cp", "-a", f"{source}/.", str(target)], check=True)


def write_protected(command: Command, folder: Path) -> list[str]:
    """A disk that cannot be written: a sentence, and the old."""
    box, tree, (old, new, _) = begun(command, folder)
    with small_disk(2**26, box.work) as close:
        put(box.trees[tree], box.work)
        (box.work / "cache").mkdir(exist_ok=True)
        close(True)
        ended = box.run()
        what = list(problems(ended, judge("", box.look(), old, new), ""))
        what += ["it ended well, but wrote nothing"] if ended.code == 0 and old != new else []
    return [f"{command.name}, read-only: {line}" for line in what]


def write_at_once(first: Command, second: Command, folder: Path, delays: list[float]) -> list[str]:
    """Two commands on one folder, the second so many seconds after the first: what one of them wrote, or one after
    the other; or one is refused with a sentence."""
    other = Sandbox(second, folder)  # before the first tree is kept: it begins with an empty folder for them
    box, tree, (_, one, _) = begun(first, folder)
    allowed = [one.seen]
    for before, after in ((box, other), (other, box)):
        restore(box.trees[tree], box.work)
        assert before.run().code == 0
        allowed.append(before.see())
        after.run()
        allowed.append(after.see())
    found = []
    for delay in delays:
        restore(box.trees[tree], box.work)
        forks = []
        for sandbox in (box, other):
            forks.append(start_forked(sandbox.work_of()))
            time.sleep(delay)
        ended = [fork.wait() for fork in forks]
        seen = box.see()
        what = [complaint(each) for each in ended if complaint(each)]
        what += [] if seen in allowed else [f"neither: {seen.get('error', 'other answers')}"]
        found += [f"{first.name} and {second.name}, {delay} s apart: {line}" for line in what]
    return found


def read_beside(command: Command, folder: Path) -> list[str]:
    """Readers while a command writes: the old or the new, each time."""
    box, tree, (old, new, _) = begun(command, folder)
    restore(box.trees[tree], box.work)
    writer, number, found = start_forked(box.work_of()), 0, []
    while writer.runs():
        seen = judge("", box.look(), old, new)
        number += 1
        if seen.found not in ("old", "new"):
            found.append(f"{command.name}, read {number}: {seen.found} {seen.why}")
    ended = writer.wait()
    found += [] if number else [f"{command.name}: nobody read meanwhile"]
    return found + ([complaint(ended)] if complaint(ended) else [])
