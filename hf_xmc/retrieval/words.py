"""Words of texts and their stems as numbers, for matching names whatever their inflection."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from itertools import chain
from threading import Lock

import numpy as np

from hf_xmc.errors import SettingsError

# Chinese and Japanese are written without spaces: each of their characters is a word.
UNSPACED = "\u3041-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
WORD = re.compile(rf"[{UNSPACED}]|[^\W_{UNSPACED}]+(?:\+\+|#)?")  # C++ and C# are other words than C
ISO_639 = {
    **{"ar": "arabic", "hy": "armenian", "eu": "basque", "ca": "catalan", "cs": "czech", "da": "danish"},
    **{"nl": "dutch", "en": "english", "eo": "esperanto", "et": "estonian", "fi": "finnish", "fr": "french"},
    **{"de": "german", "el": "greek", "hi": "hindi", "hu": "hungarian", "id": "indonesian", "ga": "irish"},
    **{"it": "italian", "lt": "lithuanian", "ne": "nepali", "no": "norwegian", "nb": "norwegian", "nn": "norwegian"},
    **{"fa": "persian", "pl": "polish", "pt": "portuguese", "ro": "romanian", "ru": "russian", "sr": "serbian"},
    **{"es": "spanish", "sv": "swedish", "ta": "tamil", "tr": "turkish", "yi": "yiddish"},
}
MOST = 2**20  # distinct words that are kept with their numbers
STEMMING = Lock()  # stemmers are shared, and cannot be used by two threads at a time


@dataclass(frozen=True)
class WordRows:
    """The words of several texts as numbers.

    Args:
        numbers: of all words, uint64 `[T]`; equal stems have equal numbers.
        indptr: where the words of each text start and the last one ends, int64 `[N + 1]`.
    """

    numbers: np.ndarray
    indptr: np.ndarray

    @property
    def rows(self) -> np.ndarray:
        """The text of each word, int64 `[T]`."""
        return np.repeat(np.arange(len(self.indptr) - 1), np.diff(self.indptr))


class Stems:
    """Splits texts into lower-cased, stemmed words.

    Args:
        language: an ISO 639-1 code or the English name of a language. Words of languages without a Snowball stemmer
            are lower-cased only.

    >>> stems = Stems("en")
    >>> [stems.stem(word) for word in stems.words("Organisations, organisation: C++")]
    ['organis', 'organis', 'c++']
    """

    def __init__(self, language: str = "english") -> None:
        self.language = language_name(language)
        self._stemmer = stemmer_of(self.language)
        self._numbers: dict[str, int] = {}

    def words(self, text: str) -> list[str]:
        """The words of a text, lower-cased and in Unicode's compatibility form (NFKC)."""
        return WORD.findall(normalized(text))

    def stem(self, word: str) -> str:
        """The stem of a lower-cased word."""
        return word if self._stemmer is None else self._stemmer.stemWord(word)

    def number(self, word: str) -> int:
        """A 64-bit hash of the stem of a word."""
        return int.from_bytes(blake2b(self.stem(word).encode("utf-8", "surrogatepass"), digest_size=8).digest())

    def __call__(self, texts: Sequence[str]) -> WordRows:
        """The words of texts as numbers."""
        words = [WORD.findall(normalized(text)) for text in texts]
        indptr = np.zeros(len(words) + 1, np.int64)
        np.cumsum([len(its) for its in words], out=indptr[1:])
        known = self._numbers
        with STEMMING:
            new = {*chain.from_iterable(words)}.difference(known)
            if len(known) + len(new) > MOST:  # they are only a cache
                known.clear()
                new = {*chain.from_iterable(words)}
            known.update((word, self.number(word)) for word in new)
            found = map(known.__getitem__, chain.from_iterable(words))
            return WordRows(np.fromiter(found, np.uint64, count=int(indptr[-1])), indptr)


def normalized(text: str) -> str:
    """A text in which words can be compared: lower case, and one form of each character."""
    return text.lower() if text.isascii() else unicodedata.normalize("NFKC", text).lower()


def word_spans(text: str) -> list[tuple[str, int, int]]:
    """The words of a text, each with its place in it: `(word, start, end)`.

    >>> word_spans("Red cars")
    [('red', 0, 3), ('cars', 4, 8)]
    """
    # Normalising may change the length of a text, so its words are looked for one character at a time if it does.
    plain = normalized(text)
    if len(plain) == len(text):
        return [(match[0], *match.span()) for match in WORD.finditer(plain)]
    pieces = [normalized(character) for character in text]
    place = np.repeat(np.arange(len(text)), [len(piece) for piece in pieces])
    return [
        (match[0], int(place[match.start()]), int(place[match.end() - 1]) + 1)
        for match in WORD.finditer("".join(pieces))
    ]


def language_name(language: str) -> str:
    """The English name of a language, lower-cased, from its name or its ISO 639-1 code, whatever follows the code.

    Raises:
        SettingsError: an empty name.

    >>> language_name("de-AT"), language_name("Finnish"), language_name("ja")
    ('german', 'finnish', 'ja')
    """
    name = language.strip().lower()
    if not name:
        raise SettingsError("the language is empty", hint="give a code such as en, or a name such as english")
    return ISO_639.get(re.split(r"[-_]", name)[0], name)


@lru_cache
def stemmer_of(language: str):  # type: ignore[no-untyped-def]  # of two packages, which share no class
    """The Snowball stemmer of a language, None if there is none."""
    import snowballstemmer  # it imports all languages, and most runs need none

    return snowballstemmer.stemmer(language) if language in snowballstemmer.algorithms() else None
