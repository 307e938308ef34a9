"""What a reader of a format is, and what it returns: streams of records, so that memory does not grow with the files.

A reader is one module of this folder. It declares itself with `READER = Reader(...)`, and `hf_xmc.data.formats`
finds it: nothing else has to be changed to add a format.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hf_xmc.data.formats.label_names import LabelNames as LabelNames  # readers find it here
from hf_xmc.data.reading import Reading
from hf_xmc.errors import Problems

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
    text_form: str | None = option(
        "Form in which all texts are stored: 'alphanumeric' is lower case with unaccented letters, digits and full "
        "stops alone, as DEXML prepares LF-Wikipedia-500K. Default: as they are."
    )
    text_column: str | None = option(
        "Column that holds the text (CSV, TSV, Parquet, Hub), or several, as in title,abstract, which are joined; "
        "title:32,abstract:128,body reads at most so many words of a column. "
        "Default: text, content, ..., with the title in front; or title, abstract and description."
    )
    label_column: str | None = option(
        "Column that holds the labels (CSV, TSV, Parquet, Hub). Default: labels, tags, subjects, ..., also in other "
        "languages."
    )
    uid_column: str | None = option(
        "Column that identifies the query (CSV, TSV, Parquet, Hub). Default: uid, id, ..., or the row number."
    )
    time_column: str | None = option("Column or field with the date of a query; needed for --split time.")
    label_delimiter: str | None = option(
        "Separator between the label names in one cell (CSV, TSV, Parquet, Hub). "
        "Default: detected from the first rows (JSON list, |, ;, tab or comma)."
    )
    label_file: str | None = option(
        "File with the labels, if it is not in the same folder under a usual name: a table, or a SKOS vocabulary, "
        "whose concepts are matched by URI, notation, preferred and other labels."
    )
    language: str | None = option(
        "Language of the label texts in a SKOS vocabulary, as in 'en'. Default: the one that the texts are in."
    )
    config: str | None = option("Configuration of a data set on the Hub. Default: its first one.")


@dataclass(frozen=True)
class Split:
    """The queries of one split: their file, and a function that streams them."""

    path: Path
    rows: Stream
    label_path: Path | None = None  # the file with the positives, if it is another one


@dataclass
class Choices:
    """What a reader chose where the source does not say it. Some is known only once the rows were read.

    Args:
        reading: how a row becomes a text, if the source has columns.
        said: sentences for the user: what was chosen, and which option changes it.
    """

    reading: Reading | None = None
    said: list[str] = field(default_factory=list)


@dataclass
class Source:
    """Splits by name (`train`, `validation`, `test`), labels in the order of their ids, and a description.

    Args:
        format: name of the format.
        reason: how the format was recognised.
        splits: queries by split.
        labels: a function that streams the labels.
        label_path: the file with the labels, for error messages.
        ids_given: labels of queries are ids as the source has them, and not found by name.
        labels_last: labels are known only after all queries were read, because only the queries name them.
        description: name, licence, source, propensity constants and maximum lengths, as far as the source states them.
        filters: split -> file of pairs that are excluded from evaluation, one `row label` per line.
        files: all files that the result depends on.
        choices: what the reader chose, complete once all rows were read.
    """

    format: str
    reason: str
    splits: dict[str, Split]
    labels: Stream
    label_path: Path
    labels_last: bool = False
    ids_given: bool = False
    description: dict[str, Any] = field(default_factory=dict)
    filters: dict[str, Path] = field(default_factory=dict)
    files: list[Path] = field(default_factory=list)
    choices: Choices = field(default_factory=Choices)


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
