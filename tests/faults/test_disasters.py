"""Full disks, write protection, two writers, readers beside a writer; by hand with `make faults`.

The functions fork: they run in a process of their own, which has everything imported and no threads.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RUN = """
import sys, tempfile
from pathlib import Path
from tests.faults.commands import COMMANDS, make_inputs
from tests.faults.disasters import *
from tests.faults.forks import run_forked
from tests.faults.warm import import_everything

import_everything()
named = {command.name: command for command in COMMANDS}
with tempfile.TemporaryDirectory(prefix="disaster-") as name:
    folder = Path(name)
    made = run_forked(lambda: make_inputs(folder / "given", [named[name] for name in sys.argv[1:]]))
    assert made.code == 0, made.said
    try:
        found = %s
    except PermissionError:
        found = ["SKIP"]
    print("FOUND", *found, sep="\\n")
"""


def found(python: str, expression: str, *commands: str) -> list[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    line = [python, "-c", RUN % expression, *commands]
    done = subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    lines = done.stdout.partition("FOUND\n")[2].splitlines()
    if lines == ["SKIP"]:
        pytest.skip("this process may not mount a file system")
    return lines


WRITERS = ["index --factory", "calibrate", "labels --update", "rerank", "export --to onnx", "prepare", "evaluate"]


@pytest.mark.faults
@pytest.mark.parametrize("command", [*WRITERS, "train", "fit --preset fast", "predict --output", "prepare an archive"])
def test_a_limit_on_the_size_of_files(python: str, command: str) -> None:
    assert found(python, f"fill_by_size(named[{command!r}], folder)", command) == []


@pytest.mark.faults
@pytest.mark.parametrize("command", [*WRITERS, "train"])
def test_a_full_disk(python: str, command: str) -> None:
    rooms = "[2**12, 2**15, 2**17, 2**19]"
    assert found(python, f"sum((fill_disk(named[{command!r}], folder, room) for room in {rooms}), [])", command) == []


@pytest.mark.faults
@pytest.mark.parametrize("command", WRITERS)
def test_write_protection(python: str, command: str) -> None:
    assert found(python, f"write_protected(named[{command!r}], folder)", command) == []


@pytest.mark.faults
@pytest.mark.parametrize(
    "commands",
    [
        ("index --factory", "labels --update"),
        ("calibrate again", "index --dataset"),
        ("labels --update", "serve --save"),
    ],
)
def test_two_writers(python: str, commands: tuple[str, str]) -> None:
    first, second = commands
    expression = f"write_at_once(named[{first!r}], named[{second!r}], folder, [0, 0.05, 0.2, 0.5])"
    assert found(python, expression, *commands) == []


@pytest.mark.faults
@pytest.mark.parametrize("command", ["index --dataset", "labels --update", "calibrate again"])
def test_a_reader_beside_a_writer(python: str, command: str) -> None:
    assert found(python, f"read_beside(named[{command!r}], folder)", command) == []
