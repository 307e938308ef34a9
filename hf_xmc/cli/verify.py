"""`hf-xmc verify`: whether a folder is as it was saved, and sound."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from hf_xmc.cli.tables import console

EXAMPLE = "Example: hf-xmc verify outputs/demo/model"


def verify(
    folder: Annotated[Path, typer.Argument(help="Trained folder, or a data set that hf-xmc prepare wrote.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print what was found as JSON.")] = False,
) -> None:
    """Check sizes, checksums and content of every part of a folder, and that its parts belong to each other.

    Ends with exit status 1 if anything was found, with one line for each finding.
    """
    from hf_xmc.inference.verification import verify as check

    found = check(folder)
    findings = [finding for part in found for finding in part.findings]
    if as_json:
        typer.echo(json.dumps({"sound": not findings, "parts": [part.to_dict() for part in found]}, indent=2))
    else:
        table = Table("Part", "Files", "MB", "Checked", "Found")
        for part in found:
            size = f"{part.bytes / 1e6:,.1f}" if part.files else ""
            said = "sound" if not part.findings else f"{len(part.findings)} to look at"
            table.add_row(part.part, str(part.files or ""), size, ", ".join(part.checked) or "nothing", said)
        console.print(table)
        for finding in findings:
            console.print(finding, highlight=False, markup=False, soft_wrap=True)
    if findings:
        raise typer.Exit(1)
