"""Texts to hashed features: words, first letters of words, and word pairs. No vocabulary is kept, only numbers."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple
from zlib import crc32

import numpy as np

VERSION = 1  # of the features that a text has
STEM = 5  # letters of a stem; shorter words have none
MOST_WORDS = 2**20  # distinct words whose hashes are remembered
HASHES: dict[int, dict[str, int]] = {}  # letters of a stem -> word -> its hashes
# Scripts that are written without spaces: each character is a word there, and word pairs are character bigrams.
UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
ASCII_WORD = re.compile(r"[a-z0-9]+")


class Features:
    """The features of N texts as a sparse matrix: of each text its distinct features, in ascending order.

    Args:
        ids: numbers of features, int32 or int64 `[n]`.
        counts: how often the text has each, uint16 or larger `[n]`.
        indptr: where each text begins, int64 `[N + 1]`.
        text_of_row: for a table in which texts repeat, the text of each row, int `[rows]`; None if each row has its
            own.

    >>> features = Features.of(["a red red car", ""], buckets=2**18, pairs=False)
    >>> sorted(features.counts.tolist()), features.indptr.tolist()
    ([1, 1, 2], [0, 3, 3])
    """

    def __init__(
        self, ids: np.ndarray, counts: np.ndarray, indptr: np.ndarray, text_of_row: np.ndarray | None = None
    ) -> None:
        self.ids, self.counts, self.indptr, self.text_of_row = ids, counts, indptr, text_of_row

    @classmethod
    def of(cls, texts: Sequence[str], buckets: int, pairs: bool = True) -> Features:
        """The features of texts; see `features`."""
        return cls(*counted(*features(texts, buckets, pairs)))

    def __len__(self) -> int:
        return len(self.indptr) - 1 if self.text_of_row is None else len(self.text_of_row)

    def repeats(self) -> np.ndarray:
        """How often each text occurs in the table, int64 `[texts]`."""
        if self.text_of_row is None:
            return np.ones(len(self), dtype=np.int64)
        return np.bincount(self.text_of_row, minlength=len(self.indptr) - 1)

    def take(self, rows: np.ndarray | None = None) -> Taken:
        """The features of some rows, by default of all texts in their order."""
        if rows is None and self.text_of_row is None:
            return Taken(self.ids, self.counts, self.indptr, np.arange(len(self)))
        texts = np.arange(len(self)) if rows is None else rows
        texts = np.asarray(texts if self.text_of_row is None else self.text_of_row[texts], dtype=np.int64)
        starts, lengths = self.indptr[texts], self.indptr[texts + 1] - self.indptr[texts]
        indptr = np.concatenate([[0], np.cumsum(lengths)])
        place = np.arange(indptr[-1]) + np.repeat(starts - indptr[:-1], lengths)
        return Taken(self.ids[place], self.counts[place], indptr, texts)


class Taken(NamedTuple):
    """Features of n texts: `ids` and `counts` `[m]`, `indptr` `[n + 1]`, and the number of each text, `[n]`."""

    ids: np.ndarray
    counts: np.ndarray
    indptr: np.ndarray
    texts: np.ndarray


def features(
    texts: Sequence[str], buckets: int = 2**18, pairs: bool = True, stem: int = STEM
) -> tuple[np.ndarray, np.ndarray]:
    """The features of texts, as often as they occur: lower-case words, the first five letters of longer words, and
    pairs of neighbouring words. Of scripts without spaces the characters and their bigrams.

    Texts are put into the compatible normal form (NFKC) first. Features are hashed, so different ones may share a
    number.

    Args:
        texts: any strings; one without words has no features.
        buckets: number of different hashes, at most 2^31.
        pairs: whether to include word pairs.
        stem: letters of a stem; 0 for none.

    Returns:
        The numbers of the features, int64 `[n]`, of one text after another; and where each text begins, int64
        `[len(texts) + 1]`.

    >>> ids, indptr = features(["Red cars", "red", "!"])
    >>> indptr.tolist(), ids[0] == ids[3]
    ([0, 3, 4, 4], np.True_)
    """
    hashed: list[int] = []
    known, counts = HASHES.setdefault(stem, {}), np.zeros(len(texts), dtype=np.int64)  # [N]
    for i, text in enumerate(texts):
        words = words_of(text)
        counts[i] = len(words)
        hashed += [hashes_of(word, stem, known) if (both := known.get(word)) is None else both for word in words]
    both_hashes = np.array(hashed, dtype=np.uint64)  # [words]
    hashes, stems = both_hashes >> np.uint64(32), both_hashes & np.uint64(2**32 - 1)
    row = np.repeat(np.arange(len(texts)), counts)
    parts, rows = [hashes, stems[stems != 0]], [row, row[stems != 0]]
    if pairs and len(row) > 1:
        same = row[1:] == row[:-1]
        parts.append(mixed(hashes[:-1], hashes[1:])[same])
        rows.append(row[1:][same])
    if len(known) > MOST_WORDS:
        known.clear()
    row = np.concatenate(rows)
    order = np.argsort(row, kind="stable")
    ids = (np.concatenate(parts)[order] % np.uint64(buckets)).astype(np.int64)
    return ids, np.concatenate([[0], np.cumsum(np.bincount(row, minlength=len(texts)))]).astype(np.int64)


def counted(ids: np.ndarray, indptr: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The distinct features of each text: their numbers, int32 `[m]`, how often each occurs, uint16 `[m]`, and where
    each text begins.

    >>> [x.tolist() for x in counted(np.array([7, 3, 7, 3]), np.array([0, 3, 4]))]
    [[3, 7, 3], [1, 2, 1], [0, 2, 3]]
    """
    row = np.repeat(np.arange(len(indptr) - 1, dtype=np.int64), np.diff(indptr))
    key, counts = np.unique((row << 31) | ids, return_counts=True)
    distinct = np.bincount(key >> 31, minlength=len(indptr) - 1)
    return (
        (key & (2**31 - 1)).astype(np.int32),
        counts.clip(max=2**16 - 1).astype(np.uint16),
        np.concatenate([[0], np.cumsum(distinct)]).astype(np.int64),
    )


