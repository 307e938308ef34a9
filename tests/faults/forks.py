"""Forks of a process that has everything imported: what runs in one leaves no trace in the others."""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Ended:
    """How a fork ended.

    Args:
        code: exit status, or minus the signal.
        value: what the function returned; None if it did not return.
        said: standard output and error.
    """

    code: int
    value: Any
    said: str

    @property
    def killed(self) -> bool:
        return self.code in (-signal.SIGKILL, -signal.SIGXFSZ)


def run_forked(work: Callable[[], Any], kill_after: float | None = None, patience: float = 300) -> Ended:
    """Call a function in a fork of this process and return what it returned, by way of JSON.

    Args:
        kill_after: seconds after which the fork is killed.
        patience: seconds after which it counts as hanging.

    Raises:
        TimeoutError: it hangs.
    """
    return start_forked(work).wait(kill_after, patience)


@dataclass
class Fork:
    """A function that runs in a fork of this process."""

    process: int
    folder: Path
    status: int | None = None

    def runs(self) -> bool:
        """Whether it has not ended yet."""
        if self.status is None:
            process, status = os.waitpid(self.process, os.WNOHANG)
            self.status = status if process else None
        return self.status is None

    def wait(self, kill_after: float | None = None, patience: float = 300) -> Ended:
        end = time.monotonic() + (patience if kill_after is None else kill_after)
        while self.runs():
            if time.monotonic() > end:
                os.kill(self.process, signal.SIGKILL)
                self.status = os.waitpid(self.process, 0)[1]
                if kill_after is None:
                    raise TimeoutError(f"no end after {patience:.0f} s:\n{(self.folder / 'said').read_text()[-2000:]}")
                break
            time.sleep(0.005)
        value, said = self.folder / "value", (self.folder / "said").read_text(errors="replace")
        assert self.status is not None
        ended = Ended(
            os.waitstatus_to_exitcode(self.status), json.loads(value.read_text()) if value.is_file() else None, said
        )
        for path in self.folder.iterdir():
            path.unlink()
        self.folder.rmdir()
        return ended


def start_forked(work: Callable[[], Any]) -> Fork:
    """See `run_forked`; both run at once."""
    folder = Path(tempfile.mkdtemp(prefix="fork-"))
    (folder / "said").touch()
    sys.stdout.flush()
    sys.stderr.flush()
    process = os.fork()
    if process:
        return Fork(process, folder)
    code = 1
    try:
        said = os.open(folder / "said", os.O_WRONLY | os.O_APPEND)
        os.dup2(said, 1)
        os.dup2(said, 2)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115
        value = json.dumps(work())
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        (folder / "value").write_text(value)
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        os._exit(code & 255)
