"""Writing files of tagged texts: one row a text or one row a tag, as JSON lines, Parquet, or a table for a spreadsheet
program.

A file is written in parts, one for each window of rows. Parts of a table are JSON lines as well: how many columns of
labels it has is known only when all texts are tagged.

A cell of a `.csv` or `.tsv` file that begins with `=`, `+`, `-` or `@` is a formula to a spreadsheet program. Where
such a cell is not one of the input, it is written with an apostrophe before it. The cells of a `.xlsx` file have a
type, and those written here are texts or numbers.
"""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from hf_xmc.data.dialect import Dialect
from hf_xmc.data.files import json_lines
from hf_xmc.data.spreadsheets import SpreadsheetWriter
from hf_xmc.errors import DataError, Problems, SettingsError
from hf_xmc.inference.text_files import TextFile, Window

if TYPE_CHECKING:
    from datasets import Dataset

TABLES = (".csv", ".tsv", ".xlsx")
OUTPUTS = (*TABLES, ".jsonl", ".parquet")
ROWS = ("texts", "tags")
URI_COLUMNS = ("uri", "url", "iri")  # of a label table
FORMULA = ("=", "+", "-", "@", "\t", "\r")
MOST_COLUMNS = 16_384  # of a sheet
WHOLE = 10**15  # larger whole numbers are shown rounded by spreadsheet programs
# Type of a tag in Parquet; the probability is null if the model is not calibrated.
TAG = pa.struct(
    {"label": pa.string(), "uid": pa.string(), "id": pa.int64(), "score": pa.float64(), "probability": pa.float64()}
)
# Columns of a row for one tag, in Parquet; `uri` is left out where no label has one.
TAG_COLUMNS = {
    "rank": pa.int64(),
    "uid": pa.string(),
    "uri": pa.string(),
    "label": pa.string(),
    "score": pa.float64(),
    "probability": pa.float64(),
}
Tags = list[list[dict[str, Any]]]


@dataclass(frozen=True)
class TagFile:
    """A file of tagged texts to write.

    Args:
        path: the file.
        rows: `"texts"`: a row for each text; `"tags"`: a row for each of its labels.
        dialect: of a `.csv` or `.tsv` file.
        same_cells: whether cells of the input go into a file of their kind, so that they are written as they were.
    """

    path: Path
    rows: str = "texts"
    dialect: Dialect = field(default_factory=Dialect)
    same_cells: bool = False

    @property
    def suffix(self) -> str:
        return self.path.suffix.lower()

    @property
    def part_suffix(self) -> str:
        """The suffix of the parts."""
        return ".parquet" if self.suffix == ".parquet" else ".jsonl"


@dataclass
class Summary:
    """What a part has, or all parts together.

    Args:
        texts: rows of the input.
        blank: rows without a text, which have no labels.
        untagged: texts without a label.
        most: labels of a text, at most.
        columns: columns of the input, in order of appearance.
    """

    texts: int = 0
    blank: int = 0
    untagged: int = 0
    most: int = 0
    columns: list[str] = field(default_factory=list)

    def add(self, other: Summary) -> None:
        """Include another part."""
        self.texts, self.blank = self.texts + other.texts, self.blank + other.blank
        self.untagged, self.most = self.untagged + other.untagged, max(self.most, other.most)
        self.columns = [*dict.fromkeys([*self.columns, *other.columns])]


@dataclass(frozen=True)
class LabelColumns:
    """What a table says of each label besides its text.

    Args:
        value: `"probability"`, or `"score"` if the tagger is not calibrated.
        uids: whether uids say more than the texts.
        uris: uri of each label, by id, where the label table has them.
        uid_is_uri: whether the uids are URIs.
    """

    value: str
    uids: bool = True
    uris: Sequence[str | None] | Mapping[int, str | None] | None = None
    uid_is_uri: bool = False

    @classmethod
    def of(cls, labels: Dataset, calibrated: bool) -> LabelColumns:
        """Those of a label table."""
        uids, names = labels["uid"][:], {name.lower(): name for name in labels.column_names}
        column = next((names[name] for name in URI_COLUMNS if name in names), None)
        return cls(
            "probability" if calibrated else "score",
            uids != labels["text"][:],
            None if column is None else [None if uri is None else str(uri) for uri in labels[column][:]],
            any(uid.startswith(("http://", "https://", "urn:")) for uid in uids),
        )

    def with_uri(self, tag: Mapping[str, Any]) -> dict[str, Any]:
        """A tag, and its uri if labels have them."""
        if self.uris is not None:
            return {**tag, "uri": self.uris[tag["id"]]}
        return {**tag, "uri": tag["uid"]} if self.uid_is_uri else {**tag}

    def flat(self) -> list[str]:
        """The columns of each label in a row for a text."""
        uids = ["uid"] if self.uids else []
        return ["label", *uids, *(["uri"] if self.uris is not None else []), self.value]

    def long(self) -> list[str]:
        """The columns of a row for a tag."""
        uri = ["uri"] if self.uris is not None or self.uid_is_uri else []
        return ["rank", "uid", *uri, "label", self.value]


