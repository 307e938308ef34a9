"""What a user can mend is one message; what we must mend is a traceback."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console


@contextmanager
def user_errors() -> Iterator[None]:
    """Turn errors about input, settings and files into one message and exit status 1.

    Set HF_XMC_DEBUG=1 to see where an error came from.
    """
    try:
        yield
    except Exception as error:
        from safetensors import SafetensorError

        if os.environ.get("HF_XMC_DEBUG") or not isinstance(error, OSError | ValueError | SafetensorError):
            raise
        console = Console(stderr=True)
        console.print("[bold red]Error[/]", end=" ")
        console.print(str(error) or type(error).__name__, markup=False, highlight=False, soft_wrap=True)
        sys.exit(1)
