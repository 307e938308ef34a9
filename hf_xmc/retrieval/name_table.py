"""The names of all labels as a table of hashes, and where they stand in texts."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING
from zlib import crc32

import numpy as np
import pyarrow as pa

from hf_xmc.retrieval.label_kinds import other_names
from hf_xmc.retrieval.words import Stems, WordRows

if TYPE_CHECKING:
    from datasets import Dataset

MAX_WORDS = 5  # longer names are not looked for
TEXT, OTHER, PART = 0, 1, 2  # kinds of names: the label's text, one of its other names, a part of one of both
CUT = re.compile(r"\s*(?:: |\(|\s[-\u2013\u2014]\s|\n)")  # what follows is a definition or a qualifier
MIX = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class Names:
    """Names of labels, sorted by hash; a name of several labels has a row for each of them.

    Args:
        keys: hash of the stemmed words, uint64 `[E]`.
        labels: int64 `[E]`.
        kinds: `TEXT`, `OTHER` or `PART`, uint8 `[E]`.
        words: words of the name, uint8 `[E]`.
        characters: of the name, uint8 `[E]`, at most 255.
    """

    keys: np.ndarray
    labels: np.ndarray
    kinds: np.ndarray
    words: np.ndarray
    characters: np.ndarray

    @classmethod
    def of(cls, labels: Sequence[int], texts: Sequence[Sequence[str]], stems: Stems) -> Names:
        """The names of some labels.

        Args:
            labels: ids.
            texts: of each label its text and its other names.

        >>> names = Names.of([3, 4], [["Sea fishing"], ["Boat (a small ship)", "Boats"]], Stems("en"))
        >>> sorted(zip(names.labels.tolist(), names.words.tolist(), names.kinds.tolist()))
        [(3, 2, 0), (4, 1, 1), (4, 4, 0)]
        """
        found = [
            (label, kind, name)
            for label, its in zip(labels, texts, strict=True)
            for place, text in enumerate(its)
            for kind, name in names_in(text, TEXT if not place else OTHER)
        ]
        rows = stems([name for _, _, name in found])
        words = np.diff(rows.indptr)
        fits = np.flatnonzero((words > 0) & (words <= MAX_WORDS))
        keys = np.zeros(len(found), np.uint64)
        for n in np.unique(words[fits]).tolist():
            these = fits[words[fits] == n]
            keys[these] = window_keys(rows.numbers, rows.indptr[these], n)
        columns = [np.array([one[i] for one in found], np.int64) for i in (0, 1)]
        characters = np.array([min(len(name), 255) for _, _, name in found], np.int64)
        order = fits[np.lexsort((columns[1][fits], columns[0][fits], keys[fits]))]
        keys, label, kind = keys[order], columns[0][order], columns[1][order]
        first = np.ones(len(order), bool)  # two spellings of a label may have the same stems
        first[1:] = (keys[1:] != keys[:-1]) | (label[1:] != label[:-1])
        order = order[first]
        return cls(
            keys[first],
            label[first],
            kind[first].astype(np.uint8),
            words[order].astype(np.uint8),
            characters[order].astype(np.uint8),
        )

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.keys)

    def keep(self, rows: np.ndarray) -> Names:
        """Some of the rows (a mask, or positions in rising order)."""
        return Names(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))

    def merged(self, others: Names) -> tuple[Names, np.ndarray]:
        """These names and those of other labels, and for each row where it comes from: its row in `self`, or -1."""
        both = [np.concatenate([getattr(self, n), getattr(others, n)]) for n in self.__dataclass_fields__]
        order = np.lexsort((both[1], both[0]))
        source = np.concatenate([np.arange(len(self)), np.full(len(others), -1)])
        return Names(*(column[order] for column in both)), source[order]


@dataclass(frozen=True)
class Hits:
    """Where names stand in texts.

    Args:
        rows: the text, int64 `[H]`.
        places: the first word of the name, counted from the start of its text, int64 `[H]`.
        words: how many words it has, int64 `[H]`.
        names: its position among the distinct names (`distinct`), int64 `[H]`.
    """

    rows: np.ndarray
    places: np.ndarray
    words: np.ndarray
    names: np.ndarray


def find_names(texts: WordRows, keys: np.ndarray, lengths: Iterable[int]) -> Hits:
    """All longest names in texts: a name inside a longer one does not count. The time is linear in the words.

    Args:
        keys: hashes of the distinct names, sorted, uint64 `[U]`.
        lengths: numbers of words that names have.
    """
    rows, total = texts.rows, len(texts.numbers)
    ends = texts.indptr[1:][rows] if total else np.zeros(0, np.int64)
    reach = np.zeros(total, np.int64)  # where the longest name so far ends that starts here or before
    parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for n in sorted(set(lengths), reverse=True):
        starts = np.flatnonzero(np.arange(total) + n <= ends)
        if not len(starts) or not len(keys):
            continue
        wanted = window_keys(texts.numbers, starts, n)
        name = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
        hit = (keys[name] == wanted) & (reach[starts] < starts + n)
        starts, name = starts[hit], name[hit]
        parts.append((starts, np.full(len(starts), n), name))
        reach[starts] = np.maximum(reach[starts], starts + n)
        reach = np.maximum.accumulate(reach)
    if not parts:
        empty = np.zeros(0, np.int64)
        return Hits(empty, empty, empty, empty)
    start, words, names = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.argsort(start, kind="stable")
    start, words, names = start[order], words[order], names[order]
    return Hits(rows[start], start - texts.indptr[rows[start]], words, names)


def window_keys(numbers: np.ndarray, starts: np.ndarray, n: int) -> np.ndarray:
    """One hash for each run of n words, uint64."""
    key = numbers[starts] + np.uint64(n)
    for step in range(1, n):
        key = key * MIX + numbers[starts + step]
        key ^= key >> np.uint64(29)
    return key


def distinct(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The distinct hashes of sorted ones, and where the rows of each start and the last one ends, int64 `[U + 1]`."""
    first = np.ones(len(keys), bool)
    first[1:] = keys[1:] != keys[:-1]
    return keys[first], np.append(np.flatnonzero(first), len(keys))


def names_in(text: str, kind: int) -> list[tuple[int, str]]:
    """A text as a name, and what stands before its definition or qualifier.

    >>> names_in("Mercury (planet)", TEXT)
    [(0, 'Mercury (planet)'), (2, 'Mercury')]
    """
    part = CUT.split(text, maxsplit=1)[0].strip()
    return [(kind, text), *([(PART, part)] if part and part != text.strip() else [])]


def texts_of(labels: Dataset | pa.Table) -> list[list[str]]:
    """Of each label its text and its other names (column `texts`, without texts of kinds that are no names)."""
    return other_names(labels)


def checksums(texts: Sequence[Sequence[str]]) -> np.ndarray:
    """A checksum of the texts of each label, uint32 `[L]`, by which changes are noticed."""
    return np.array([crc32("\0".join(its).encode("utf-8", "surrogatepass")) for its in texts], np.uint32)