def tag_file_of(path: str | Path, source: TextFile, rows: str = "texts", overwrite: bool = False) -> TagFile:
    """A file to write, checked: its kind, that it is not the input, and that nothing is there unless `overwrite`.

    Raises:
        DataError: a kind that cannot be written, a file that exists, or the input itself.
        SettingsError: `rows` is neither `"texts"` nor `"tags"`.
    """
    path = Path(path)
    if rows not in ROWS:
        raise SettingsError(f"rows is {rows!r}; expected one of {', '.join(ROWS)}")
    if path.suffix.lower() not in OUTPUTS:
        found = path.suffix or "a file without an ending"
        raise DataError(f"cannot write {found}", path, hint=f"name it {', '.join(OUTPUTS[:-1])} or {OUTPUTS[-1]}")
    if path.exists() and (path.is_dir() or path.samefile(source.path)):
        what = "is a folder" if path.is_dir() else "is the input"
        raise DataError(what, path, hint="name another file to write")
    if path.exists() and not overwrite:
        raise DataError("exists already", path, hint="name another file, or replace it with --overwrite")
    same = path.suffix.lower() == source.kind
    return TagFile(path, rows, output_dialect(path.suffix.lower(), source), same and source.kind in TABLES)


def output_dialect(suffix: str, source: TextFile) -> Dialect:
    """How a table is written: as the input, if that is a table of the same kind.

    Excel reads a file as UTF-8 only if it begins with a byte order mark. It gets one if the input had one or came out
    of a spreadsheet program: a `.xlsx` file, or cells separated by semicolons.
    """
    given = source.dialect
    made = Dialect("\t" if suffix == ".tsv" else ",") if given is None else given
    if suffix != source.kind:
        made = replace(made, delimiter="\t" if suffix == ".tsv" else ",", quote_all=False)
    excel = source.kind == ".xlsx" or (given is not None and given.delimiter == ";")
    return replace(made, encoding="utf-8-sig") if excel and made.encoding == "utf-8" else made


def write_part(
    window: Window, texts: Sequence[str], tags: Tags, path: Path, target: TagFile, labels: LabelColumns, schema: Any
) -> tuple[pa.Schema | None, Summary]:
    """Write a window with its tags.

    Returns:
        For Parquet the columns of this window and of those before (`schema`), else None; and what the part has.

    Raises:
        DataError: a Parquet column has another type than before; nothing is written then.
    """
    found = Summary(
        len(window),
        sum(not text.strip() for text in texts),
        sum(not its and bool(text.strip()) for its, text in zip(tags, texts, strict=True)),
        max(map(len, tags), default=0),
    )
    if target.suffix == ".parquet":
        return write_parquet_part(window, tags, path, target, labels, schema), found
    rows = window.rows.to_pylist() if isinstance(window.rows, pa.Table) else window.rows
    found.columns = [*dict.fromkeys(name for row in rows for name in row)]
    with path.open("w", encoding="utf-8") as file:
        for row, its in zip(rows, tags, strict=True):
            for record in records(row, its, target, labels):
                file.write(json.dumps(record, ensure_ascii=False, default=str) + "\n")
    return None, found


def records(
    row: Mapping[str, Any], tags: Sequence[dict[str, Any]], target: TagFile, labels: LabelColumns
) -> Iterator[dict[str, Any]]:
    """The objects of a part for one text."""
    if target.suffix in TABLES:
        yield {"row": row, "tags": [labels.with_uri(tag) for tag in tags]}
    elif target.rows == "texts":
        yield {**renamed(row, ("labels",)), "labels": [*tags]}
    else:
        for rank, tag in enumerate(tags, start=1):
            full = {"rank": rank, **labels.with_uri(tag)}
            yield {**renamed(row, TAG_COLUMNS), **{name: full[name] for name in TAG_COLUMNS if name in full}}


