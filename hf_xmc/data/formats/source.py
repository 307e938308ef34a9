"""What a reader of a format hands over: streams of records, so that memory does not grow with the files."""

from __future__ import annotations

import string
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hf_xmc.errors import DataError, Problems

Record = dict[str, Any]  # query: uid, text, labels, perhaps weights and time; label: uid, text and what else there is
Records = Iterator[tuple[int, Record]]  # with their line or row, from 1
Stream = Callable[[Problems], Records]

TEXT_FIELDS = ("text", "sentence", "content", "document", "abstract", "description", "body", "query", "title")
LABEL_TEXT_FIELDS = ("text", "title", "name", "label", "prefLabel")
UNREADABLE = "unreadable rows"
LEFT_OUT = "the row was left out"


@dataclass(frozen=True)
class Options:
    """How to read a source, where it does not say so itself.

    Args:
        encoding: of text files without a byte order mark; by default UTF-8.
        query_template, label_template: how a text is made of fields, as in `"{title}. {content}"`.
        text_column, label_column, uid_column, time_column: names in a table; by default the usual ones.
        label_delimiter: between label names in one cell; by default found from the first rows.
        label_file: a table of the labels, where it does not stand beside the queries.
        language: of SKOS labels, as in `"en"`; by default the first of a concept.
        config: the configuration of a Hub data set.
    """

    encoding: str | None = None
    query_template: str | None = None
    label_template: str | None = None
    text_column: str | None = None
    label_column: str | None = None
    uid_column: str | None = None
    time_column: str | None = None
    label_delimiter: str | None = None
    label_file: str | None = None
    language: str | None = None
    config: str | None = None


@dataclass(frozen=True)
class Split:
    """The queries of one split: where they stand, and a function that streams them."""

    path: Path
    rows: Stream
    label_path: Path | None = None  # where the positives stand, if in another file


@dataclass
class Source:
    """Splits by name (`train`, `validation`, `test`), labels in the order of their ids, and a description.

    Args:
        format, reason: what it is, and how that was seen.
        labels_last: labels are known only when the queries were read (their names stand there alone).
        filters: split -> file of pairs that do not count, `row label` a line.
        files: all files that the result depends on.
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


class LabelNames:
    """Names of labels to ids. Closed once a label file was read; else a new name gets the next id.

    A uid always means its label, even where it is the text of another; a text means one only if no other has it.

    >>> names = LabelNames(closed=False)
    >>> names.ids(["red", "blue", "red "], "a.csv", 1)
    [0, 1]
    """

    def __init__(self, closed: bool) -> None:
        self.closed = closed
        self.id_of: dict[str, int] = {}  # by uid
        self.by_text: dict[str, int] = {}  # -1: several labels have it
        self.count = 0  # labels in the label file, of those read so far

    def add(self, uid: str | None, id_: int, *texts: str) -> None:
        """A label of the label file: its uid, if it has one, and its texts."""
        self.count = max(self.count, id_ + 1)
        if uid is not None:
            self.id_of.setdefault(uid, id_)
        for text in texts:
            if self.by_text.setdefault(text, id_) != id_:
                self.by_text[text] = -1

    def ids(self, names: list[str], path: Path | str, line: int, problems: Problems | None = None) -> list[int]:
        """The ids of the names in one row, each once.

        Raises:
            DataError: a name that the label file lacks, or a text that several of its labels have (noted and left
                out if problems are collected).
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
                hint = "add it there, or take it away here"
                if id_ is not None:
                    found, hint = f"label {name!r:.80} is the text of several labels", "name it by its uid"
                error = DataError(found, path, line, hint)
                (problems or Problems()).error("bad ids", error, "the label was left out")
            else:
                ids[id_] = None
        return list(ids)

    def records(self) -> Records:
        """Labels that are nothing but their names."""
        for name, id_ in self.id_of.items():
            yield id_ + 1, {"uid": name, "text": name}


class Template:
    """A text made of fields: `"{title}. {content}"`. Only plain names: nothing of a value can be reached into.

    A field that is missing or empty leaves nothing behind, and neither does what stands between it and its neighbour.

    >>> Template("{title}. {content}").fill({"title": "Dune", "content": None})
    'Dune'
    """

    def __init__(self, template: str) -> None:
        try:
            parsed = list(string.Formatter().parse(template))
        except ValueError as error:
            raise DataError(f"template {template!r}: {error}", hint="write it as '{title}. {content}'") from error
        self.parts = [(literal, name) for literal, name, _, _ in parsed]
        self.fields = [name for _, name in self.parts if name is not None]
        if not self.fields or not all(name and not set(name) & set(".[]!:") for name in self.fields):
            raise DataError(f"template {template!r} has no plain fields", hint="write it as '{title}. {content}'")

    def fill(self, record: Record) -> str:
        text = ""
        for i, (literal, name) in enumerate(self.parts):
            value = "" if name is None else record.get(name)
            value = "" if value is None else value if isinstance(value, str) else str(value)
            if i == 0 or name is None:
                text += (literal if value or name is None else "") + value
            elif value.strip():
                text += (literal if text.strip() else "") + value
        return text.strip()


def text_of(record: Record, template: Template | None, fields: tuple[str, ...], path: Path, line: int) -> str:
    """The text of a record: by the template, else the first of the usual fields that is there.

    Raises:
        DataError: no such field, or it is no text.
    """
    if template is not None:
        if not any(name in record for name in template.fields):
            raise DataError(f"none of the fields {template.fields}", path, line, f"found {list(record)[:8]}")
        return template.fill(record)
    name = next((name for name in fields if name in record), fields[0])
    value = record.get(name)
    if not isinstance(value, str):
        found = "is missing" if name not in record else f"is {value!r:.60}"
        raise DataError(f'"{name}" {found}', path, line, "it must be a string")
    return value


def uid_of(record: Record, path: Path, line: int) -> str:
    """The uid of a record; a whole number is taken as its digits.

    Raises:
        DataError: it is missing, or something else.
    """
    uid = record.get("uid")
    if type(uid) is int:
        return str(uid)
    if not isinstance(uid, str):
        found = "is missing" if uid is None else f"is {uid!r:.60}"
        raise DataError(f'"uid" {found}', path, line, "it must be a string")
    return uid


def template(text: str | None) -> Template | None:
    return None if text is None else Template(text)
