"""What a tagging service answers."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from hf_xmc.serving.limits import Limits
from hf_xmc.serving.vocabulary import Label, Named


@dataclass(frozen=True)
class MatchedText:
    """A text of a label, its kind (`"synonym"`, `"definition"`, ...) and its own score."""

    text: str
    kind: str
    score: float


@dataclass(frozen=True)
class SpokenPassage:
    """A passage of a long text, its place (`text[start:end]`), and its score for the label: the mean of its own and
    those of the passages beside it, weighted by how like it they are."""

    text: str
    start: int
    end: int
    score: float


@dataclass(frozen=True)
class Tag:
    """A label that was given to a text.

    Args:
        uid, id: the label, and its row in the label table.
        label, definition: its name, and what it means (empty if unknown).
        uri: its address, if it has one.
        score: higher is better; comparable within a text.
        probability: that the label is right, if the tagger is calibrated.
        certainty: the probability as a key: `"very_likely"` from 0.8 on, `"likely"` from 0.5, `"possible"` from 0.2,
            else `"unlikely"`.
        parents: broader labels.
        channels: what each ranking channel says of the label, if that was asked for: channel -> `contribution`, and
            `score`, `rank` and `words` if it lists the label.
        notation: its code in the vocabulary, if it has one.
        passages: of a text that is cut into passages those that speak most for the label, best first, if that was
            asked for.
        matched: the synonym, definition or other text of the label that matches best, if that was asked for and the
            label is searched by several texts.
    """

    uid: str
    label: str
    definition: str
    uri: str | None
    id: int
    score: float
    probability: float | None = None
    certainty: str | None = None
    parents: tuple[Named, ...] = ()
    channels: dict[str, dict[str, Any]] | None = None
    notation: str | None = None
    passages: tuple[SpokenPassage, ...] = ()
    matched: MatchedText | None = None

    def to_dict(self) -> dict[str, Any]:
        """As plain values, ready for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Tagged:
    """The labels of a text, best first.

    Args:
        tags: the labels.
        tokens: of the text, for the encoder, of a very long text about so many; 0 if the tagger has no encoder.
        max_tokens: that the encoder reads; None if there is no limit.
        truncated: whether the encoder has read the beginning of the text only. Channels that read words, and a static
            tower, read all of it.
    """

    tags: tuple[Tag, ...]
    tokens: int
    max_tokens: int | None
    truncated: bool

    def to_dict(self) -> dict[str, Any]:
        """As plain values, ready for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Word:
    """A word or sentence, its place (`text[start:end]`), and what it adds to the score; below 0 it speaks against the
    label."""

    text: str
    start: int
    end: int
    weight: float


@dataclass(frozen=True)
class NearText:
    """A training text with the label: its row of the training split, cosine, and the text if the folder has it."""

    row: int
    similarity: float
    text: str | None = None


@dataclass(frozen=True)
class Reason:
    """Why a label was given to a text.

    Args:
        tag: the label, with what each channel says of it.
        words: of the text, in their order.
        label_words: of the label's own text.
        near: training texts with this label, nearest first.
        label_texts: synonyms, definition and other texts of the label, the best match first; none if it is searched by
            its name alone.
    """

    tag: Tag
    words: tuple[Word, ...]
    label_words: tuple[Word, ...]
    near: tuple[NearText, ...]
    label_texts: tuple[MatchedText, ...] = ()


@dataclass(frozen=True)
class Explained:
    """The labels of a text, each with its reasons.

    Args:
        text: the part of the text that was explained.
        truncated: whether that is not all of it.
        unit: `"word"`, or `"sentence"` for long texts.
        reasons: the labels, best first.
    """

    text: str
    truncated: bool
    unit: str
    reasons: tuple[Reason, ...]

    def to_dict(self) -> dict[str, Any]:
        """As plain values, ready for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class LabelList:
    """Some of the labels that were asked for, and how many there are."""

    total: int
    labels: tuple[Label, ...]

    def to_dict(self) -> dict[str, Any]:
        """As plain values, ready for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class About:
    """What a tagger is.

    Args:
        name: of the folder or repository, without the path to it.
        num_labels: that can be found.
        has_hierarchy: whether labels have broader labels.
        base_model: the encoder that it was trained from; empty if unknown.
        languages: of the texts, if they are known.
        channels: that rank labels, besides the label vectors.
        calibrated: whether there are probabilities.
        data: name, licence, source and counts of the training data, as far as they are recorded.
        metrics: split, and measure -> value, as in `metrics.json`.
        max_tokens: that the encoder reads of a text.
        limits: what is accepted.
        examples: texts to try.
        version: of hf_xmc.
    """

    name: str
    num_labels: int
    has_hierarchy: bool
    base_model: str
    languages: tuple[str, ...]
    channels: tuple[str, ...]
    calibrated: bool
    data: dict[str, Any]
    metrics: dict[str, Any]
    max_tokens: int | None
    limits: Limits
    examples: tuple[str, ...]
    version: str

    def to_dict(self) -> dict[str, Any]:
        """As plain values, ready for JSON."""
        return asdict(self)