def renamed(row: Mapping[str, Any], ours: Sequence[str] | Mapping[str, Any]) -> dict[str, Any]:
    """A row whose columns are not called like those that are added.

    >>> renamed({"labels": "red", "text": "a car"}, ["labels"])
    {'given_labels': 'red', 'text': 'a car'}
    """
    names = dict(zip(row, own_names([*row], ours), strict=True))
    return {names[name]: value for name, value in row.items()}


def own_names(columns: Sequence[str], ours: Sequence[str] | Mapping[str, Any]) -> list[str]:
    """Names for the columns of the input: `given_labels` for `labels` where that name is ours."""
    taken = {*columns, *ours}
    names = []
    for column in columns:
        name = column
        while column in ours and name in taken:
            name = f"given_{name}"
        taken.add(name)
        names.append(name)
    return names


def write_parquet_part(
    window: Window, tags: Tags, path: Path, target: TagFile, labels: LabelColumns, schema: pa.Schema | None
) -> pa.Schema:
    try:
        table = with_tags(window, tags) if target.rows == "texts" else one_row_a_tag(window, tags, labels)
        schema = table.schema if schema is None else pa.unify_schemas([schema, table.schema])
    except pa.ArrowException as error:
        raise changed_type(error) from error
    pq.write_table(table, path)
    return schema


def with_tags(window: Window, tags: Tags) -> pa.Table:
    """The rows of a window with their tags in the column `labels`."""
    table = as_table(window, ("labels",))
    return table.append_column("labels", pa.array(tags, pa.list_(TAG)))


def one_row_a_tag(window: Window, tags: Tags, labels: LabelColumns) -> pa.Table:
    """The rows of a window, each as often as it has tags."""
    uri = labels.uris is not None or labels.uid_is_uri
    columns = {name: kind for name, kind in TAG_COLUMNS.items() if uri or name != "uri"}
    table = as_table(window, columns).take(pa.array([row for row, its in enumerate(tags) for _ in its], pa.int64()))
    flat = [{"rank": rank, **labels.with_uri(tag)} for its in tags for rank, tag in enumerate(its, start=1)]
    for name, kind in columns.items():
        table = table.append_column(name, pa.array([tag.get(name) for tag in flat], kind))
    return table


def as_table(window: Window, ours: Sequence[str] | Mapping[str, Any]) -> pa.Table:
    table = window.rows if isinstance(window.rows, pa.Table) else pa.Table.from_pylist(window.rows)
    return table.rename_columns(own_names(table.column_names, ours))


def changed_type(error: Exception) -> DataError:
    return DataError(f"a column changes its type ({error!s:.200})", hint="write .jsonl, which takes every type")


def merge(parts: Sequence[Path], target: TagFile, labels: LabelColumns, found: Summary, temporary: Path) -> str:
    """Write all parts into one file, in their order.

    Returns:
        What the user may want to know, or nothing.

    Raises:
        DataError: columns of the parts do not fit together.
    """
    if target.suffix == ".parquet":
        merge_parquet(parts, temporary)
    elif target.suffix == ".jsonl":
        with temporary.open("wb") as file:
            for path in parts:
                with path.open("rb") as part:
                    shutil.copyfileobj(part, file)
    else:
        try:
            write_table(parts, target, labels, found, temporary)
        except UnicodeEncodeError:
            encoding = target.dialect.encoding
            dialect = replace(target.dialect, encoding="utf-8-sig")
            write_table(parts, replace(target, dialect=dialect), labels, found, temporary)
            return f"{target.path.name} is UTF-8: {encoding} lacks a letter of the labels"
    return ""


def merge_parquet(paths: Sequence[Path], target: Path) -> None:
    """The rows and columns of all parts; a column that is null or missing in one has the type that others give it."""
    try:
        schema = pa.unify_schemas([pq.read_schema(path) for path in paths])
    except pa.ArrowException as error:
        raise changed_type(error) from error
    with pq.ParquetWriter(target, schema) as writer:
        for path in paths:
            writer.write_table(
                pa.concat_tables([schema.empty_table(), pq.read_table(path)], promote_options="default")
            )


