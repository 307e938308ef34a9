"""Tables: one `.csv`, `.tsv`, `.xlsx`, `.jsonl` or `.parquet` file with a text and a label column, or one file per
split (`train`, `validation`, `test`), with an optional table of the labels (`labels.csv`, ...) or SKOS vocabulary
beside them.

Labels are in one column (a list, a JSON list, or names with a separator), in several (`label_1`, `label_2`, or one
name repeated), or one a row. With a label file they are uids or texts of its labels; without one, every name that
occurs is a label, and ids follow the order of first appearance.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from hf_xmc.data.files import find_file, first_lines, plain_suffix
from hf_xmc.data.formats import label_table, skos
from hf_xmc.data.formats.columns import Columns
from hf_xmc.data.formats.fields import (
    SPLIT_NAMES,
    SPLIT_WORDS,
    checked_schemes,
)
from hf_xmc.data.formats.label_cells import as_text, is_empty, names_in
from hf_xmc.data.formats.label_names import fold
from hf_xmc.data.formats.separators import looks_otherwise
from hf_xmc.data.formats.source import (
    LEFT_OUT,
    UNREADABLE,
    Choices,
    LabelNames,
    Options,
    Reader,
    Record,
    Records,
    Source,
    Split,
)
from hf_xmc.data.rows import TABLES, rows
from hf_xmc.errors import DataError, Problems

SUFFIXES = TABLES
LABEL_FILES = ("labels", "lbl", "label", "vocabulary", "vocab", "subjects", "concepts", "terms", "thesaurus")
EVIDENCE = 300  # texts that decide the language of a vocabulary


def detect(path: Path) -> str | None:
    """The reason why the path is a table, or a folder with a training table."""
    if path.is_file():
        return f"is a {plain_suffix(path)} file" if plain_suffix(path) in SUFFIXES else None
    table = tables_in(path).get("train") if path.is_dir() else None
    return f"has the table {table.name}" if table else None


def find_table(folder: Path, stems: tuple[str, ...]) -> Path | None:
    """The table with one of these names."""
    return find_file(folder, *(f"{stem}{suffix}" for stem in stems for suffix in SUFFIXES))


def tables_in(folder: Path) -> dict[str, Path]:
    """The tables of a folder by split: those with the usual names; or with the usual words in their names; or the
    only one, which is for training. Tables of labels are left aside."""
    named = {split: found for split, stems in SPLIT_NAMES.items() if (found := find_table(folder, stems))}
    if "train" in named:
        return named
    files = [p for p in sorted(folder.iterdir()) if p.is_file() and plain_suffix(p) in SUFFIXES]
    files = [p for p in files if plain_suffix(p) != ".json" or begins_a_list(p)]  # most are settings
    tables = [p for p in files if p.name.split(".")[0].lower() not in LABEL_FILES] or files
    if len(tables) == 1:
        return {"train": tables[0]}
    splits: dict[str, list[Path]] = {}
    for path in tables:
        words = (s for s, w in SPLIT_WORDS.items() if re.search(rf"(?<![a-z])(?:{w})(?![a-z])", path.name.lower()))
        splits.setdefault(next(words, ""), []).append(path)
    if "train" not in splits and len(splits.get("", ())) == 1:
        splits["train"] = splits.pop("")
    return {s: splits[s][0] for s in SPLIT_NAMES if len(splits.get(s, ())) == 1} if "train" in splits else {}


def begins_a_list(path: Path) -> bool:
    """Whether a JSON file is a list."""
    return next(iter(first_lines(path, 1)), "").lstrip().startswith("[")


def open_source(path: Path, options: Options) -> Source:
    """Streams over a table, or over the tables of a folder.

    Raises:
        DataError: a column is missing, or a table cannot be read.
    """
    folder = path if path.is_dir() else path.parent
    paths = {"train": path} if path.is_file() else tables_in(path)
    if "train" not in paths:
        found = ", ".join(p.name for p in sorted(path.iterdir()) if plain_suffix(p) in SUFFIXES)
        raise DataError(f"no table says that it is for training (found {found})", path, hint="call it train.csv")
    label_path = find_labels(folder, options, beside=path.is_dir(), tables=[*paths.values()])
    concepts = label_path is not None and plain_suffix(label_path) in skos.VOCABULARIES
    lenient = concepts or (label_path is not None and label_table.is_vocabulary(label_path, options.encoding))
    names, choices = LabelNames(closed=label_path is not None, lenient=lenient), Choices()
    reason, splits = "", {}
    train = Columns(paths["train"], options)
    choices.reading, choices.said = train.reading(options.language or ""), train.said()
    for split, table in paths.items():
        columns = train if split == "train" else Columns(table, options, train)
        reason = reason or f"{table.name}: {columns}"
        splits[split] = Split(table, partial(queries, table, columns, names, choices, label_path))
    evidence = partial(evidence_of, train)
    if label_path is None:
        stream: Any = partial(names_as_labels, names, choices)
    elif concepts:
        stream = lambda problems: skos.concepts(label_path, names, options, choices, evidence(), problems)  # noqa: E731
        reason += f", matched with the vocabulary {label_path.name}"
    else:
        stream = lambda problems: label_table.labels(label_path, names, options, choices, evidence(), problems)  # noqa: E731
    return Source(
        format=plain_suffix(paths["train"])[1:],
        reason=reason,
        splits=splits,
        labels=stream,
        label_path=label_path or paths["train"],
        labels_last=label_path is None,
        files=[*paths.values(), *([label_path] if label_path else [])],
        choices=choices,
    )


READER = Reader(
    expected="a table (.csv, .tsv, .xlsx, .jsonl or .parquet) with a text and a label column, or a folder with "
    "train.csv",
    detect=detect,
    open_source=open_source,
    order=60,
)


def find_labels(folder: Path, options: Options, beside: bool, tables: list[Path]) -> Path | None:
    """The file of labels: the one that the user named, or, in a folder, a table with a usual name or a SKOS
    vocabulary."""
    if options.label_file is not None:
        path = Path(options.label_file)
        path = path if path.is_file() else folder / path
        if not path.is_file():
            raise DataError("no such label file", options.label_file, hint="give its path with --label_file")
        if plain_suffix(path) not in (*SUFFIXES, *skos.VOCABULARIES):
            kinds = ", ".join((*SUFFIXES, *skos.VOCABULARIES))
            raise DataError("a label file of an unknown kind", path, hint=f"expected one of {kinds}")
        return path
    if not beside:
        return None
    found = find_table(folder, LABEL_FILES)
    return found if found is not None and found not in tables else skos.vocabulary(folder)


def evidence_of(columns: Columns) -> Iterator[str]:
    """Texts and headings of the first rows."""
    reading = columns.reading()
    for row in columns.sample[:EVIDENCE]:
        yield reading.text_of(row)
        cell = row.get(columns.labels[0])
        yield from (part.strip() for part in re.split(r"[|;\t\n,]", cell if isinstance(cell, str) else ""))


def queries(
    path: Path, columns: Columns, names: LabelNames, choices: Choices, label_path: Path | None, problems: Problems
) -> Records:
    """The queries of one table."""
    columns.fit_to(names)
    if choices.reading is not None and columns.path == path:
        choices.reading = columns.reading(choices.reading.language)
    together = label_cells(path, columns, problems) if columns.pairs else None
    reading = columns.reading()
    for i, (line, record) in enumerate(rows(path, columns.options.encoding, problems)):
        try:
            text = reading.text_of(record, path, line)
            cells = columns.label_cells(record)
            if together is not None and (cells := together.pop(key_of(record, columns, text), [])) == []:
                continue  # belongs to an earlier row
            found: Record = {"uid": uid_in(record, columns) or f"row-{i}", "text": text}
            if not columns.options.label_delimiter and len(columns.labels) == 1:
                for cell in cells:
                    note_delimiter(cell, columns.delimiter, names, path, line, problems)
            cells_of_names = [name for cell in cells for name in names_in(cell, columns.delimiter, path, line)]
            cells_of_names = names.rejoined(cells_of_names, columns.delimiter)
            found["labels"] = names.ids(cells_of_names, path, line, problems)
            if columns.weights:
                found |= relevance(record[columns.weights], found["labels"], cells_of_names, path, line)
            if record.get("schemes"):
                found["schemes"] = checked_schemes(record["schemes"], path, line)
            if columns.time:
                found["time"] = record.get(columns.time)
        except DataError as error:
            problems.error(UNREADABLE, error, LEFT_OUT)
        else:
            yield line, found
    if label_path is not None:
        choices.said += names.report(label_path, problems)


def uid_in(record: Record, columns: Columns) -> str:
    """The uid of a row; empty if it has none."""
    return str(as_text(record[columns.uid])) if columns.uid and not is_empty(record.get(columns.uid)) else ""


def key_of(record: Record, columns: Columns, text: str) -> str | int:
    """What rows of one query share: the uid, or the hash of the text."""
    return uid_in(record, columns) if columns.pairs == "uid" else hash(text)


def label_cells(path: Path, columns: Columns, problems: Problems) -> dict[str | int, list[Any]]:
    """The label cells of all rows that belong together, where a table has one row per label. Rows that cannot be read
    are left out here, and reported when the table is read again."""
    cells: dict[str | int, list[Any]] = {}
    reading = columns.reading()
    for _, record in rows(path, columns.options.encoding, Problems(stop=False)):
        try:
            text = reading.text_of(record)
        except DataError:
            continue
        cells.setdefault(key_of(record, columns, text), []).append(record.get(columns.labels[0]))
    return cells


def names_as_labels(names: LabelNames, choices: Choices, problems: Problems) -> Records:
    """The names that occurred, as labels."""
    if paths := names.paths():
        name = next(iter(paths))
        choices.said.append(f"Labels are paths, as {name!r:.60}: what stands before the last step is the parent")
    spellings: dict[str, str] = {}
    for name in names.id_of:
        spellings.setdefault(fold(name), name)
    if (extra := len(names.id_of) - len(spellings)) > 0:
        one, other = next((spellings[fold(name)], name) for name in names.id_of if spellings[fold(name)] != name)
        choices.said.append(
            f"{extra:,} labels differ from another only in case or spaces, as {one!r:.40} and {other!r:.40}; "
            "a label file (--label_file) makes them one"
        )
    yield from names.records()


def note_delimiter(
    cell: Any, delimiter: str | None, names: LabelNames, path: Path, line: int, problems: Problems
) -> None:
    """Note a cell that looks as if another mark than in most cells separated its names."""
    if mark := looks_otherwise(cell, delimiter, names):
        read = "one name" if delimiter is None else f"names separated by {delimiter!r}"
        handled = f"read as {read}, as in other rows; another separator is given with --label_delimiter"
        problems.note("label cells that look otherwise", f"{path}, line {line}: {cell!r:.60} has {mark!r}", handled)


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
