"""The errors that users see, and the list of problems found while reading data."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

MOST_LEFT_OUT = 100_000
CONTROLS = dict.fromkeys([*range(9), *range(11, 32), *range(127, 160)])  # all but tabs and line ends


def printable(text: str) -> str:
    """A text for a terminal, without control characters.

    >>> printable("a\x1b[2Jb")
    'a[2Jb'
    """
    return text.translate(CONTROLS)


class XMCError(Exception):
    """The base of all errors that a user can act on: the message says what was found, where, and what to do.

    The command line prints one of these as a single line. Any other exception is a bug and keeps its traceback.

    Args:
        found: what is wrong.
        path, line: the file, and the line in it, if there is one.
        hint: what to do about it.
    """

    def __init__(self, found: str, path: str | Path | None = None, line: int | None = None, hint: str = "") -> None:
        where = "" if path is None else f"{path}: " if line is None else f"{path}, line {line}: "
        super().__init__(" ".join(f"{where}{found}{f'; {hint}' if hint else ''}".splitlines()))


class DataError(XMCError, ValueError):
    """Data that cannot be used as it is.

    >>> print(DataError("label id 7 is out of range", "trn.jsonl", 3, "the label table has 5 rows"))
    trn.jsonl, line 3: label id 7 is out of range; the label table has 5 rows
    """


class ModelFolderError(XMCError, ValueError):
    """A trained folder, or a part of one, that is missing, damaged, or does not belong to the rest."""


class SettingsError(XMCError, ValueError):
    """An argument, option or combination of settings that is not possible.

    >>> print(SettingsError("k is 0", hint="give at least 1"))
    k is 0; give at least 1
    """


class DivergenceError(XMCError, ArithmeticError):
    """A training whose loss, gradients or weights are no longer finite."""


class EngineError(XMCError, ConnectionError):
    """A database behind a label index that cannot be reached, or refuses what was asked."""


class DiskFullError(XMCError, OSError):
    """A file that could not be written for want of space."""


@dataclass(frozen=True)
class Problem:
    """One finding: its kind (`"bad ids"`), the message with file and line, and what was done about it."""

    kind: str
    message: str
    handled: str


@dataclass
class Problems:
    """What was found wrong while reading.

    Args:
        stop: raise the first error (the default of loading); otherwise record it, fix it and continue.
        shown: how many findings of a kind are kept word by word; the others are counted.
        left_out: all findings after which something of the source was left out or changed, up to 100,000.

    >>> problems = Problems(stop=False)
    >>> problems.error("bad ids", DataError("id 7", "trn.jsonl", 3), "the id was left out")
    >>> problems.counts["bad ids"], problems.found[0].handled
    (1, 'the id was left out')
    """

    stop: bool = True
    shown: int = 10
    found: list[Problem] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    errors: int = 0
    left_out: list[Problem] = field(default_factory=list)

    def error(self, kind: str, error: DataError, handled: str) -> None:
        """Record an invalid value: raise it, or fix it as `handled` says."""
        if self.stop:
            raise error
        self.errors += 1
        self.note(kind, str(error), handled, lost=True)

    def why(self, otherwise: str) -> str:
        """What to tell where nothing is left: how many errors there were and the first of them; or something else if
        there were none."""
        if not self.left_out or not self.errors:
            return otherwise
        return f"{self.errors:,} errors were found, the first: {self.left_out[0].message}"

    def note(self, kind: str, message: str, handled: str, count: int = 1, lost: bool = False) -> None:
        """What the data may have, and the user may want to know; `lost` if something was left out or changed."""
        self.counts[kind] += count
        if lost and len(self.left_out) < MOST_LEFT_OUT:
            self.left_out.append(Problem(kind, message, handled))
        if sum(problem.kind == kind for problem in self.found) < self.shown:
            self.found.append(Problem(kind, message, handled))