def write_table(parts: Sequence[Path], target: TagFile, labels: LabelColumns, found: Summary, path: Path) -> None:
    """Write the parts of a `.csv`, `.tsv` or `.xlsx` file."""
    if target.rows == "tags":
        ours = labels.long()
    else:
        ours = [f"{name}_{place}" for place in range(1, max(found.most, 1) + 1) for name in labels.flat()]
    own = own_names(found.columns, ours)
    open_table: Any = open_sheet if target.suffix == ".xlsx" else open_cells
    with open_table(path, target, [*own, *ours]) as sheet:
        for part in parts:
            for _, record in json_lines(part, Problems()):
                given = [sheet.own(record["row"].get(name)) for name in found.columns]
                if target.rows == "texts":
                    cells = [sheet.ours(tag[name]) for tag in record["tags"] for name in labels.flat()]
                    sheet.write([*given, *cells, *[""] * (len(ours) - len(cells))])
                    continue
                for rank, tag in enumerate(record["tags"], start=1):
                    full = {"rank": rank, **tag}
                    sheet.write([*given, *(sheet.ours(full[name]) for name in ours)])


@dataclass(frozen=True)
class Cells:
    """Writes the rows of a `.csv` or `.tsv` file."""

    writer: Any
    target: TagFile

    def own(self, value: Any) -> str:
        """A cell of the input."""
        text = as_text(value)
        return text if self.target.same_cells else harmless(text)

    def ours(self, value: Any) -> str:
        """A cell that is added."""
        if isinstance(value, float):
            return f"{value:.4f}".replace(".", self.target.dialect.decimal)
        return harmless(as_text(value))

    def write(self, cells: Sequence[str]) -> None:
        self.writer.writerow(cells)


@dataclass(frozen=True)
class Sheet:
    """Writes the rows of a `.xlsx` file."""

    writer: SpreadsheetWriter
    target: TagFile

    def own(self, value: Any) -> Any:
        """A cell of the input. A `.xlsx` file is read as text; what was a number there is one again."""
        if self.target.same_cells and isinstance(value, str) and len(value) <= 15:
            return as_number(value)
        return value if isinstance(value, bool | int | float | None) else as_text(value)

    def ours(self, value: Any) -> Any:
        """A cell that is added."""
        return round(value, 4) if isinstance(value, float) else value

    def write(self, cells: Sequence[Any]) -> None:
        self.writer.write(cells)


@contextmanager
def open_cells(path: Path, target: TagFile, header: Sequence[str]) -> Iterator[Cells]:
    dialect = target.dialect
    with path.open("w", encoding=dialect.encoding, newline="") as file:
        writer = cell_writer(file, dialect)
        writer.writerow(header if target.same_cells else map(harmless, header))
        yield Cells(writer, target)


def cell_writer(file: IO[str], dialect: Dialect) -> Any:
    quoting: Any = csv.QUOTE_ALL if dialect.quote_all else csv.QUOTE_MINIMAL
    return csv.writer(file, delimiter=dialect.delimiter, lineterminator=dialect.line_end, quoting=quoting)


@contextmanager
def open_sheet(path: Path, target: TagFile, header: Sequence[str]) -> Iterator[Sheet]:
    if len(header) > MOST_COLUMNS:
        hint = "write a row for each label with --rows tags, or .csv"
        raise DataError(
            f"a sheet has at most {MOST_COLUMNS:,} columns, and these are {len(header):,}", path, hint=hint
        )
    with SpreadsheetWriter(path, header) as writer:
        yield Sheet(writer, target)


def as_text(value: Any) -> str:
    """A value in a cell: lists are joined, objects are JSON.

    >>> as_text(None), as_text(["red", 2]), as_text({"a": 1}), as_text(7)
    ('', 'red; 2', '{"a": 1}', '7')
    """
    if value is None:
        return ""
    if isinstance(value, list) and not any(isinstance(item, list | dict) for item in value):
        return "; ".join(map(as_text, value))
    return json.dumps(value, ensure_ascii=False, default=str) if isinstance(value, list | dict) else str(value)


def harmless(text: str) -> str:
    """A text that a spreadsheet program does not run as a formula; numbers stay as they are.

    >>> harmless("=1+1"), harmless("-3.5"), harmless("a = b"), harmless("@home")
    ("'=1+1", '-3.5', 'a = b', "'@home")
    """
    if not text.startswith(FORMULA):
        return text
    try:
        float(text.replace(",", "."))
    except ValueError:
        return f"'{text}"
    return text


def as_number(text: str) -> str | int | float:
    """A number in the form in which numbers are read from a spreadsheet; any other text as it is.

    >>> as_number("7"), as_number("0.25"), as_number("007"), as_number("1e5"), as_number("nan")
    (7, 0.25, '007', '1e5', 'nan')
    """
    for kind in (int, float):
        try:
            number: int | float = kind(text)
        except ValueError:
            continue
        if str(number) == text and abs(number) < WHOLE:
            return number
    return text
