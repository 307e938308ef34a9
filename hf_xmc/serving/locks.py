"""Locks: one that many may read under at a time, while a change waits for all of them; and one with a limit of the
time that a caller waits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Condition, Lock

from hf_xmc.serving.limits import timed_out


class ReadWriteLock:
    """Readers run together; a writer runs alone. Writers that wait keep new readers out, so that they get their turn.

    Neither side may be taken again by the thread that holds it.

    >>> lock = ReadWriteLock()
    >>> with lock.reading(), lock.reading():
    ...     lock.readers
    2
    """

    def __init__(self) -> None:
        self.changed = Condition()
        self.readers = 0
        self.writing_now = False
        self.writers_waiting = 0

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Hold off changes."""
        with self.changed:
            self.changed.wait_for(lambda: not self.writing_now and not self.writers_waiting)
            self.readers += 1
        try:
            yield
        finally:
            with self.changed:
                self.readers -= 1
                self.changed.notify_all()

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Wait until nobody reads, and hold off everybody."""
        with self.changed:
            self.writers_waiting += 1
            try:
                self.changed.wait_for(lambda: not self.writing_now and not self.readers)
                self.writing_now = True
            finally:
                self.writers_waiting -= 1
        try:
            yield
        finally:
            with self.changed:
                self.writing_now = False
                self.changed.notify_all()


class Turn:
    """A lock for which nobody waits longer than a limit: a thread that works cannot be stopped, one that waits can.

    Args:
        seconds: that a caller waits, at most.

    >>> turn = Turn(seconds=0.01)
    >>> with turn, turn:  # doctest: +ELLIPSIS
    ...     pass
    Traceback (most recent call last):
    hf_xmc.serving.limits.RequestRefused: The request waited 0.01 seconds for the encoder and was given up; t...
    """

    def __init__(self, seconds: float) -> None:
        self.lock, self.seconds = Lock(), seconds

    def __enter__(self) -> None:
        if not self.lock.acquire(timeout=self.seconds):
            raise timed_out(self.seconds, "The request waited {} seconds for the encoder")

    def __exit__(self, *error: object) -> None:
        self.lock.release()
