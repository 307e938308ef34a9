from __future__ import annotations

from io import StringIO

from rich.table import Table

from hf_xmc.cli.terminal import Console
from hf_xmc.errors import ModelFolderError

TITLE = "\x1b]0;owned\x07"
CLEAR = "\x1b[2J"


def test_texts_cannot_give_orders_to_the_terminal() -> None:
    written = StringIO()
    console = Console(file=written, force_terminal=True, width=40)
    table = Table()
    table.add_column("label")
    table.add_row(f"red{CLEAR} car")
    console.print(table)
    console.print(f"[bold]{TITLE}bold[/]\x9b2J", highlight=False)
    console.print(str(ModelFolderError(f"found {CLEAR}", "folder")), markup=False)
    found = written.getvalue()
    assert "red[2J car" in found
    assert "\x1b[1m" in found, "its own styles are sent"
    assert not any(order in found for order in (CLEAR, TITLE, "\x07", "\x9b"))


def test_an_error_is_one_line() -> None:
    assert (
        str(ModelFolderError("first\nsecond\r\nthird", "folder", hint="do it")) == "folder: first second third; do it"
    )
