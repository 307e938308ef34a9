"""The label table as people read it: names apart from definitions, a hierarchy to browse, and a search by words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hf_xmc.data.arrow import as_rows
from hf_xmc.retrieval.catalogue import Catalogue
from hf_xmc.retrieval.label_kinds import NAMES, SYNONYM
from hf_xmc.retrieval.label_texts import are_joined, split_text

DEFINITIONS = ("description", "definition", "scope_note", "note")  # columns that say what a label means
URIS = ("uri", "url", "iri")
NOTATIONS = ("notation", "code")
SAMPLE = 1000  # labels that show whether texts are made of name and definition
KEPT = 20_000  # labels whose cards are kept
MARKS = r"\p{Mn}+"


@dataclass(frozen=True)
class Named:
    """A label in a list: uid and name."""

    uid: str
    name: str


@dataclass(frozen=True)
class Label:
    """A label as people read it.

    Args:
        uid, id: the label, and its row in the label table.
        name: without its definition.
        definition: what it means; empty if the label table does not say so.
        other_names: synonyms.
        uri: its address, if it has one.
        notation: its code in the vocabulary, if it has one.
        parents, children: broader and narrower labels. A parent that is no label of the table has its uid as name.
        num_children: of all children, of which `children` lists the first.
        num_examples: training texts that have the label; None if that is not known.
        own: whether it was added in this session.
        texts: its texts of other kinds, kind -> texts: descriptors, examples, names of parents that are searched.
    """

    uid: str
    id: int
    name: str
    definition: str = ""
    other_names: tuple[str, ...] = ()
    uri: str | None = None
    notation: str | None = None
    parents: tuple[Named, ...] = ()
    children: tuple[Named, ...] = ()
    num_children: int = 0
    num_examples: int | None = None
    own: bool = False
    texts: dict[str, list[str]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """As plain values, ready for JSON."""
        return asdict(self)


class Vocabulary:
    """The labels of a catalogue, without those that were removed. It is cheap to make: what a question needs is
    prepared when it is first asked.

    A vocabulary describes the table at one moment; make another one when labels have changed.

    Args:
        catalogue: the label table.
        shared: a vocabulary of the first rows of the table, as it was before labels were added or removed. Only the
            rows below these are then read.
        session: whether the rows below those of `shared` are a session's own.

    >>> labels = pa.table({"uid": ["a", "b"], "text": ["Fish", "Sea fish"], "parents": [[], ["a"]]})
    >>> vocabulary = Vocabulary(Catalogue(labels))
    >>> [label.name for label in vocabulary.search("sea")[1]], vocabulary.label(0).children
    (['Sea fish'], (Named(uid='b', name='Sea fish'),))
    """

    def __init__(self, catalogue: Catalogue, shared: Vocabulary | None = None, session: bool = False) -> None:
        self.arrow, self.removed = catalogue.arrow, frozenset(catalogue.removed)
        self.shared, self.session = shared, session
        self.first = 0 if shared is None else len(shared.arrow)
        self.own = self.arrow.slice(self.first)
        columns = self.arrow.column_names
        self.columns = {
            kind: next((name for name in names if name in columns), None)
            for kind, names in (("definition", DEFINITIONS), ("uri", URIS), ("notation", NOTATIONS))
        }
        first = self.arrow["text"].slice(0, SAMPLE)
        self.kept: dict[int, Label] = {}
        self.joined: bool = shared.joined if shared is not None else are_joined(first.to_pylist())

    def __len__(self) -> int:
        """Number of labels, without removed ones."""
        return len(self.arrow) - len(self.removed)

    def row(self, uid: str) -> int | None:
        """The row of a label; None if there is none."""
        row = self.rows.get(uid)
        if row is None and self.shared is not None:
            row = self.shared.row(uid)
        return None if row in self.removed else row

    @cached_property
    def rows(self) -> dict[str, int]:
        """The row of each uid, of this vocabulary's own rows."""
        uids = enumerate(self.own["uid"].to_pylist(), self.first)
        return {uid: row for row, uid in uids if row not in self.removed}

    def label(self, row: int, children: int = 100) -> Label:
        """The label of a row, with at most so many of its children."""
        return self.labels([row], children)[0]

    def cards(self, rows: Sequence[int]) -> list[Label]:
        """The labels of some rows without their children. They are kept, since the same labels are found again."""
        if self.shared is not None and (below := [row for row in rows if row < self.first]):
            self.kept.update(zip(below, self.shared.cards(below), strict=True))
        kept = self.kept
        if missing := [row for row in dict.fromkeys(rows) if row not in kept]:
            if len(kept) > KEPT:
                kept = self.kept = {row: kept[row] for row in rows if row in kept}
            kept.update(zip(missing, self.labels(missing), strict=True))
        return [kept[row] for row in rows]

    def labels(self, rows: Sequence[int], children: int = 0) -> list[Label]:
        """The labels of some rows, in their order."""
        records = self.arrow.take(as_rows(np.asarray(rows, np.int64))).to_pylist()
        return [self.described(row, record, children) for row, record in zip(rows, records, strict=True)]

    def described(self, row: int, record: dict[str, Any], children: int) -> Label:
        name, definition = self.split(row, record)
        uid, below = record["uid"], self.below(record["uid"])
        given = {kind: record.get(column) for kind, column in self.columns.items() if column is not None}
        uri = given.get("uri") or (uid if uid.startswith(("http://", "https://")) else None)
        return Label(
            uid=uid,
            id=row,
            name=name,
            definition=definition,
            other_names=tuple(other for other in names_in(record) if other not in (record["text"], name)),
            texts=texts_in(record),
            uri=None if uri is None else str(uri),
            notation=None if given.get("notation") is None else str(given["notation"]),
            parents=tuple(self.named(parent) for parent in record.get("parents") or ()),
            children=tuple(self.names(below[:children])),
            num_children=len(below),
            own=self.session and row >= self.first,
        )

    def split(self, row: int, record: dict[str, Any]) -> tuple[str, str]:
        """Name and definition of the record of a label."""
        column = self.columns["definition"]
        description = record.get(column) if column is not None else None
        added = self.shared is not None and row >= self.first  # by `join_text`, whatever the other texts are like
        return split_text(record["text"], description, self.joined or added)

    def named(self, uid: str) -> Named:
        """A label by its uid, with its name if the table has it."""
        row = self.row(uid)
        return Named(uid, uid) if row is None else self.names([row])[0]

    def names(self, rows: Sequence[int]) -> list[Named]:
        """Uid and name of some rows."""
        if not len(rows):
            return []
        wanted = [name for name in ("uid", "text", self.columns["definition"]) if name is not None]
        records = self.arrow.select(wanted).take(as_rows(np.asarray(rows, np.int64))).to_pylist()
        return [Named(record["uid"], self.split(row, record)[0]) for row, record in zip(rows, records, strict=True)]

    @property
    def has_hierarchy(self) -> bool:
        """Whether a label has a parent that is a label."""
        return bool(self.children_of) or (self.shared is not None and self.shared.has_hierarchy)

    @cached_property
    def children_of(self) -> dict[str, list[int]]:
        """The rows of the narrower labels of each uid, of this vocabulary's own rows."""
        found: dict[str, list[int]] = {}
        for row, parents in self.parents():
            for parent in parents:
                if self.row(parent) is not None:
                    found.setdefault(parent, []).append(row)
        return found

    def parents(self) -> Iterator[tuple[int, list[str]]]:
        """Each own row that is not removed, with the uids of its parents."""
        if "parents" in self.own.column_names:
            for row, parents in enumerate(self.own["parents"].to_pylist(), self.first):
                if row not in self.removed:
                    yield row, parents or []

    def below(self, uid: str) -> list[int]:
        """The rows of the narrower labels of a label."""
        shared = [] if self.shared is None else self.shared.below(uid)
        return [row for row in (*shared, *self.children_of.get(uid, ())) if row not in self.removed]

    @cached_property
    def top(self) -> list[int]:
        """The rows of labels without a broader label; of all labels if there is no hierarchy."""
        own = [row for row, parents in self.parents() if all(self.row(its) is None for its in parents)]
        if "parents" not in self.own.column_names:
            own = [*self.rows.values()]
        return own if self.shared is None else [row for row in (*self.shared.top, *own) if row not in self.removed]

    def search(self, words: str, limit: int = 20, offset: int = 0) -> tuple[int, list[Label]]:
        """How many labels have all the words in their uid, name or other names, and some of them: labels of exactly
        this name first, then those whose name begins with the words, then the shorter ones. Case and accents do not
        matter."""
        rows = self.found(words)
        return len(rows), self.labels(rows[offset : offset + limit])

    def found(self, words: str) -> list[int]:
        """The rows of `search`."""
        [plain] = folded(pa.array([" ".join(words.split())])).to_pylist()
        if not plain:
            return [row for row in range(len(self.arrow)) if row not in self.removed]
        names, whole = self.searched
        mask = np.ones(len(names), bool)
        for word in plain.split():
            mask &= np.asarray(pc.match_substring(whole, word).to_numpy(zero_copy_only=False), bool)
        own = (np.flatnonzero(mask) + self.first).tolist()
        below = [] if self.shared is None else self.shared.found(words)
        rows = [row for row in (*below, *own) if row not in self.removed]
        keys = {row: name for row, name in zip(rows, self.plain_names(rows), strict=True)}
        return sorted(rows, key=lambda row: (keys[row] != plain, not keys[row].startswith(plain), len(keys[row])))

    def plain_names(self, rows: Sequence[int]) -> list[str]:
        """The names of some rows as they are compared."""
        below = [row for row in rows if row < self.first]
        found = {} if self.shared is None else dict(zip(below, self.shared.plain_names(below), strict=True))
        own = [row for row in rows if row >= self.first]
        taken = self.searched[0].take(as_rows(np.asarray(own, np.int64) - self.first)).to_pylist()
        found.update(zip(own, taken, strict=True))
        return [found[row] for row in rows]

    @cached_property
    def searched(self) -> tuple[pa.Array, pa.Array]:
        """Of each own row the name, and everything that is searched, without case and accents."""
        names, whole = [], []
        columns = [
            name for name in ("uid", "text", "texts", "kinds", *self.columns.values()) if name in self.own.column_names
        ]
        for row, record in enumerate(self.own.select(list(dict.fromkeys(columns))).to_pylist(), self.first):
            name, _ = self.split(row, record)
            names.append(name)
            notation = record.get(self.columns["notation"] or "") or ""
            whole.append(" ".join([record["uid"], name, str(notation), *names_in(record)]))
        return folded(pa.array(names, pa.string())), folded(pa.array(whole, pa.string()))


def names_in(record: Mapping[str, Any]) -> list[str]:
    """The other names in the record of a label."""
    texts = record.get("texts") or []
    kinds = record.get("kinds") or [SYNONYM] * len(texts)
    return [text for text, kind in zip(texts, kinds, strict=True) if kind in NAMES]


def texts_in(record: Mapping[str, Any]) -> dict[str, list[str]]:
    """The texts in the record of a label that are no names, by kind."""
    found: dict[str, list[str]] = {}
    for text, kind in zip(record.get("texts") or (), record.get("kinds") or (), strict=False):
        if kind not in NAMES:
            found.setdefault(kind, []).append(text)
    return found


def folded(texts: pa.Array) -> pa.Array:
    """Texts without case and accents.

    >>> folded(pa.array(["Économie"])).to_pylist()
    ['economie']
    """
    apart = pc.utf8_normalize(texts, form="NFKD")
    return pc.utf8_lower(pc.replace_substring_regex(apart, pattern=MARKS, replacement=""))
