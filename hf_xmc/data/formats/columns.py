"""Which columns of a table hold what: found from its header and its first rows, and said."""

from __future__ import annotations

import re
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from hf_xmc.data.formats.fields import (
    LABEL_COLUMNS,
    TEXT_FIELDS,
    UID_COLUMNS,
    find_column,
    named_column,
    text_columns,
)
from hf_xmc.data.formats.label_cells import check_not_multi_hot, is_hot, is_one, names_in
from hf_xmc.data.formats.label_names import LabelNames
from hf_xmc.data.formats.separators import DELIMITERS, delimiter_of
from hf_xmc.data.formats.source import Options, Record
from hf_xmc.data.reading import Reading, parse_columns, plain_name
from hf_xmc.data.rows import TEXT_TABLES, header_of, how_written, rows
from hf_xmc.data.spreadsheets import other_sheets
from hf_xmc.data.templates import Template
from hf_xmc.errors import DataError, Problems

SAMPLE = 5000  # rows that are inspected to find columns and separator
REPEATED = 0.2  # share of rows with the text of an earlier one from which a table has one row per label
LONG_NAME = 60  # characters; a column with a longer name in its header has none


class Columns:
    """Which columns of a table hold what, detected from its header and first rows.

    Other splits use what was found in `train`: the same name must be read in the same way in all of them, whichever
    characters happen to occur in the first rows of one.
    """

    def __init__(self, path: Path, options: Options, train: Columns | None = None) -> None:
        self.path, self.options = path, options
        self.header = header_of(path, options.encoding)
        self.sample = [record for _, record in islice(rows(path, options.encoding, Problems(stop=False)), SAMPLE)]
        pick = partial(find_column, self.header, path)
        self.uid = pick(options.uid_column, UID_COLUMNS, None)
        self.labels = label_columns(self.header, options.label_column)
        self.hot: bool = train.hot if train is not None else self.are_hot(self.labels)
        if not self.labels and self.hot and train is not None:
            self.labels = [name for name in train.labels if name in self.header]
        if not self.labels:
            usual = (plain_name(train.labels[0]),) if train else LABEL_COLUMNS
            found = pick(options.label_column, usual, None) or self.remaining()
            self.hot = not found and len(hot := self.hot_columns()) > 1
            self.labels = hot if self.hot else [found or pick(None, LABEL_COLUMNS, "--label_column")]
        self.words: tuple[int, ...] = () if train is None else train.words
        self.texts: list[str] = self.text_columns() if train is None else list(train.texts)
        self.weights = "weights" if "weights" in self.header else ""
        self.time = pick(options.time_column, (), "--time_column") if options.time_column else ""
        cells = [record.get(self.labels[0]) for record in self.sample]
        check_not_multi_hot(cells, path)
        self.lists = any(isinstance(cell, list) for cell in cells)
        guess = None if len(self.labels) > 1 else delimiter_of(str(cell or "") for cell in cells)
        self.delimiter: str | None = options.label_delimiter or (train.delimiter if train else guess)
        self.pairs = self.one_row_per_label()

    def text_columns(self) -> list[str]:
        """The columns of the text: those of the template, those that the user named, or the usual ones.

        Raises:
            DataError: there are none.
        """
        if self.options.query_template:
            wanted = Template(self.options.query_template).fields
            if not any(named_column(self.header, (plain_name(name),)) for name in wanted):
                raise DataError(f"none of the fields {wanted}", self.path, 1, f"found {self.header[:8]}")
            return wanted
        given = self.options.text_column
        if given is not None:
            names, self.words = parse_columns(given, self.header)
            return [find_column(self.header, self.path, name, (), "--text_column") for name in names]
        free = [name for name in self.header if name not in self.labels]
        if found := text_columns(free, self.sample) or self.longest():
            return found
        return [find_column(self.header, self.path, None, TEXT_FIELDS, "--text_column")]

    def longest(self) -> list[str]:
        """The column with the longest texts, if no column has a usual name and one looks like a text."""
        lengths = {}
        for name in self.header:
            cells = [cell for row in self.sample if isinstance(cell := row.get(name), str) and cell.strip()]
            if name not in (*self.labels, self.uid) and cells and len(name) < LONG_NAME:
                lengths[name] = sum(len(cell.split()) for cell in cells) / len(cells)
        best = max(lengths, key=lambda name: lengths[name], default="")
        return [best] if best and lengths[best] > 2 else []

    def remaining(self) -> str:
        """The column of the labels where none has a usual name: the only one besides text and uid."""
        taken = {self.uid, *text_columns(self.header, self.sample)}
        rest = [name for name in self.header if name not in taken]
        alone = len(rest) == 1 and len(taken) > 1 and len(rest[0]) < LONG_NAME
        return rest[0] if alone and self.options.label_column is None else ""

    def are_hot(self, columns: list[str]) -> bool:
        """Whether several columns have only 0 and 1, and not each of them in every row: they are no ids of labels."""
        cells = [[str(row.get(name)) for name in columns] for row in self.sample]
        hot = len(columns) > 1 and all(is_hot(cell) for row in cells for cell in row)
        return hot and any(len({*row}) < len(row) for row in cells)

    def hot_columns(self) -> list[str]:
        """The columns of 0 and 1, one for each label, where no column has the names of labels."""
        taken = {self.uid, *text_columns(self.header, self.sample)}
        found = []
        for name in self.header:
            cells = {str(cell) for row in self.sample if (cell := row.get(name)) is not None}
            if name not in taken and any(map(is_hot, cells)) and all(is_hot(cell) or not cell for cell in cells):
                found.append(name)
        return found

    def label_cells(self, record: Record) -> list[Any]:
        """The cells of a row with its labels; the names of columns that are 1, where each label has a column."""
        if self.hot:
            return [[name] for name in self.labels if is_one(record.get(name))]
        return [record.get(name) for name in self.labels]

    def one_row_per_label(self) -> str:
        """`"uid"` or `"text"` if a query has one row for each of its labels, found by what the rows share; else "".

        Rows belong together if they have one uid and one text, but other labels; or, where uids differ or are
        missing, if many rows of a single label have the text of an earlier one.
        """
        if len(self.labels) > 1 or self.lists or self.weights:
            return ""
        by_uid: dict[str, tuple[str, str]] = {}
        by_text: dict[str, set[str]] = {}
        again = same = 0
        for row in self.sample:
            text, label = (
                "\n".join(str(row.get(name) or "") for name in self.texts),
                str(row.get(self.labels[0]) or ""),
            )
            labels = by_text.setdefault(text, set())
            again += bool(labels) and label not in labels
            labels.add(label)
            if self.uid and row.get(self.uid) is not None:
                before = by_uid.setdefault(str(row[self.uid]), (text, label))
                if before[0] != text:
                    return ""
                same += before[1] != label
        if same:
            return "uid"
        single = all(len(names_or_none(row.get(self.labels[0]), self.delimiter)) < 2 for row in self.sample)
        return "text" if single and again > REPEATED * max(len(self.sample), 1) else ""

    def fit_to(self, names: LabelNames) -> None:
        """Choose the separator under which the vocabulary has most names, unless the user gave one."""
        if self.options.label_delimiter or len(self.labels) > 1 or self.lists or not names.closed:
            return
        cells = [row.get(self.labels[0]) for row in self.sample]

        def known(delimiter: str | None) -> float:
            """The share of names that are known."""
            found = [names.find(name) is not None for cell in cells for name in names_or_none(cell, delimiter)]
            return sum(found) / max(len(found), 1)

        if self.delimiter != "json":
            candidates = [self.delimiter, *(mark for mark in (*DELIMITERS, None) if mark != self.delimiter)]
            self.delimiter = max(candidates, key=known)
        names.chosen.clear()

    def reading(self, language: str = "") -> Reading:
        """What is remembered of these columns."""
        template = self.options.query_template or ""
        separator = None if self.delimiter == "json" else self.delimiter
        return Reading(tuple(self.texts), template, tuple(self.labels), separator, self.uid, language, self.words)

    def __str__(self) -> str:
        how = f"names separated by {self.delimiter!r}"
        if self.lists or self.delimiter == "json":
            how = "lists"
        elif self.delimiter is None:
            how = "one name per cell" if len(self.labels) == 1 else f"{len(self.labels)} columns"
            how += " of 0 and 1, one for each label" * self.hot
        return f"{self.reading()}, labels in {self.labels[0]!r} ({how})"

    def said(self) -> list[str]:
        """What was chosen and may be meant otherwise, with the option that changes it."""
        said = []
        if len(self.texts) > 1 and not self.options.query_template and not self.options.text_column:
            said.append(
                f"The text is {' + '.join(self.texts)}, joined as sentences; --text_column {self.texts[-1]} or "
                "--query_template changes it"
            )
        used = {*self.texts, *self.labels, self.uid}
        others = [name for name in self.header if plain_name(name) in LABEL_COLUMNS and name not in used]
        if others and self.options.label_column is None:
            said.append(f"Labels are those in {self.labels[0]!r}; --label_column {others[0]} takes the others")
        if twice := [name for name in self.texts if f"{name}.1" in self.header]:
            said.append(f"Several columns are called {twice[0]!r}, and the first is read; rename the others")
        if self.pairs:
            by = repr(self.uid) if self.pairs == "uid" else "text"
            said.append(f"There is one row per label: rows with the same {by} are one query")
        if self.path.suffix.lower() in TEXT_TABLES and how_written(self.path, self.options.encoding).guessed:
            code = how_written(self.path, self.options.encoding).encoding
            said.append(f"{self.path.name} is not UTF-8 and was read as {code}; --encoding changes it")
        if self.path.suffix.lower() == ".xlsx" and (sheets := other_sheets(self.path)):
            said.append(
                f"Only the first sheet was read, not {', '.join(sheets)[:60]}; save another as a file of its own"
            )
        return said


def names_or_none(cell: Any, delimiter: str | None) -> list[str]:
    """The names in a cell of a sample; none if it cannot be read."""
    try:
        return names_in(cell, delimiter, Path(), 0)
    except DataError:
        return []


def label_columns(header: list[str], given: str | None) -> list[str]:
    """Several columns with one label each: `label_1`, `label_2`, or a repeated name (`label`, `label.1`)."""
    stems = (plain_name(given),) if given else LABEL_COLUMNS
    pattern = rf"({'|'.join(map(re.escape, stems))})_?\d*"
    found = {name: match[1] for name in header if (match := re.fullmatch(pattern, plain_name(name)))}
    return list(found) if len(found) > 1 and len(set(found.values())) == 1 else []
