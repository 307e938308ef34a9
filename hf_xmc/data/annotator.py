"""Answers of a language model, or of anything else that answers texts: kept on disk, checked, and counted.

An annotator is any callable from prompts to answers, `list[str] -> list[str]`: a pipeline of transformers, a client of
an endpoint, or a list of answers that somebody wrote. Nothing here knows a model.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Protocol, TypeVar

from hf_xmc.errors import DataError, SettingsError

BATCH = 16  # prompts of a call
Parsed = TypeVar("Parsed")


class Annotator(Protocol):
    """Answers prompts, one answer for each, in their order."""

    def __call__(self, prompts: list[str], /) -> list[str]: ...


@dataclass
class Cost:
    """What answers cost.

    Args:
        calls: of the annotator.
        prompts: that it answered.
        characters: of these prompts and their answers.
        kept: prompts whose answers were on disk already.
        refused: answers that did not have the form that was asked for.
    """

    calls: int = 0
    prompts: int = 0
    characters: int = 0
    kept: int = 0
    refused: int = 0


class AnswerStore:
    """Answers on disk, by the hash of the annotator's name and the prompt. Each answer is written when it arrives, so
    that a run that is stopped goes on where it was.

    Args:
        path: an SQLite file, which is made if it is not there.

    Raises:
        DataError: the file is no store of answers.

    >>> from tempfile import mkdtemp
    >>> store = AnswerStore(Path(mkdtemp()) / "answers.sqlite")
    >>> store.write("model", {"2 + 2?": "4"})
    >>> store.read("model", ["2 + 2?", "3 + 3?"])
    {'2 + 2?': '4'}
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with self.opened() as connection:
                connection.execute("CREATE TABLE IF NOT EXISTS answers (key BLOB PRIMARY KEY, answer TEXT NOT NULL)")
        except sqlite3.DatabaseError as error:
            raise DataError(f"not a store of answers ({error})", self.path, hint="name another file") from error

    def read(self, annotator: str, prompts: Sequence[str]) -> dict[str, str]:
        """The answers that are there, by prompt."""
        found = {}
        with self.opened() as connection:
            for prompt in prompts:
                row = connection.execute(
                    "SELECT answer FROM answers WHERE key = ?", (key(annotator, prompt),)
                ).fetchone()
                if row is not None:
                    found[prompt] = str(row[0])
        return found

    def write(self, annotator: str, answers: dict[str, str]) -> None:
        """Keep answers, all of them or none."""
        rows = [(key(annotator, prompt), answer) for prompt, answer in answers.items()]
        with self.opened() as connection:
            connection.executemany("INSERT OR REPLACE INTO answers VALUES (?, ?)", rows)

    def opened(self) -> Connection:
        return Connection(self.path)


class Connection:
    """A connection to a file for one block: committed at its end, rolled back after an error, and closed."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> sqlite3.Connection:
        self.connection = sqlite3.connect(self.path, timeout=60)
        return self.connection

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.connection.commit()
        self.connection.close()


def ask(
    annotator: Annotator,
    prompts: Sequence[str],
    parse: Callable[[str], Parsed],
    store: AnswerStore | None = None,
    name: str = "annotator",
    batch_size: int = BATCH,
    tries: int = 2,
) -> tuple[list[Parsed | None], Cost]:
    """The parsed answer to each prompt, None where no answer had the form that `parse` wants, and what they cost.

    Args:
        parse: reads an answer; a ValueError says that it does not have the form that was asked for.
        store: where answers are kept. Only those of the right form are.
        name: of the annotator, which tells its answers from those of others.
        batch_size: prompts of a call.
        tries: how often a prompt is asked whose answer does not have the right form.

    Raises:
        DataError: the annotator did not return one text per prompt.
    """
    if batch_size < 1 or tries < 1:
        raise SettingsError(f"batch_size is {batch_size} and tries is {tries}; both must be at least 1")
    cost, distinct = Cost(), list(dict.fromkeys(prompts))
    found: dict[str, Parsed] = {}
    for prompt, answer in (store.read(name, distinct) if store is not None else {}).items():
        try:
            found[prompt] = parse(answer)
        except ValueError:
            continue  # kept for a prompt that wanted another form
    cost.kept = len(found)
    for _ in range(tries):
        open_ones = [prompt for prompt in distinct if prompt not in found]
        for start in range(0, len(open_ones), batch_size):
            some = open_ones[start : start + batch_size]
            answers = annotator(some)
            check_answers(answers, some)
            cost.calls, cost.prompts = cost.calls + 1, cost.prompts + len(some)
            cost.characters += sum(map(len, some)) + sum(map(len, answers))
            good = {}
            for prompt, answer in zip(some, answers, strict=True):
                try:
                    found[prompt] = parse(answer)
                    good[prompt] = answer
                except ValueError:
                    cost.refused += 1
            if store is not None:
                store.write(name, good)
    return [found.get(prompt) for prompt in prompts], cost


def check_answers(answers: Sequence[str], prompts: Sequence[str]) -> None:
    """Raise a DataError if there is not one text per prompt."""
    if isinstance(answers, str) or len(answers) != len(prompts):
        count = "one text" if isinstance(answers, str) else f"{len(answers)} answers"
        raise DataError(f"the annotator returned {count} to {len(prompts)} prompts", hint="return one text per prompt")
    if wrong := [answer for answer in answers if not isinstance(answer, str)]:
        raise DataError(f"the annotator returned {wrong[0]!r:.60}", hint="return texts")


def key(annotator: str, prompt: str) -> bytes:
    """A hash of who is asked what."""
    return blake2b(f"{annotator}\0{prompt}".encode("utf-8", "surrogatepass"), digest_size=16).digest()
