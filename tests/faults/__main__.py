"""The table of `make faults`. Arguments: names of commands, or their beginnings; by default all of them."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections import Counter
from dataclasses import fields, replace
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def main() -> None:
    from tests.faults.kill_points import LOST, NEW, OLD, THOROUGH, UNUSABLE, WRONG, Effort, kill_everywhere

    kinds = (OLD, NEW, UNUSABLE, LOST, WRONG)
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description="Kill every command at every step.")
    parser.add_argument("commands", nargs="*", help="Names of commands, or their beginnings (default: all).")
    parser.add_argument("--thorough", action="store_true", help="Everything, which takes hours: THOROUGH.")
    for field in fields(Effort):
        parser.add_argument(f"--{field.name}", type=int, help=f"See Effort; by default {field.default}.")
    parser.add_argument("--verbose", action="store_true", help="List every kill that leaves neither old nor new.")
    given = parser.parse_args()
    asked = {field.name: number for field in fields(Effort) if (number := getattr(given, field.name)) is not None}
    effort = replace(THOROUGH if given.thorough else Effort(), **asked)

    from rich.console import Console
    from rich.table import Table

    from tests.faults.commands import COMMANDS, make_inputs
    from tests.faults.forks import run_forked
    from tests.faults.warm import import_everything

    console = Console(width=None if sys.stdout.isatty() else 150)
    chosen = [c for c in COMMANDS if not given.commands or any(c.name.startswith(name) for name in given.commands)]
    import_everything()
    table = Table(title="What a kill leaves")
    for column in ("command", "kill points", "states", "killed", *kinds, "not repeated", "s"):
        table.add_column(column, justify="left" if column == "command" else "right")
    bad, total, points, start = 0, Counter[str](), 0, time.monotonic()
    shelf = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="faults-", dir=shelf) as folder:
        made = run_forked(lambda: make_inputs(Path(folder, "given"), chosen))
        if made.code:
            sys.exit(f"The inputs could not be made:\n{made.said}")
        for command in chosen:
            try:
                report = kill_everywhere(command, Path(folder), effort)
            except AssertionError as error:
                console.print(str(error), markup=False)
                bad += 1
                continue
            counts = report.counts
            again = sum(bool(verdict.again) for verdict in report.verdicts)
            numbers = (report.points, report.states, report.killed, *(counts[kind] for kind in kinds))
            total, points = total + counts, points + report.points
            table.add_row(command.name, *map(str, (*numbers, again, round(report.seconds))))
            console.print(command.name, *numbers, again, f"{report.seconds:.0f} s", highlight=False)
            bad += len(report.bad)
            for verdict in report.bad if given.verbose else report.bad[:6]:
                console.print(
                    f"  {verdict.step}: {verdict.found} {verdict.why} {verdict.again}", markup=False, soft_wrap=True
                )
    console.print(table)
    found = ", ".join(f"{kind} {total[kind]:,}" for kind in kinds)
    minutes = (time.monotonic() - start) / 60
    console.print(f"{points:,} kill points of {len(chosen)} commands: {found}; {minutes:.0f} minutes", highlight=False)
    sys.exit(int(bad > 0))


if __name__ == "__main__":
    main()
