"""Passages of a long text: where it is cut, and how the scores of its passages give that of the text.

An encoder reads a few hundred tokens. A longer text becomes a bag of passages, as in multiple-instance learning: each
passage scores all labels, and the score of a label is the largest one, the mean, or the soft maximum (log-sum-exp)
between these two.
"""

from __future__ import annotations

import os
import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.special import logsumexp

from hf_xmc.data.checksums import forget_checksums
from hf_xmc.data.documents import read_document, write_document
from hf_xmc.data.files import replacing
from hf_xmc.data.transaction import transaction
from hf_xmc.errors import SettingsError

PASSAGES = "passages.json"
FORMAT = 1
POOLS = ("lse", "max", "mean")
WORDS = 256  # of a passage, for a model that reads words and has no limit of its own
LARGEST_TITLE = 4  # a title may take this part of a passage, 1 / 4; a longer first sentence is no title
# Where a sentence may begin: after the end of one and what closes it, and after the end of a line.
SENTENCE = re.compile(r"(?<=[.!?\u2026])[\"'\u201d\u2019)\]]*\s+|(?<=[\u3002\uff01\uff1f])\s*|\s*\n\s*")


class Passage(NamedTuple):
    """A part of a text, `text[start:end]`; `text` is what the encoder reads, which may have the title before it."""

    start: int
    end: int
    text: str


@dataclass(frozen=True)
class Passages:
    """How long texts are cut into passages, and how passages give the score of a label.

    Args:
        pool: `"lse"`: log(mean(exp(sharpness * scores))) / sharpness; `"max"`: the best passage; `"mean"`.
        sharpness: of `"lse"`: the larger, the nearer to the maximum.
        tokens: of a passage, at most, its title included; None for what the encoder reads (256 words, if the model
            has word vectors alone). A text that is not longer stays whole.
        overlap: tokens that a passage repeats of the one before it, at most; from the beginning of a sentence if
            there is one among them.
        most: passages of a text, at most. Of a text with more, these are spread evenly over it, so that the time a
            text can take has a limit.
        title: carry the first line or sentence along, before each passage.

    Raises:
        SettingsError: a value that is out of its range.

    >>> Passages("max").pooled(np.array([[0.1, 0.8], [0.7, 0.2]])).tolist()
    [0.7, 0.8]
    """

    pool: str = "lse"
    sharpness: float = 50.0
    tokens: int | None = None
    overlap: int = 32
    most: int = 64
    title: bool = True

    def __post_init__(self) -> None:
        if self.pool not in POOLS:
            raise SettingsError(f"pool is {self.pool!r}; expected one of {', '.join(POOLS)}")
        if not 0 < self.sharpness < float("inf"):
            raise SettingsError(f"sharpness is {self.sharpness}; it must be above 0, such as 50")
        if self.tokens is not None and self.tokens < 8:
            raise SettingsError(f"tokens is {self.tokens}; a passage needs at least 8")
        if self.overlap < 0:
            raise SettingsError(f"overlap is {self.overlap}; it must be at least 0")
        if self.most < 1:
            raise SettingsError(f"most is {self.most}; a text has at least 1 passage")

    @classmethod
    def parse(cls, given: str) -> Passages:
        """From a pool and settings by name.

        Raises:
            SettingsError: an unknown name, or a value of another kind.

        >>> Passages.parse("max,tokens=128,title=no")
        Passages(pool='max', sharpness=50.0, tokens=128, overlap=32, most=64, title=False)
        """
        kinds: dict[str, Callable[[str], object]]
        kinds = {"sharpness": float, "tokens": int, "overlap": int, "most": int, "title": _yes_or_no, "pool": str}
        first, *rest = [part.strip() for part in given.split(",")]
        values: dict[str, object] = {}
        for part in [first if "=" in first else f"pool={first}", *rest]:
            name, _, value = part.partition("=")
            if name not in kinds:
                raise SettingsError(f"unknown setting of passages {name!r}", hint=f"there are {', '.join(kinds)}")
            try:
                values[name] = kinds[name](value)
            except ValueError as error:
                raise SettingsError(f"{name} is {value!r}", hint="write it like lse,tokens=128,overlap=32") from error
        return cls(**values)  # type: ignore[arg-type]  # each is of the kind of its field

    def pooled(self, scores: np.ndarray) -> np.ndarray:
        """The scores of a text, `[n]`, from those of its passages, `[T, n]`."""
        if self.pool == "max":
            return scores.max(axis=0)
        if self.pool == "mean":
            return scores.mean(axis=0)
        return (logsumexp(self.sharpness * scores, axis=0) - np.log(len(scores))) / self.sharpness

    def with_pool(self, pool: str, sharpness: float | None = None) -> Passages:
        """The same passages, which give the score of a label in another way."""
        return replace(self, pool=pool, sharpness=self.sharpness if sharpness is None else sharpness)

    def fingerprint(self) -> str:
        """A hash of the settings."""
        return blake2b(repr(self).encode(), digest_size=12).hexdigest()

    def save_pretrained(self, folder: str | os.PathLike[str], /) -> None:
        """Write `passages.json` into a trained folder."""
        with transaction(folder) as staging, replacing(staging / PASSAGES) as temporary:
            forget_checksums(staging)
            write_document({"format": FORMAT, **asdict(self)}, temporary, PASSAGES)

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike[str], /) -> Passages:
        """Load from a trained folder.

        Raises:
            ModelFolderError: the file is damaged.
        """
        from hf_xmc.retrieval.schemas import PassagesDocument

        hint = "calibrate again with --passages, or copy the folder again"
        found = read_document(Path(folder) / PASSAGES, PassagesDocument, FORMAT, hint)
        return cls(**{field.name: found[field.name] for field in fields(cls)})


