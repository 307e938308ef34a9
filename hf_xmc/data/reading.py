"""How a row of a table became a text: remembered with a data set and a trained folder, so that rows of the same shape
are read again without options."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_xmc.data.templates import Template, as_sentences
from hf_xmc.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset


NO_VALUE = frozenset({"nan", "NaN", "<NA>", "NaT"})  # what pandas and numpy print for an empty cell

BUDGET = re.compile(r"(.+):(\d{1,9}|rest)")  # a column, and how many words of it are read
WORD = re.compile(r"\S+")


@dataclass(frozen=True)
class Reading:
    """The columns of a table, and what was read from them.

    Args:
        text: columns that make up the text, in this order. One column is the text as it is; several are joined as
            sentences ("title. abstract"), with empty ones left out.
        template: how the text is composed instead, as in `"{title}: {abstract}"`; `text` then names its fields.
        labels: columns with labels, if they came from columns.
        separator: separator of the labels in one cell; None for one label a cell, or for lists.
        uid: the column that identifies a row; empty for none.
        language: language of the label texts, as in `"en"`; empty for any.
        words: of each text column, that are read of a row, at most; 0 for all. Empty for all of every column.

    >>> reading = Reading(("title", "abstract"), labels=("subjects",), separator=";")
    >>> reading.text_of({"Title": "Dune", "abstract": "A planet of sand.", "year": 1965})
    'Dune. A planet of sand.'
    >>> Reading.from_json(reading.to_json()) == reading
    True
    """

    text: tuple[str, ...] = ("text",)
    template: str = ""
    labels: tuple[str, ...] = ()
    separator: str | None = None
    uid: str = ""
    language: str = ""
    words: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not self.text:
            raise DataError("a reading names no text column", hint="give at least one")
        if self.words and len(self.words) != len(self.text):
            raise DataError(
                f"a reading has {len(self.words)} numbers of words for {len(self.text)} columns",
                hint="give one for each",
            )

    def __str__(self) -> str:
        if self.template:
            return f"text from the template {self.template!r}"
        most = self.words or (0,) * len(self.text)
        shown = [repr(name) + f" (first {n} words)" * bool(n) for name, n in zip(self.text, most, strict=True)]
        return f"text in {' + '.join(shown)}"

    def is_in(self, columns: Iterable[str]) -> bool:
        """Whether rows with these columns have a text: one of its columns is enough."""
        return bool(places(self.text, tuple(columns)))

    def text_of(self, row: Mapping[str, Any], path: str | Path | None = None, line: int | None = None) -> str:
        """The text of one row.

        Columns are found in any spelling: `Title` for `title`, `Résumé` for `resume`.

        Args:
            path, line: where the row stands, for errors.

        Raises:
            DataError: the row has none of the columns, or the only one is empty or not a string.
        """
        found = places(self.text, tuple(row))
        if not found:
            wanted = " or ".join(map(repr, self.text))
            raise DataError(f"no column {wanted}", path, line, f"the row has {', '.join(map(str, row))[:200]}")
        if self.template:
            by_name = {name: row[column] for name, column in found.items()}
            return filler(self.template).fill(by_name)
        if len(self.text) == 1:
            value = row[found[self.text[0]]]
            if not isinstance(value, str):
                raise DataError(f'"{self.text[0]}" is {value!r:.60}', path, line, "it must be a string")
            return "" if value.strip() in NO_VALUE else first_words(value, self.words[0] if self.words else 0)
        most = dict(zip(self.text, self.words, strict=True)) if self.words else {}
        values = [(row[column], most.get(name, 0)) for name, column in found.items()]
        found_texts = ["" if value is None else first_words(str(value), words) for value, words in values]
        return as_sentences(["" if text.strip() in NO_VALUE else text for text in found_texts])

    def texts_of(self, table: Dataset | pa.Table | Iterable[Mapping[str, Any]]) -> list[str]:
        """The texts of a table, `[N]`: a `Dataset`, an Arrow table, or rows as dicts.

        Raises:
            DataError: as `text_of`; the message names the row, counted from 1.
        """
        rows: Any = table
        if hasattr(rows, "column_names"):
            names = [*places(self.text, tuple(rows.column_names)).values()]
            if not names:
                self.text_of(dict.fromkeys(rows.column_names))
            columns = [values.to_pylist() if hasattr(values := rows[name], "to_pylist") else values for name in names]
            rows = (dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True))
        texts = []
        for number, row in enumerate(rows, start=1):
            try:
                texts.append(self.text_of(row))
            except DataError as error:
                raise DataError(f"row {number}: {error}") from error
        return texts

    def in_language(self, language: str) -> Reading:
        """The same with another language of the label texts."""
        return replace(self, language=language)

    def to_json(self) -> dict[str, Any]:
        """As in `run.json` and `dataset.json`: what differs from the defaults, the text columns always."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        usual = {field.name: field.default for field in fields(self)}
        kept = {name: value for name, value in values.items() if name == "text" or value != usual[name]}
        return {name: [*value] if isinstance(value, tuple) else value for name, value in kept.items()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any] | None) -> Reading | None:
        """The inverse; None if there is nothing.

        Raises:
            DataError: values of another kind.
        """
        if not values:
            return None
        known = {field.name for field in fields(cls)}
        given: dict[str, Any] = {
            name: tuple(v) if isinstance(v, list) else v for name, v in values.items() if name in known
        }
        for name in ("text", "labels"):
            if isinstance(given.get(name), str):
                given[name] = (given[name],)
        if not all(type(number) is int and number >= 0 for number in given.get("words", ())):
            raise DataError(f'"reading" is {values!r:.120}', hint="words are whole numbers, 0 or more")
        texts = [*given.get("text", ()), *given.get("labels", ())]
        rest = [given.get(name, "") for name in ("template", "uid", "language")] + [given.get("separator") or ""]
        if not all(isinstance(value, str) for value in (*texts, *rest)):
            raise DataError(f'"reading" is {values!r:.120}', hint="expected names of columns")
        return cls(**given)


