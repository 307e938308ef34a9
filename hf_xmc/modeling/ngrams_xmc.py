"""Texts to hashed features: words, pairs of neighbouring words, and the first letters of long words.

No vocabulary is learned or stored: a feature's number is a hash of its letters, the same on every machine.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from zlib import crc32

import numpy as np

STEM = 5  # letters of the stem of a longer word
KEPT_WORDS = 2**20  # hashes that are remembered at most
# Runs of characters that are written without spaces between words (kana and Chinese characters), or words.
UNSPACED = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
TOKEN = re.compile(rf"[{UNSPACED}]+|[^\W{UNSPACED}]+")
IS_UNSPACED = re.compile(rf"[{UNSPACED}]")
FIRST, SECOND = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F)  # odd, so that order counts
MIXER = np.uint64(0xBF58476D1CE4E5B9)
hashes: dict[str, tuple[int, int]] = {}  # word -> hash of the word, and of its stem (0 if it is short)


def features(texts: Sequence[str], buckets: int) -> tuple[np.ndarray, np.ndarray]:
    """The features of texts as the rows of a table with `buckets` rows, each feature of a text once.

    Args:
        texts: N texts.
        buckets: size of the table. Features that share a bucket count as one.

    Returns:
        Rows of the table, int32 `[n]`, ascending within a text, and where the features of each text begin, int64
        `[N + 1]`.

    >>> ids, indptr = features(["red cars", "Red", ""], buckets=2**20)
    >>> indptr.tolist()
    [0, 3, 4, 4]
    >>> bool(np.isin(ids[3], ids[:3]))
    True
    """
    per_text = [words_of(text) for text in texts]
    counts = np.array([len(words) for words in per_text], dtype=np.int64)
    total = int(counts.sum())
    known = [hash_of(word) for words in per_text for word in words]
    if len(hashes) > KEPT_WORDS:
        hashes.clear()
    pairs = np.array(known, dtype=np.uint64).reshape(total, 2)
    word, stem = pairs[:, 0], pairs[:, 1]  # [W] each
    text = np.repeat(np.arange(len(per_text), dtype=np.int64), counts)  # [W]
    same = text[1:] == text[:-1]
    following = (word[:-1] * FIRST + word[1:] * SECOND)[same]
    long = stem > 0
    found = np.concatenate([mixed(word), mixed(following), mixed(stem[long])]) % np.uint64(max(buckets, 1))
    owner = np.concatenate([text, text[1:][same], text[long]])
    keys = np.unique(owner * buckets + found.astype(np.int64))  # sorted by text, then by feature
    indptr = np.searchsorted(keys, np.arange(len(per_text) + 1, dtype=np.int64) * buckets)
    return (keys % buckets).astype(np.int32), indptr.astype(np.int64)


def words_of(text: str) -> list[str]:
    """The words of a text in lower case; of text without spaces between words, pairs of characters.

    >>> words_of("The R2-D2 units"), words_of("東京都 Tower")
    (['the', 'r2', 'd2', 'units'], ['東京', '京都', 'tower'])
    """
    plain = text if text.isascii() else unicodedata.normalize("NFKC", text)
    found = TOKEN.findall(plain.lower())
    if text.isascii() or not IS_UNSPACED.search(plain):
        return found
    words: list[str] = []
    for token in found:
        if IS_UNSPACED.match(token) and len(token) > 1:
            words += [token[i : i + 2] for i in range(len(token) - 1)]
        else:
            words.append(token)
    return words


def hash_of(word: str) -> tuple[int, int]:
    """A hash of a word, and one of its first letters if it is longer than they are."""
    found = hashes.get(word)
    if found is None:
        code = word.encode("utf-8", "surrogatepass")
        start = word[:STEM].encode("utf-8", "surrogatepass")
        found = (1 + crc32(code), 1 + crc32(start, 0x5EED) if len(word) > STEM else 0)
        hashes[word] = found
    return found


def mixed(values: np.ndarray) -> np.ndarray:
    """Hashes whose low bits depend on all bits, uint64."""
    values = (values ^ (values >> np.uint64(31))) * MIXER
    return values ^ (values >> np.uint64(29))