def _yes_or_no(value: str) -> bool:
    if value not in ("yes", "no"):
        raise ValueError(value)
    return value == "yes"


def cut_text(text: str, starts: Sequence[int], settings: Passages, budget: int) -> list[Passage]:
    """The passages of a text, in their order. Without those that `most` leaves out they cover all of it.

    A passage ends with a sentence if one ends in its second half, else with a word.

    Args:
        starts: where each token begins, in characters, ascending.
        budget: tokens of a passage, title included.

    >>> text = "Cars. Red cars are fast. Blue cars are slow."
    >>> starts = [match.start() for match in re.finditer(r"[^ ]+", text)]
    >>> [found.text for found in cut_text(text, starts, Passages(overlap=0), budget=6)]
    ['Cars. Red cars are fast.', 'Cars. Blue cars are slow.']
    """
    if len(starts) <= budget:
        return [Passage(0, len(text), text)]
    begins = [match.end() for match in SENTENCE.finditer(text) if 0 < match.end() < len(text)]
    sentences = sorted({bisect_left(starts, begin) for begin in begins} - {0})  # as numbers of tokens
    title = ""
    if settings.title and sentences and sentences[0] <= budget // LARGEST_TITLE:
        title = text[: starts[sentences[0]]].strip()
    room = budget - (sentences[0] if title else 0)
    spans, first = list[tuple[int, int]](), 0
    while True:
        limit = first + (room if spans else budget)
        if limit >= len(starts):
            spans.append((_place(starts, first), len(text)))
            break
        end = _last_begin(text, starts, sentences, first + (limit - first) // 2, limit)
        spans.append((_place(starts, first), starts[end]))
        first = max(first + 1, _first_begin(text, starts, sentences, end - min(settings.overlap, room // 2), end))
    spans = [(start, end) for start, end in spans if end > start]
    if len(spans) > settings.most:
        spans = [spans[i] for i in np.linspace(0, len(spans) - 1, settings.most).round().astype(int)]
    lead = f"{title} " if title else ""
    return [Passage(a, b, (lead if a else "") + text[a:b].strip()) for a, b in spans]


def _place(starts: Sequence[int], token: int) -> int:
    """Where a passage begins that begins with this token: the first one with the text."""
    return starts[token] if token else 0


def _last_begin(text: str, starts: Sequence[int], sentences: Sequence[int], low: int, high: int) -> int:
    """The last token from `low` + 1 to `high` that begins a sentence, or else a word, or else `high`."""
    place = bisect_right(sentences, high) - 1
    if place >= 0 and sentences[place] > low:
        return sentences[place]
    return next((token for token in range(high, low, -1) if _begins_word(text, starts[token])), high)


def _first_begin(text: str, starts: Sequence[int], sentences: Sequence[int], low: int, high: int) -> int:
    """The first token from `low` to `high` that begins a sentence, or else a word, or else `high`."""
    place = bisect_left(sentences, low)
    if place < len(sentences) and sentences[place] < high:
        return sentences[place]
    return next((token for token in range(low, high) if _begins_word(text, starts[token])), high)


def _begins_word(text: str, start: int) -> bool:
    """Whether a token that begins here begins a word: some tokenizers count the space before it."""
    return start == 0 or text[start].isspace() or text[start - 1].isspace()
