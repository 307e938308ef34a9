"""What a reader of a format is, and what it returns: streams of records, so that memory does not grow with the files.

A reader is one module of this folder. It declares itself with `READER = Reader(...)`, and `hf_xmc.data.formats`
finds it: nothing else has to be changed to add a format.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hf_xmc.data.reading import Reading
from hf_xmc.errors import DataError, Problems

Record = dict[str, Any]  # query: uid, text, labels, optional weights and time; label: uid, text and any other columns
Records = Iterator[tuple[int, Record]]  # with their line or row, from 1
Stream = Callable[[Problems], Records]

UNREADABLE = "unreadable rows"
LEFT_OUT = "the row was left out"


def option(help: str) -> Any:
    """A setting that is None unless the user gives it; `hf-xmc prepare` makes its flag, with this help text."""
    return field(default=None, metadata={"help": help})


@dataclass(frozen=True)
class Options:
    """How to read a source, where the source does not say so itself. Each one is a flag of `hf-xmc prepare`."""

    encoding: str | None = option("Encoding of text files without a byte order mark. Default: UTF-8.")
    query_template: str | None = option(
        "How the text of a query is composed of fields or columns, as in '{title}. {content}'."
    )
    label_template: str | None = option(
        "How the text of a label is composed of fields or columns, as in '{text}: {description}'."
    )
    text_column: str | None = option(
        "Column that holds the text (CSV, TSV, Parquet, Hub). Default: text, sentence, content, ..."
    )
    label_column: str | None = option(
        "Column that holds the labels (CSV, TSV, Parquet, Hub). Default: labels, tags, subjects, ..."
    )
    uid_column: str | None = option(
        "Column that identifies the query (CSV, TSV, Parquet, Hub). Default: uid, id, ..., or the row number."
    )
    time_column: str | None = option("Column or field with the date of a query; needed for --split time.")
    label_delimiter: str | None = option(
        "Separator between the label names in one cell (CSV, TSV, Parquet, Hub). "
        "Default: detected from the first rows (JSON list, |, ;, tab or comma)."
    )
    label_file: str | None = option("File with the labels, if it is not in the same folder under a usual name.")
    language: str | None = option(
        "Language of the label texts in a SKOS vocabulary, as in 'en'. Default: the first language of each concept."
    )
    config: str | None = option("Configuration of a data set on the Hub. Default: its first one.")


@dataclass(frozen=True)
class Split:
    """The queries of one split: their file, and a function that streams them."""

    path: Path
    rows: Stream
    label_path: Path | None = None  # the file with the positives, if it is another one


@dataclass
class Source:
    """Splits by name (`train`, `validation`, `test`), labels in the order of their ids, and a description.

    Args:
        format: name of the format.
        reason: how the format was recognised.
        splits: queries by split.
        labels: a function that streams the labels.
        label_path: the file with the labels, for error messages.
        labels_last: labels are known only after all queries were read, because only the queries name them.
        description: name, licence, source, propensity constants and maximum lengths, as far as the source states them.
        filters: split -> file of pairs that are excluded from evaluation, one `row label` per line.
        files: all files that the result depends on.
        reading: how a row becomes a text, if the source has columns.
    """

    format: str
    reason: str
    splits: dict[str, Split]
    labels: Stream
    label_path: Path
    labels_last: bool = False
    description: dict[str, Any] = field(default_factory=dict)
    filters: dict[str, Path] = field(default_factory=dict)
    files: list[Path] = field(default_factory=list)
    reading: Reading | None = None


@dataclass(frozen=True)
class Reader:
    """A format, as the module that reads it declares it.

    Args:
        expected: what the format looks like, for the error message when no reader recognises a source.
        detect: returns the reason why a folder or file has this format, or None if it does not.
        open_source: returns the streams over a folder or file that `detect` recognised.
        order: readers are asked in this order. Formats with distinctive file names come first (10 to 40), those that
            accept almost any name last (60).
    """

    expected: str
    detect: Callable[[Path], str | None]
    open_source: Callable[[Path, Options], Source]
    order: int = 50


class LabelNames:
    """Maps names of labels to ids. Once a label file was read the names are closed; otherwise a new name gets the
    next id.

    A uid always means its own label, even if another label has that uid as its text; a text means a label only if it
    is the text of exactly one.

    >>> names = LabelNames(closed=False)
    >>> names.ids(["red", "blue", "red "], "a.csv", 1)
    [0, 1]
    """

    def __init__(self, closed: bool) -> None:
        self.closed = closed
        self.id_of: dict[str, int] = {}  # by uid
        self.by_text: dict[str, int] = {}  # -1: several labels have it
        self.count = 0  # labels read from the label file so far

    def add(self, uid: str | None, id_: int, *texts: str) -> None:
        """Add a label of the label file: its uid, if it has one, and its texts."""
        self.count = max(self.count, id_ + 1)
        if uid is not None:
            self.id_of.setdefault(uid, id_)
        for text in texts:
            if self.by_text.setdefault(text, id_) != id_:
                self.by_text[text] = -1

    def ids(self, names: list[str], path: Path | str, line: int, problems: Problems | None = None) -> list[int]:
        """The ids of the names in one row, without repetitions.

        Raises:
            DataError: the label file does not have the name, or several of its labels have it as their text. If
                problems are collected, this is noted and the name left out.
        """
        ids: dict[int, None] = {}
        for name in names:
            name = name.strip()
            if not name:
                continue
            id_ = self.id_of.get(name, self.by_text.get(name))
            if id_ is None and not self.closed:
                id_ = self.id_of[name] = len(self.id_of)
            if id_ is None or id_ < 0:
                found = f"label {name!r:.80} is not one of the {self.count:,} in the label file"
                hint = "add it there, or remove it here"
                if id_ is not None:
                    found, hint = f"label {name!r:.80} is the text of several labels", "use the uid of the label"
                error = DataError(found, path, line, hint)
                (problems or Problems()).error("bad ids", error, "the label was left out")
            else:
                ids[id_] = None
        return list(ids)

    def records(self, problems: Problems | None = None) -> Records:
        """Labels of which only the names are known, in the order of their ids."""
        for name, id_ in self.id_of.items():
            yield id_ + 1, {"uid": name, "text": name}
