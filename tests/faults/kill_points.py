"""Kills a command at each of its steps and judges what is left.

The command runs once, in a fork. Before each step its tree is copied, as it stands on the disk, which is what a kill
at that moment leaves: what the process has not written yet dies with it. Trees that are alike are judged once. Real
kills are added to these: at every tenth step, in the midst of files of different sizes, and at random moments.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.faults.commands import Command
from tests.faults.disk import Recorder, digest, files, kill_at_size, restore
from tests.faults.forks import Ended, run_forked

OLD, NEW, UNUSABLE, LOST, WRONG = "old", "new", "unusable", "lost", "wrong"


@dataclass
class Verdict:
    """What a kill leaves.

    Args:
        step: where it was killed.
        found: what a reader sees: the old, the new, nothing usable, the old without some of its parts, or else.
        why: the error, or what differs.
        again: what is wrong after the command has run once more; empty if it ended as the run that was not killed.
    """

    step: str
    found: str
    why: str = ""
    again: str = ""


@dataclass
class Report:
    """All kills of a command.

    Args:
        points: number of steps.
        verdicts: of each step, and of each further kill.
        states: different trees among them.
        killed: how many kills were real.
    """

    command: str
    points: int
    states: int
    killed: int
    seconds: float
    verdicts: list[Verdict] = field(default_factory=list)

    @property
    def counts(self) -> Counter[str]:
        return Counter(verdict.found for verdict in self.verdicts)

    @property
    def bad(self) -> list[Verdict]:
        return [verdict for verdict in self.verdicts if verdict.found not in (OLD, NEW) or verdict.again]


class Sandbox:
    """The folders of one command: {given}, {work} and the cache in it, and the trees that were kept.

    Args:
        folder: holds `given`, which `make_inputs` wrote, and what is made here.
    """

    def __init__(self, command: Command, folder: Path) -> None:
        self.command = command
        self.given, self.work, self.kept = folder / "given", folder / "work", folder / "kept"
        shutil.rmtree(self.kept, ignore_errors=True)
        self.kept.mkdir(parents=True)
        self.trees: dict[str, Path] = {}

    def keep(self) -> str:
        """Keep the tree as it is; returns its digest."""
        name = digest(self.work)
        if name not in self.trees:
            shutil.copytree(self.work, self.kept / name, symlinks=True)
            self.trees[name] = self.kept / name
        return name

    def run(
        self, before: Callable[[], Any] = lambda: None, again: bool = False, kill_after: float | None = None
    ) -> Ended:
        """Run the command in a fork, after `before`."""
        return run_forked(self.work_of(before, again), kill_after)

    def work_of(self, before: Callable[[], Any] = lambda: None, again: bool = False) -> Callable[[], None]:
        """What `run` does in the fork."""

        def work() -> None:
            self.use_cache()
            before()
            self.command(self.given, self.work, again)

        return work

    def see(self) -> Any:
        """What a reader of the tree sees, or `{"error": ...}`."""

        def look() -> Any:
            from hf_xmc.errors import XMCError

            self.use_cache()
            try:
                found = self.command.see(self.work)
                return found if isinstance(found, dict) else {"content": found}
            except (XMCError, OSError) as error:
                return {"error": f"{type(error).__name__}: {error}"}

        ended = run_forked(look)
        return ended.value if ended.code == 0 else {"error": f"crash: {ended.said.strip()[-300:]}"}

    def use_cache(self) -> None:
        """In a fork: a cache of this command alone."""
        import datasets

        datasets.config.HF_DATASETS_CACHE = self.work / "cache"


def kill_everywhere(
    command: Command, folder: Path, every: int = 10, sizes: int = 4, times: int = 2, again: int = 12, most: int = 0
) -> Report:
    """Kill a command at all its steps.

    Args:
        folder: holds the inputs in `given`.
        every: how many steps apart the real kills are.
        sizes: number of file sizes beyond which it is killed.
        times: number of random moments.
        again: number of trees on which it is run once more, evenly spread; 0 for all.
        most: number of trees that are judged, evenly spread; 0 for all.
    """
    start, box = time.monotonic(), Sandbox(command, folder)
    command.prepare(box.given, box.work)
    old_tree, old = box.keep(), box.see()
    restore(box.trees[old_tree], box.work)
    begun = time.monotonic()
    record = folder / "steps.json"
    ended = box.run(lambda: Recorder(box.work, recording(box, record)).start())
    if ended.code:
        raise AssertionError(f"{command.name} failed:\n{ended.said[-3000:]}")
    took = time.monotonic() - begun
    steps: list[tuple[str, str]] = [(what, name) for what, name in json.loads(record.read_text())]
    box.trees |= {name: box.kept / name for _, name in steps}
    moments = [(f"{i} {what}", name) for i, (what, name) in enumerate(steps)] + [("the end", box.keep())]
    names = visible(box.work)
    new = box.see()
    if "error" in new:
        raise AssertionError(f"{command.name} wrote what cannot be read: {new['error']}")

    killed = 0
    draw = random.Random(0)
    grown = sorted({path.stat().st_size for path in box.work.rglob("*") if path.is_file()}, reverse=True)
    ways: list[tuple[str, Callable[[], Any], float | None]] = [
        *((f"killed at {i}", killer(box, i), None) for i in range(every // 2, len(steps), every)),
        *(
            (f"killed beyond {size} bytes", sized(size // 2), None)
            for size in grown[:: max(1, len(grown) // sizes)][:sizes]
        ),
        *((f"killed at {(moment := draw.uniform(0, took)):.2f} s", lambda: None, moment) for _ in range(times)),
    ]
    for how, before, moment in ways:
        restore(box.trees[old_tree], box.work)
        ended = box.run(before, kill_after=moment)
        killed += ended.killed
        moments.append((how, box.keep()))

    judged: dict[str, Verdict] = {}
    trees = list(dict.fromkeys(name for _, name in moments))
    looked = set(spread(trees, most))
    chosen = set(spread([name for name in trees if name in looked], again))
    moments = [(step, name) for step, name in moments if name in looked]
    for step, name in moments:
        if name not in judged:
            restore(box.trees[name], box.work)
            judged[name] = judge(step, box.see(), old, new)
            if name in chosen:
                restore(box.trees[name], box.work)  # a reader may have put it in order
                judged[name].again = repeated(box, new, names)
    report = Report(command.name, len(steps), len(judged), killed, time.monotonic() - start)
    report.verdicts = [Verdict(step, j.found, j.why, j.again) for step, name in moments for j in (judged[name],)]
    shutil.rmtree(box.kept)
    return report


def spread(values: list[Any], most: int) -> list[Any]:
    """At most about this many values, evenly spread, the last one included; all for 0.

    >>> spread([*range(10)], 3)
    [0, 4, 9]
    """
    if not most or len(values) <= most:
        return values
    return [values[i * (len(values) - 1) // max(1, most - 1)] for i in range(most)]


def recording(box: Sandbox, record: Path) -> Callable[[int, str], None]:
    """Keeps the tree before each step, and writes which one it was."""
    steps: list[tuple[str, str]] = []

    def at_step(number: int, what: str) -> None:
        steps.append((what, box.keep()))
        record.write_text(json.dumps(steps))

    return at_step


def killer(box: Sandbox, number: int) -> Callable[[], None]:
    """Has the process kill itself before a step."""

    def at_step(current: int, what: str) -> None:
        if current == number:
            os.kill(os.getpid(), signal.SIGKILL)

    return lambda: Recorder(box.work, at_step).start()


def sized(size: int) -> Callable[[], None]:
    return lambda: kill_at_size(size)


def judge(step: str, seen: Any, old: Any, new: Any) -> Verdict:
    """Which of old and new a reader sees."""
    if seen == new:
        return Verdict(step, NEW)
    if seen == old or ("error" in seen and "error" in old and not seen["error"].startswith("crash")):
        return Verdict(step, OLD)
    if "error" in seen:
        return Verdict(step, UNUSABLE, seen["error"])
    differs = [key for key in seen if seen[key] != old.get(key)]
    if "error" not in old and differs and all(seen[key] is None for key in differs):
        return Verdict(step, LOST, f"without {', '.join(differs)}")
    return Verdict(
        step,
        WRONG,
        f"differs from old in {', '.join(differs)}, from new in "
        f"{', '.join(key for key in seen if seen[key] != new.get(key))}",
    )


def repeated(box: Sandbox, new: Any, names: list[str]) -> str:
    """Run the command once more on the tree as it is; says what is not as after the run that was not killed."""
    ended = box.run(again=True)
    seen = box.see()
    if seen != new:
        why = judge("", seen, new, new).why
        return f"run again (exit {ended.code}): {why} {last_line(ended.said)}"
    left = [name for name in visible(box.work) if name not in names]
    return f"left over: {', '.join(left[:5])}" if left and not ended.code else ""


def last_line(said: str) -> str:
    return next((line for line in reversed(said.splitlines()) if "Error" in line), "")


def visible(work: Path) -> list[str]:
    """The files of a tree without those of the cache that are named by a hash."""
    return [name for name in files(work) if not name.startswith("cache/") or "/." in name]
