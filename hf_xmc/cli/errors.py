"""User errors print one line; bugs print a traceback."""

from __future__ import annotations

import logging
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from hf_xmc.cli.terminal import Console
from hf_xmc.errors import XMCError, printable

BUG = "This is a bug in hf_xmc, or in a library that it uses: please report it with the lines above."


class Printable(logging.Formatter):
    """Warnings and errors of loggers without control characters: they quote texts, which may be anybody's."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


@contextmanager
def user_errors() -> Iterator[None]:
    """Print errors that a user can act on as one line, with exit status 1: those of this package, and those of the
    operating system and the Hub, such as a missing file or a full disk. Any other exception keeps its traceback.

    Set HF_XMC_DEBUG=1 to see the traceback of every error.
    """
    console = Console(stderr=True)
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(Printable())
    try:
        yield
    except (XMCError, OSError) as error:
        if os.environ.get("HF_XMC_DEBUG"):
            raise
        console.print("[bold red]Error[/]", end=" ")
        console.print(str(error) or type(error).__name__, markup=False, highlight=False, soft_wrap=True)
        sys.exit(1)
    except Exception:
        if console.is_terminal:
            console.print_exception(show_locals=False)
        else:
            sys.stderr.write(printable(traceback.format_exc()))
        console.print(f"\n{BUG}", markup=False, highlight=False, soft_wrap=True)
        sys.exit(1)
