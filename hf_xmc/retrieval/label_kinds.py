"""The texts of labels by kind: names, synonyms, definitions, parents' names, descriptors, examples.

In a label table `text` is the name, `texts` lists the other texts of a label, and `kinds` says for each of them what
it is. In a table without `kinds` all of `texts` are synonyms.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from hf_xmc.errors import DataError
from hf_xmc.retrieval.label_texts import are_joined, split_text

if TYPE_CHECKING:
    from datasets import Dataset

NAME, SYNONYM, DEFINITION, PARENT = "name", "synonym", "definition", "parent"
KINDS = (NAME, SYNONYM, "hidden", DEFINITION, PARENT, "descriptor", "example")
NAMES = (NAME, SYNONYM, "hidden")  # what a label is called, in contrast to what it means
SAMPLE = 1000  # labels that show whether texts are made of name and definition


@dataclass(frozen=True)
class LabelTexts:
    """All texts of some labels, those of a label one after another, the name first and none twice.

    Args:
        labels: the label of each text, int64 `[M]`.
        texts: `[M]`.
        kinds: of each text, `[M]`.
    """

    labels: np.ndarray
    texts: list[str]
    kinds: list[str]

    @classmethod
    def of(cls, table: Dataset | pa.Table) -> LabelTexts:
        """The texts of a label table.

        Raises:
            DataError: an unknown kind, or kinds that do not match the texts of a label.

        >>> table = pa.table({"uid": ["a"], "text": ["car"], "texts": [["auto", "car", "on wheels"]]})
        >>> table = table.append_column("kinds", [[["synonym", "synonym", "definition"]]])
        >>> LabelTexts.of(table).texts, LabelTexts.of(table).kinds
        (['car', 'auto', 'on wheels'], ['name', 'synonym', 'definition'])
        """
        labels: list[int] = []
        texts: list[str] = []
        kinds: list[str] = []
        for row, its in enumerate(rows_of_texts(table)):
            own: dict[str, str] = {}
            for text, kind in its:
                own.setdefault(text, kind)
            labels += [row] * len(own)
            texts += own
            kinds += own.values()
        return cls(np.array(labels, np.int64), texts, kinds)

    def __len__(self) -> int:
        """Number of texts."""
        return len(self.texts)

    def take(self, mask: np.ndarray) -> LabelTexts:
        """Some of the texts, bool `[M]`."""
        rows = np.flatnonzero(mask).tolist()
        return LabelTexts(self.labels[mask], [self.texts[row] for row in rows], [self.kinds[row] for row in rows])


def rows_of_texts(table: Dataset | pa.Table) -> Iterator[list[tuple[str, str]]]:
    """Text and kind of each text of each label, the name first."""
    columns = columns_of(table, ("text", "texts", "kinds"))
    nothing: list[Any] = [None] * len(columns["text"])
    others = zip(columns.get("texts", nothing), columns.get("kinds", nothing), strict=True)
    for row, (name, (texts, kinds)) in enumerate(zip(columns["text"], others, strict=True)):
        texts = texts or []
        kinds = [SYNONYM] * len(texts) if kinds is None else kinds
        check_kinds(texts, kinds, f"row {row} of the label table ({name!r:.60})")
        yield [(name, NAME), *zip(texts, kinds, strict=True)]


def check_kinds(texts: Sequence[str], kinds: Sequence[str], where: str) -> None:
    """Raise a DataError if there is not one known kind per text."""
    if len(texts) != len(kinds):
        raise DataError(f"{len(texts)} texts and {len(kinds)} kinds in {where}", hint="give each text a kind")
    if unknown := [kind for kind in kinds if kind not in KINDS]:
        raise DataError(f"the kind {unknown[0]!r:.60} in {where}", hint=f"expected one of {', '.join(KINDS)}")


def other_names(table: Dataset | pa.Table) -> list[list[str]]:
    """Of each label its text and its other names, without texts of kinds that are no names.

    >>> kinds = [["synonym", "descriptor"]]
    >>> other_names(pa.table({"text": ["car"], "texts": [["auto", "has wheels"]], "kinds": kinds}))
    [['car', 'auto']]
    """
    return [[text for text, kind in its if kind in NAMES] for its in rows_of_texts(table)]


def gather_texts(table: Dataset | pa.Table, others: Mapping[str, str] | None = None) -> pa.Table:
    """The label table with everything that it says of a label in `texts` and `kinds`: other names, the definition
    (column `description`, or what follows the name in a text such as `Alchemy: Making gold.`), and the names of its
    parents (column `parents`).

    Args:
        others: uid -> name of labels outside the table that parents may be.

    >>> table = pa.table({"uid": ["a", "b"], "text": ["Sea", "Bay"], "parents": [[], ["a"]]})
    >>> gather_texts(table).select(["texts", "kinds"]).to_pylist()[1]
    {'texts': ['Sea'], 'kinds': ['parent']}
    """
    arrow = table if isinstance(table, pa.Table) else table.with_format("arrow")[:]
    columns = columns_of(arrow, ("uid", "text", "description", "parents"))
    nothing: list[Any] = [None] * len(arrow)
    joined = are_joined(columns["text"][:SAMPLE])
    given = zip(columns["text"], columns.get("description", nothing), strict=True)
    parts = [split_text(text, description, joined) for text, description in given]
    names = {**(others or {}), **dict(zip(columns["uid"], (name for name, _ in parts), strict=True))}
    texts, kinds = [], []
    above = columns.get("parents", nothing)
    for own, (name, definition), parents in zip(rows_of_texts(arrow), parts, above, strict=True):
        found = dict(own[1:])
        more = [(name, SYNONYM), (definition, DEFINITION), *((names.get(uid, ""), PARENT) for uid in parents or ())]
        for text, kind in more:
            if text and text != own[0][0]:
                found.setdefault(text, kind)
        texts.append([*found])
        kinds.append([*found.values()])
    return with_texts(arrow, texts, kinds)


def count_texts(table: Dataset | pa.Table) -> int:
    """The number of texts of all labels, their names included."""
    return sum(len({text for text, _ in its}) for its in rows_of_texts(table))


def with_texts(arrow: pa.Table, texts: Sequence[Sequence[str]], kinds: Sequence[Sequence[str]]) -> pa.Table:
    """A label table with other `texts` and their `kinds`, `[L]` lists each."""
    for name, values in (("texts", texts), ("kinds", kinds)):
        column = pa.chunked_array([pa.array(values, pa.list_(pa.string()))])
        place = arrow.column_names.index(name) if name in arrow.column_names else None
        arrow = arrow.append_column(name, column) if place is None else arrow.set_column(place, name, column)
    return arrow.replace_schema_metadata(None)


def with_columns_of_texts(arrow: pa.Table) -> pa.Table:
    """A label table that has the columns `texts` and `kinds`, as it is or with what they say by default."""
    if {"texts", "kinds"} <= {*arrow.column_names}:
        return arrow
    others = [its[1:] for its in rows_of_texts(arrow)]
    return with_texts(
        arrow, [[text for text, _ in its] for its in others], [[kind for _, kind in its] for its in others]
    )


def by_kind(texts: Mapping[str, str | Sequence[str]]) -> tuple[list[str], list[str]]:
    """Texts that are given by kind as texts and kinds, the name first.

    >>> by_kind({"descriptor": ["has wheels"], "name": "car"})
    (['car', 'has wheels'], ['name', 'descriptor'])
    """
    found, kinds = [], []
    for kind in sorted(texts, key=lambda kind: kind != NAME):
        its = texts[kind]
        for text in [its] if isinstance(its, str) else its:
            found.append(text)
            kinds.append(kind)
    check_kinds(found, kinds, "the new texts")
    return found, kinds


def columns_of(table: Dataset | pa.Table, names: Sequence[str]) -> dict[str, list[Any]]:
    """Some columns as lists, those that the table has."""
    present = [name for name in names if name in table.column_names]
    return table.select(present).to_pydict() if isinstance(table, pa.Table) else table.select_columns(present)[:]
