"""The console of all commands. Texts of a data set or a folder cannot give orders to the terminal."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich import console
from rich.segment import Segment

from hf_xmc.errors import printable


class Console(console.Console):
    """A console that leaves out control characters of texts, such as the escape sequences that clear a screen, set a
    title or write to the clipboard."""

    def render(self, renderable: Any, options: console.ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=printable(segment.text))
