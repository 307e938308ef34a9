"""Every command that writes has a row in the table of `make faults`, for each thing that it writes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import typer

from hf_xmc.cli.main import app
from hf_xmc.cli.rerank import Kind
from hf_xmc.inference.export.export import FORMS
from tests.faults.commands import COMMANDS, ELSEWHERE, Command

READS = {"plan", "verify"}  # commands that write nothing
# An option of a command is about what is written if its name or its help says so.
WRITES = re.compile(r"\b(write|writes|written|save|add|update|remove|new texts)\b", re.IGNORECASE)
# What a row stands for although its option has another name, or is no option of that command.
SAME = {
    "fit --output_dir": "fit",
    "labels --encoding": "labels --add",
    "predict --rows": "predict --output",
    "calibrate --centroids": "calibrate",
    "export --url": "export --to qdrant",
}


def line_of(command: Command) -> str:
    """The words of a row: its name, and what is run."""
    return " ".join([command.name, *(() if callable(command.run) else command.run)]).replace("=", " ")


def has_row(wanted: str) -> bool:
    """Whether a row, or a reason to have none, covers a command with an option and its value."""
    name, *words = wanted.split()
    lines = [line_of(command).split() for command in COMMANDS]
    return wanted in ELSEWHERE or any(line[0] == name and {*words} <= {*line} for line in lines)


def writers() -> Iterator[str]:
    """What the command line can write: commands, with the options that say so and the forms that they take."""
    group: Any = typer.main.get_command(app)
    for name, command in group.commands.items():
        if name in READS:
            continue
        yield name
        for option in command.params:
            about = f"{option.name} {getattr(option, 'help', '') or ''}"
            if option.param_type_name == "option" and WRITES.search(about.replace("_", " ")):
                yield f"{name} --{option.name}"
    yield from (f"export --to {form}" for form in FORMS)
    yield from (f"rerank --kind {kind}" for kind in Kind)


def test_every_command_that_writes_is_killed() -> None:
    missing = [wanted for wanted in writers() if not has_row(SAME.get(wanted, wanted))]
    assert not missing, f"add rows to COMMANDS of tests/faults/commands.py for {missing}"


def test_no_reason_is_out_of_date() -> None:
    known = {*writers()}
    assert {*SAME} <= known, {*SAME} - known
    assert {*ELSEWHERE} <= known, {*ELSEWHERE} - known
    assert len({command.name for command in COMMANDS}) == len(COMMANDS)
