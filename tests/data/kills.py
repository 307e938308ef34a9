"""A process that is killed at its n-th change of the disk, played in this process."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest


class Killed(BaseException):
    """Nothing catches it, as nothing catches a kill."""


class Kill:
    """Counts changes of the disk. From the n-th on all of them fail, those of handlers that clean up included."""

    def __init__(self, at: int) -> None:
        self.at, self.count = at, 0

    def before(self, function: Any) -> Any:
        def changed(*args: Any, **kwargs: Any) -> Any:
            self.count += 1
            if self.count >= self.at:
                raise Killed
            return function(*args, **kwargs)

        return changed

    @property
    def came(self) -> bool:
        return self.count >= self.at


@contextmanager
def killed(at: int) -> Iterator[Kill]:
    """A context that ends at the n-th rename, link, deletion, new folder or opened file; `came` says if it did."""
    kill = Kill(at)
    opened = io.open

    def open_to_write(file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        return (kill.before(opened) if {*mode} & {*"wax+"} else opened)(file, mode, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        for name in ("replace", "rename", "unlink", "rmdir", "link", "mkdir"):
            patch.setattr(os, name, kill.before(getattr(os, name)))
        patch.setattr(io, "open", open_to_write)
        with suppress(Killed):
            yield kill
