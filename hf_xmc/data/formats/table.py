"""Tables: one `.csv`, `.tsv` or `.parquet` file with a text and a label column, or one file per split (`train`,
`validation`, `test`), with an optional table of the labels beside them (`labels.csv`, ...).

Labels are in one column (a list, a JSON list, or names with a separator) or in several (`label_1`, `label_2`, or one
name repeated). With a label file they are uids or texts of its labels; without one, every name that occurs is a
label, and ids follow the order of first appearance.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from hf_xmc.data.files import find_file, plain_suffix
from hf_xmc.data.formats.fields import (
    LABEL_COLUMNS,
    LABEL_TEXT_FIELDS,
    SPLIT_NAMES,
    TEXT_FIELDS,
    UID_COLUMNS,
    find_column,
    names_in,
    template,
    text_of,
)
from hf_xmc.data.formats.source import (
    LEFT_OUT,
    UNREADABLE,
    LabelNames,
    Options,
    Reader,
    Record,
    Records,
    Source,
    Split,
)
from hf_xmc.data.reading import Reading
from hf_xmc.data.rows import header_of, rows
from hf_xmc.errors import DataError, Problems

SUFFIXES = (".csv", ".tsv", ".parquet")
LABEL_FILES = ("labels", "lbl", "label", "vocabulary")
LIST_COLUMNS = ("texts", "parents")  # of a label table: several values in one cell
DELIMITERS = ("|", ";", "\t", ",")
SAMPLE = 100  # rows that are inspected to find columns and separator


def detect(path: Path) -> str | None:
    """The reason why the path is a table, or a folder with a training table."""
    if path.is_file():
        return f"is a {plain_suffix(path)} file" if plain_suffix(path) in SUFFIXES else None
    table = (find_table(path, SPLIT_NAMES["train"]) or only_table(path)) if path.is_dir() else None
    return f"has the table {table.name}" if table else None


def find_table(folder: Path, stems: tuple[str, ...]) -> Path | None:
    """The table with one of these names."""
    return find_file(folder, *(f"{stem}{suffix}" for stem in stems for suffix in SUFFIXES))


def only_table(folder: Path) -> Path | None:
    """The one table of a folder that is not a table of labels."""
    names = [p for p in sorted(folder.iterdir()) if p.is_file() and plain_suffix(p) in SUFFIXES]
    names = [p for p in names if p.name.split(".")[0] not in LABEL_FILES]
    return names[0] if len(names) == 1 else None


def open_source(path: Path, options: Options) -> Source:
    """Streams over a table, or over the tables of a folder.

    Raises:
        DataError: a column is missing, or a table cannot be read.
    """
    folder = path if path.is_dir() else path.parent
    if path.is_file():
        paths = {"train": path}
    else:
        paths = {split: found for split, stems in SPLIT_NAMES.items() if (found := find_table(path, stems))}
        if not paths and (only := only_table(path)):
            paths = {"train": only}
    label_path = find_labels(folder, options, beside=path.is_dir())
    names = LabelNames(closed=label_path is not None)
    reason, splits = "", {}
    train: Columns | None = None
    for split, table in paths.items():  # train is the first
        columns = Columns(table, options, train)
        train = train or columns
        reason = reason or f"{table.name}: {columns}"
        splits[split] = Split(table, partial(queries, table, columns, names, options))
    return Source(
        format=plain_suffix(paths["train"])[1:],
        reason=reason,
        splits=splits,
        labels=partial(labels, label_path, names, options) if label_path else names.records,
        label_path=label_path or paths["train"],
        labels_last=label_path is None,
        files=[*paths.values(), *([label_path] if label_path else [])],
        reading=train.reading(options) if train else None,
    )


READER = Reader(
    expected="a table (.csv, .tsv or .parquet) with a text and a label column, or a folder with train.csv",
    detect=detect,
    open_source=open_source,
    order=60,
)


def find_labels(folder: Path, options: Options, beside: bool) -> Path | None:
    """The table of labels: the one that the user named, or, in a folder, the one with a usual name."""
    if options.label_file is not None:
        path = Path(options.label_file)
        path = path if path.is_file() else folder / path
        if not path.is_file():
            raise DataError("no such label file", options.label_file, hint="give its path with --label_file")
        return path
    return find_table(folder, LABEL_FILES) if beside else None


class Columns:
    """Which columns of a table hold what, detected from its header and first rows.

    Other splits use the separator of `train`: the same name must be read in the same way in all of them, whichever
    characters happen to occur in the first rows of one.
    """

    def __init__(self, path: Path, options: Options, train: Columns | None = None) -> None:
        stream = rows(path, options.encoding, Problems(stop=False))
        sample = [record for _, record in islice(stream, SAMPLE)]
        header = header_of(path, options.encoding)
        pick = partial(find_column, header, path)
        self.template = template(options.query_template)
        self.text = "" if self.template else pick(options.text_column, TEXT_FIELDS, "--text_column")
        self.labels = label_columns(header, options.label_column) or [
            pick(options.label_column, LABEL_COLUMNS, "--label_column")
        ]
        self.uid = pick(options.uid_column, UID_COLUMNS, None)
        self.weights = "weights" if "weights" in header else ""
        self.time = pick(options.time_column, (), "--time_column") if options.time_column else ""
        cells = [str(record.get(self.labels[0]) or "") for record in sample]
        self.lists = any(isinstance(record.get(self.labels[0]), list) for record in sample)
        guess = None if len(self.labels) > 1 else delimiter_of(cells)
        self.delimiter: str | None = options.label_delimiter or (train.delimiter if train else guess)

    def reading(self, options: Options) -> Reading:
        """What is remembered of these columns."""
        texts = tuple(self.template.fields) if self.template else (self.text,)
        given = (options.query_template or "", tuple(self.labels), self.delimiter, self.uid, options.language or "")
        return Reading(texts, *given)

    def __str__(self) -> str:
        how = f"names separated by {self.delimiter!r}"
        if self.lists or self.delimiter == "json":
            how = "lists" if self.lists else "JSON lists"
        elif self.delimiter is None:
            how = "one name per cell" if len(self.labels) == 1 else f"{len(self.labels)} columns"
        text = f"text in {self.text!r}" if self.text else "text from a template"
        return f"{text}, labels in {self.labels[0]!r} ({how})"


def label_columns(header: list[str], given: str | None) -> list[str]:
    """Several columns with one label each: `label_1`, `label_2`, or a repeated name (`label`, `label.1`)."""
    stems = (given.lower(),) if given else LABEL_COLUMNS
    found = [name for name in header if re.fullmatch(rf"(?:{'|'.join(map(re.escape, stems))})[._ ]?\d*", name.lower())]
    return found if len(found) > 1 and len({name.rstrip("0123456789._ ").lower() for name in found}) == 1 else []


def delimiter_of(cells: Iterable[str]) -> str | None:
    """`"json"`, the first separator that occurs, or None for one name per cell.

    >>> delimiter_of(["red;dark blue", "green"]), delimiter_of(['["a"]']), delimiter_of(["red"])
    (';', 'json', None)
    """
    marks: set[str] = set()
    lists: set[bool] = set()
    for cell in filter(None, map(str.strip, cells)):
        lists.add(cell.startswith("[") and cell.endswith("]"))
        marks.update(mark for mark in DELIMITERS if mark in cell)
    return "json" if lists == {True} else next((mark for mark in DELIMITERS if mark in marks), None)


def queries(path: Path, columns: Columns, names: LabelNames, options: Options, problems: Problems) -> Records:
    """The queries of one table."""
    for i, (line, record) in enumerate(rows(path, options.encoding, problems)):
        try:
            fields = (columns.text,) if columns.text else ()
            found: Record = {
                "uid": str(record[columns.uid]) if columns.uid and record.get(columns.uid) is not None else f"row-{i}",
                "text": text_of(record, columns.template, fields, path, line),
            }
            cells = [record.get(name) for name in columns.labels]
            if columns.delimiter is None and len(cells) == 1:
                note_delimiter(cells[0], path, line, problems)
            cells_of_names = [name for cell in cells for name in names_in(cell, columns.delimiter, path, line)]
            found["labels"] = names.ids(cells_of_names, path, line, problems)
            if columns.weights:
                found |= relevance(record[columns.weights], found["labels"], cells_of_names, path, line)
            if columns.time:
                found["time"] = record.get(columns.time)
        except DataError as error:
            problems.error(UNREADABLE, error, LEFT_OUT)
        else:
            yield line, found


def note_delimiter(cell: Any, path: Path, line: int, problems: Problems) -> None:
    """Note a cell that is read as one name, because the first rows had no separator, but looks like several."""
    if isinstance(cell, str) and ("|" in cell or ";" in cell):
        handled = "kept as one name; if it is several names, give their separator with --label_delimiter"
        problems.note("label cells with | or ;", f"{path}, line {line}: {cell!r:.60}", handled)


def relevance(cell: Any, ids: list[int], names: list[str], path: Path, line: int) -> Record:
    """The relevance of each label, in the order of the label cell."""
    try:
        values = json.loads(cell) if isinstance(cell, str) else list(cell)
        weights = [float(value) for value in values]
    except (TypeError, ValueError, RecursionError) as error:
        raise DataError(
            f'"weights" is {cell!r:.60}', path, line, "expected a list of numbers, one per label"
        ) from error
    if len(weights) != len(names) or len(ids) != len(names) or not all(0 <= w < 1e30 for w in weights):
        raise DataError(f'"weights" is {cell!r:.60}', path, line, f"expected {len(names)} numbers, one per label")
    return {"weights": weights}


def labels(path: Path, names: LabelNames, options: Options, problems: Problems) -> Records:
    """The label table; queries refer to a label by its uid or its text. A bad row is always an error."""
    by_template = template(options.label_template)
    header = header_of(path, options.encoding)
    uid = find_column(header, path, None, UID_COLUMNS, None)
    delimiters = {name: column_delimiter(path, name, options) for name in LIST_COLUMNS if name in header}
    for i, (line, record) in enumerate(rows(path, options.encoding, Problems())):
        fields = tuple(name for name in LABEL_TEXT_FIELDS if name in record) or tuple(header[:1])
        text = text_of(record, by_template, fields, path, line)
        label: Record = {"uid": str(record[uid]) if uid else text, "text": text}
        label |= {key: value for key, value in record.items() if key not in (uid, fields[0], "uid", "text")}
        for key, delimiter in delimiters.items():
            if isinstance(label.get(key), str):
                label[key] = names_in(label[key], delimiter, path, line)
        if "weight" in label and isinstance(label["weight"], str):
            label["weight"] = number(label["weight"], path, line)
        names.add(label["uid"], i, text.strip())
        yield line, label


def column_delimiter(path: Path, name: str, options: Options) -> str | None:
    """The separator between the values in all cells of a column."""
    cells = (record[name] for _, record in rows(path, options.encoding, Problems()))
    return delimiter_of(cell for cell in cells if isinstance(cell, str))


def number(cell: str, path: Path, line: int) -> float | None:
    """The number in a cell; None if it is empty."""
    try:
        return float(cell) if cell.strip() else None
    except ValueError as error:
        raise DataError(f'"weight" is {cell!r:.60}', path, line, "expected a number") from error
