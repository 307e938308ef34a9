"""The table of `make faults`. Arguments: names of commands, or their beginnings; by default all of them."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description="Kill every command at every step.")
    parser.add_argument("commands", nargs="*", help="Names of commands, or their beginnings (default: all).")
    parser.add_argument("--again", type=int, default=12, help="Trees on which a command is run once more; 0 for all.")
    parser.add_argument("--every", type=int, default=10, help="Steps between those at which it is really killed.")
    parser.add_argument("--sizes", type=int, default=4, help="File sizes beyond which it is killed.")
    parser.add_argument("--times", type=int, default=2, help="Random moments at which it is killed.")
    parser.add_argument("--most", type=int, default=0, help="Trees that are looked at; 0 for all.")
    parser.add_argument("--verbose", action="store_true", help="List every kill that leaves neither old nor new.")
    given = parser.parse_args()

    from rich.console import Console
    from rich.table import Table

    from tests.faults.commands import COMMANDS, make_inputs
    from tests.faults.forks import run_forked
    from tests.faults.kill_points import LOST, NEW, OLD, UNUSABLE, WRONG, kill_everywhere
    from tests.faults.warm import import_everything

    console = Console(width=None if sys.stdout.isatty() else 150)
    chosen = [c for c in COMMANDS if not given.commands or any(c.name.startswith(name) for name in given.commands)]
    import_everything()
    table = Table(title="What a kill leaves")
    for column in ("command", "kill points", "states", "killed", OLD, NEW, UNUSABLE, LOST, WRONG, "not repeated", "s"):
        table.add_column(column, justify="left" if column == "command" else "right")
    bad = 0
    shelf = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="faults-", dir=shelf) as folder:
        made = run_forked(lambda: make_inputs(Path(folder, "given"), chosen))
        if made.code:
            sys.exit(f"The inputs could not be made:\n{made.said}")
        for command in chosen:
            try:
                kills = {name: getattr(given, name) for name in ("every", "sizes", "times", "again", "most")}
                report = kill_everywhere(command, Path(folder), **kills)
            except AssertionError as error:
                console.print(str(error), markup=False)
                bad += 1
                continue
            counts = report.counts
            again = sum(bool(verdict.again) for verdict in report.verdicts)
            numbers = (
                report.points,
                report.states,
                report.killed,
                *(counts[x] for x in (OLD, NEW, UNUSABLE, LOST, WRONG)),
            )
            table.add_row(command.name, *map(str, (*numbers, again, round(report.seconds))))
            console.print(command.name, *numbers, again, f"{report.seconds:.0f} s", highlight=False)
            bad += len(report.bad)
            for verdict in report.bad if given.verbose else report.bad[:6]:
                console.print(
                    f"  {verdict.step}: {verdict.found} {verdict.why} {verdict.again}", markup=False, soft_wrap=True
                )
    console.print(table)
    sys.exit(int(bad > 0))


if __name__ == "__main__":
    main()