def parse_columns(given: str | Sequence[str], columns: Iterable[str]) -> tuple[list[str], tuple[int, ...]]:
    """The names of text columns, and how many words of each are read: `title:32,abstract:128,body`.

    A column that has a colon in its name is that column.

    Args:
        given: separated by commas, or one after another.
        columns: that the table has.

    Raises:
        DataError: a number of words that is 0.

    >>> parse_columns("title:32, abstract:128, body:rest", []), parse_columns("title,body", [])
    ((['title', 'abstract', 'body'], (32, 128, 0)), (['title', 'body'], ()))
    >>> parse_columns("dc:1,body", ["dc:1", "body"])
    (['dc:1', 'body'], ())
    """
    known = {*columns}
    parts = [given] if given in known else given.split(",") if isinstance(given, str) else given
    names, words = list[str](), list[int]()
    for part in filter(None, map(str.strip, parts)):
        found = None if part in known else BUDGET.fullmatch(part)
        names.append(part if found is None else found[1].strip())
        words.append(0 if found is None or found[2] == "rest" else int(found[2]))
        if found is not None and found[2] != "rest" and not words[-1]:
            raise DataError(f"{part!r} reads no words of the column", hint="write it like title:32, or title alone")
    return names, tuple(words) if any(words) else ()


def first_words(text: str, most: int) -> str:
    """The first words of a text; all of it if `most` is 0.

    >>> first_words("a red  car here", 3), first_words("a red car", 0)
    ('a red  car', 'a red car')
    """
    if not most:
        return text
    end = next(islice(WORD.finditer(text), most - 1, None), None)
    return text if end is None else text[: end.end()]


@lru_cache(maxsize=64)
def filler(template: str) -> Template:
    """A template, parsed once."""
    return Template(template)


@lru_cache(maxsize=256)
def places(wanted: tuple[str, ...], columns: tuple[str, ...]) -> dict[str, str]:
    """Wanted column -> the column of the table that it is, for those that the table has."""
    plain = {plain_name(column): column for column in reversed(columns)}
    found = {name: name if name in columns else plain.get(plain_name(name)) for name in wanted}
    return {name: column for name, column in found.items() if column is not None}


def plain_name(name: str) -> str:
    """The name of a column without case, accents and separators, so that spellings of it are equal.

    >>> plain_name("Mots-clés"), plain_name("Subject URIs"), plain_name("SCHLAGWÖRTER")
    ('mots_cles', 'subject_uris', 'schlagworter')
    """
    letters = unicodedata.normalize("NFKD", str(name).casefold())
    letters = "".join(letter for letter in letters if not unicodedata.combining(letter))
    return re.sub(r"[\W_]+", "_", letters).strip("_") or str(name)
