"""Kills a command at each of its steps and judges what is left.

The command runs once, in a fork. Before each step its tree is copied, as it stands on the disk, which is what a kill
at that moment leaves: what the process has not written yet dies with it. Real kills are added to these: at some of the
steps, in the midst of files of different sizes, and at random moments.

Trees that differ only in what readers pass over (staging folders, locks, temporary files) are one state. The first and
the last tree of each state are judged, with the least and the most of such rubbish; all of them if these two differ. A
tree is old or new if a reader sees that, and if the files are byte by byte those of old or new.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tests.faults.commands import Command
from tests.faults.disk import Recorder, digest, files, kill_at_size, restore, shown
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


@dataclass(frozen=True)
class Look:
    """What is there: what a reader sees, and a hash of each file; see `shown`."""

    seen: Any
    files: dict[str, str]


@dataclass
class Report:
    """All kills of a command.

    Args:
        points: number of steps.
        verdicts: of each step, and of each further kill.
        states: different trees among them, to a reader.
        killed: how many kills were real.
    """

    command: str
    points: int
    states: int
    killed: int
    seconds: float = 0.0
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
        """Keep the tree as it is; returns its name, the digests of what a reader sees and of all of it."""
        name = f"{digest(self.work, passed_over=False)}-{digest(self.work)}"
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

    def look(self) -> Look:
        """What a reader sees, and then the files, which the reader may have put in their places."""
        return Look(self.see(), shown(self.work))

    def use_cache(self) -> None:
        """In a fork: a cache of this command alone."""
        import datasets

        datasets.config.HF_DATASETS_CACHE = self.work / "cache"


@dataclass(frozen=True)
class Effort:
    """How much is tried.

    Args:
        kills: number of steps at which it is really killed, evenly spread; 0 for all.
        sizes: number of file sizes beyond which it is killed.
        times: number of random moments.
        states: number of states that are judged, evenly spread; 0 for all.
        again: number of judged trees on which it is run once more, evenly spread; 0 for all.
    """

    kills: int = 1
    sizes: int = 1
    times: int = 1
    states: int = 45
    again: int = 1


THOROUGH = Effort(kills=40, sizes=6, times=10, states=0, again=0)


def kill_everywhere(command: Command, folder: Path, effort: Effort) -> Report:
    """Kill a command at all its steps.

    Args:
        folder: holds the inputs in `given`.
    """
    start, box = time.monotonic(), Sandbox(command, folder)
    command.prepare(box.given, box.work)
    old_tree, old = box.keep(), box.look()
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
    new = box.look()
    if "error" in new.seen:
        raise AssertionError(f"{command.name} wrote what cannot be read: {new.seen['error']}")
    if new == old:
        raise AssertionError(f"{command.name} changed nothing, so nothing can be lost")

    killed = 0
    for how, before, moment in ways_to_kill(box, len(steps), took, effort):
        restore(box.trees[old_tree], box.work)
        ended = box.run(before, kill_after=moment)
        killed += ended.killed
        moments.append((how, box.keep()))
    judged = judge_states(box, moments, old, new, names, effort)
    report = Report(command.name, len(steps), len({name.split("-")[0] for _, name in moments}), killed)
    report.verdicts = [Verdict(step, j.found, j.why, j.again) for step, name in moments if (j := judged.get(name))]
    report.seconds = time.monotonic() - start
    shutil.rmtree(box.kept)
    return report


def ways_to_kill(
    box: Sandbox, steps: int, seconds: float, effort: Effort
) -> Iterator[tuple[str, Callable[[], Any], float | None]]:
    """Real kills: what is said of each, what is done before the command runs, and after how long it is killed."""
    draw = random.Random(0)
    grown = sorted({path.stat().st_size for path in box.work.rglob("*") if path.is_file()}, reverse=True)
    for step in spread([*range(steps)], effort.kills + 2)[1:-1] if effort.kills else range(steps):
        yield f"killed at {step}", killer(box, step), None
    for size in grown[:: max(1, len(grown) // effort.sizes)][: effort.sizes] if effort.sizes else ():
        yield f"killed beyond {size // 2} bytes", sized(size // 2), None
    for _ in range(effort.times):
        moment = draw.uniform(0, seconds)
        yield f"killed at {moment:.2f} s", lambda: None, moment


def judge_states(
    box: Sandbox, moments: list[tuple[str, str]], old: Look, new: Look, names: list[str], effort: Effort
) -> dict[str, Verdict]:
    """The verdict on each tree, by its name; none on the states that are left out."""
    step_of: dict[str, str] = {}
    states: dict[str, list[str]] = {}
    for step, name in moments:
        if name not in step_of:
            step_of[name] = step
            states.setdefault(name.split("-")[0], []).append(name)
    chosen = spread([*states.values()], effort.states)
    ends = [name for trees in chosen for name in dict.fromkeys((trees[0], trees[-1]))]
    repeats = {*spread(ends, effort.again)}
    judged = {}
    for name in ends:
        judged[name] = judge_tree(box, name, step_of[name], old, new)
        if name in repeats:
            restore(box.trees[name], box.work)  # a reader may have put it in order
            judged[name].again = repeated(box, new, names)
    for trees in chosen:
        first, last = judged[trees[0]], judged[trees[-1]]
        for name in trees[1:-1]:
            alike = first.found == last.found and not first.why
            judged[name] = replace(first, again="") if alike else judge_tree(box, name, step_of[name], old, new)
    return judged


def judge_tree(box: Sandbox, name: str, step: str, old: Look, new: Look) -> Verdict:
    restore(box.trees[name], box.work)
    return judge(step, box.look(), old, new)


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


def judge(step: str, found: Look, old: Look, new: Look) -> Verdict:
    """Which of old and new is there, to a reader and byte by byte."""
    verdict = judge_seen(step, found.seen, old.seen, new.seen)
    if verdict.found in (OLD, NEW) and (names := mixed(found.files, old.files, new.files)):
        return Verdict(step, WRONG, f"files of neither, or of both: {', '.join(names[:5])}")
    return verdict


def judge_seen(step: str, seen: Any, old: Any, new: Any) -> Verdict:
    """Which of old and new a reader sees."""
    if seen == new:
        return Verdict(step, NEW)
    if seen == old or ("error" in seen and "error" in old):
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


def mixed(found: dict[str, str], old: dict[str, str], new: dict[str, str]) -> list[str]:
    """The files of those outputs, which are folders or single files, that are neither the old nor the new."""
    names = []
    for output in sorted({name.split(os.sep)[0] for name in (*found, *old, *new)}):
        mine, before, after = (of_output(files, output) for files in (found, old, new))
        if mine not in (before, after):
            names += sorted({name for name, _ in mine.items() ^ after.items()})
    return names


def of_output(files: dict[str, str], output: str) -> dict[str, str]:
    return {name: content for name, content in files.items() if name.split(os.sep)[0] == output}


def repeated(box: Sandbox, new: Look, names: list[str]) -> str:
    """Run the command once more on the tree as it is; says what is not as after the run that was not killed."""
    ended = box.run(again=True)
    found = box.look()
    if found.seen != new.seen:
        why = judge_seen("", found.seen, new.seen, new.seen).why
        return f"run again (exit {ended.code}): {why} {last_line(ended.said)}"
    if found.files != new.files:
        other = sorted({name for name, _ in found.files.items() ^ new.files.items()})
        return f"run again (exit {ended.code}): other content in {', '.join(other[:5])} {last_line(ended.said)}"
    left = [name for name in visible(box.work) if name not in names]
    return f"left over: {', '.join(left[:5])}" if left and not ended.code else ""


def last_line(said: str) -> str:
    return next((line for line in reversed(said.splitlines()) if "Error" in line), "")


def visible(work: Path) -> list[str]:
    """The files of a tree without those of the cache that are named by a hash."""
    return [name for name in files(work) if not name.startswith("cache/") or "/." in name]