def words_of(text: str) -> list[str]:
    """The words of a text, in lower case.

    >>> words_of("Don't touch, naïve x²!"), words_of("東京 2020")
    (['don', 't', 'touch', 'naïve', 'x2'], ['東', '京', '2020'])
    """
    if text.isascii():
        return ASCII_WORD.findall(text.lower())
    return any_word().findall(unicodedata.normalize("NFKC", text).lower())


@cache
def any_word() -> re.Pattern[str]:
    """A pattern for words in any script. Marks belong to them, which Python's own pattern for letters leaves out: the
    vowels of Indic scripts and the points of Hebrew and Arabic are marks."""
    marks = "".join(chr(i) for i in range(2**16) if unicodedata.category(chr(i)) in ("Mn", "Mc"))
    marks = re.sub(f"[{UNSPACED}]", "", marks)
    return re.compile(rf"[{UNSPACED}]|(?:(?![{UNSPACED}])[^\W_]|[{marks}])+")


def mixed(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Hashes of pairs of hashes, uint64 below 2^32, `[n]`; the order matters."""
    x = first * np.uint64(0x9E3779B97F4A7C15) + second * np.uint64(0xC2B2AE3D27D4EB4F)
    return scrambled(x) >> np.uint64(32)


def scrambled(x: np.ndarray) -> np.ndarray:
    """Numbers as good as random, one for each of these, uint64 `[n]` (the last steps of splitmix64)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def hashes_of(word: str, letters: int, known: dict[str, int]) -> int:
    """The hash of a new word, in the upper half of 64 bits, and that of its first letters in the lower half; 0 there
    for a word that has no more letters than these."""
    stem = crc32(encoded("~" + word[:letters])) if letters and len(word) > letters else 0
    known[word] = crc32(encoded(word)) << 32 | stem
    return known[word]


def encoded(text: str) -> bytes:
    """Its bytes, also where it holds halves of characters."""
    return text.encode("utf-8", "surrogatepass")
