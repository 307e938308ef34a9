"""The channel of names: labels whose name or synonym stands in the text, which finds labels that nobody has used yet.

Words are stemmed, and a name inside a longer one does not count. Whether a name that stands in a text means the label
is judged by what Annif's MLLM uses as well (Medelyan 2009, "Human-competitive automatic topic indexing"): how often
and how early it stands there, how long it is, how many labels share it, and its keyphraseness: how often training
texts with this name carry the label. A logistic model turns these into a probability, which is the score.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from scipy.special import expit, logit

from hf_xmc.data.checksums import forget_checksums
from hf_xmc.data.documents import read_arrays, read_document, write_arrays, write_document
from hf_xmc.data.files import replacing
from hf_xmc.data.transaction import read_whole, transaction
from hf_xmc.errors import ModelFolderError, SettingsError
from hf_xmc.retrieval.catalogue import Catalogue
from hf_xmc.retrieval.channels.channel import TrainQueries
from hf_xmc.retrieval.name_table import (
    MAX_WORDS,
    OTHER,
    PART,
    Hits,
    Names,
    checksums,
    distinct,
    find_names,
    texts_of,
)
from hf_xmc.retrieval.regression import newton
from hf_xmc.retrieval.scores import best_of
from hf_xmc.retrieval.words import Stems, word_spans
from hf_xmc.types import Positives, TopK

NAMES, ARRAYS = "names/names.json", "names/names.safetensors"
FORMAT = 1
PRIOR = 0.2  # share of names that mean their label, where training texts say nothing
SMOOTHING = 4.0  # imagined training texts with a name, of which the usual share carries the label
UNUSED = 0.3  # share of labels that are taken as unused when the model is fitted, so that it can judge such labels
EXAMPLES = 200_000  # training texts that the model is fitted on, at most
STEP = 4096  # texts at a time
DECAY = 1.0  # of the weights of the logistic model
FEATURES = (
    *("used", "keyphraseness", "texts with the name", "prior", "matches", "place", "length of the text"),
    *("words", "characters", "other name", "part of a name", "labels of the name"),
)
# Without training texts: the probability of a name alone, more for longer ones.
UNFITTED = {"bias": 0.0, "prior": 1.0, "words": 0.4}


@dataclass(frozen=True)
class NameMatch:
    """A name of a label in a text: `text[start:end]`, and the label's id."""

    label: int
    start: int
    end: int
    text: str


class LabelNames:
    """Labels whose names stand in a text.

    Args:
        stems: splits texts into stemmed words.
        names: the names of all labels.
        used: training texts with the name of each row, int64 `[E]`; 0 if nobody has used the label.
        carried: how many of these carry the label of the row, int64 `[E]`.
        priors: share of names with 1, 2, ... words that mean their label, float64 `[MAX_WORDS]`.
        coefficients: of the logistic model, by the names of `FEATURES`, and `"bias"`.
        known: a checksum of the texts of each label, uint32 `[L]`.
        weight: share of the fused score.
        learned_from: a hash of what the counts were when they were learned.
        ranges: the smallest and largest value of each feature that the model has seen; others are cut to these.

    >>> from datasets import Dataset
    >>> labels = Dataset.from_dict({"uid": ["a", "b"], "text": ["Sea fishing", "Sea"], "texts": [["Angling"], None]})
    >>> channel = LabelNames.of(labels)
    >>> channel.rank(["He went fishing on the seas", "sea fishing by the sea"], None, 5).ids.tolist()
    [[1, -1], [0, 1]]
    >>> channel.matches("ANGLING in London")
    [NameMatch(label=0, start=0, end=7, text='ANGLING')]
    """

    name: ClassVar[str] = "names"
    files: ClassVar[tuple[str, ...]] = (NAMES, ARRAYS)
    complete: ClassVar[bool] = True  # a label whose name does not stand in the text scores 0

    def __init__(
        self,
        stems: Stems,
        names: Names,
        used: np.ndarray,
        carried: np.ndarray,
        priors: np.ndarray,
        coefficients: Mapping[str, float],
        known: np.ndarray,
        weight: float = 0.0,
        learned_from: str = "",
        ranges: Mapping[str, Sequence[float]] | None = None,
    ) -> None:
        self.stems, self.names, self.used, self.carried = stems, names, used, carried
        self.priors, self.coefficients, self.known, self.weight = priors, dict(coefficients), known, weight
        self.learned_from, self.ranges = learned_from, dict(ranges or {})
        self.made_for: Mapping[str, Any] | None = None  # labels and encoder; the pipeline sets it
        self._followed: tuple[Catalogue, int, int] | None = None
        self._read_names()

    @classmethod
    def of(cls, labels: Any, language: str = "english") -> LabelNames:
        """The names of a label table (`text`, `texts`), without anything learned."""
        stems, texts = Stems(language), texts_of(labels)
        names = Names.of(range(len(texts)), texts, stems)
        none = np.zeros(len(names), np.int64)
        return cls(stems, names, none, none, np.full(MAX_WORDS, PRIOR), UNFITTED, checksums(texts))

    @classmethod
    def fit(cls, train: TrainQueries) -> LabelNames:
        """Learn from training texts which names mean their label."""
        made = cls.of(train.labels, train.language)
        rows = np.arange(len(train.texts))
        if len(rows) > EXAMPLES:
            rows = np.sort(np.random.default_rng(0).permutation(rows)[:EXAMPLES])
        made.learn([train.texts[row] for row in rows.tolist()], train.positives.take(rows))
        return made

    def learn(self, texts: Sequence[str], positives: Positives) -> None:
        """Count names in texts whose labels are known, and fit the logistic model.

        The counts that the model is fitted on come from the other half of the texts; otherwise a text would be its
        own evidence.
        """
        pairs = self._pairs(texts)
        true = contains(positives, pairs.rows, pairs.labels)
        halves = np.random.default_rng(0).integers(0, 2, len(texts))[pairs.rows] if len(pairs.rows) else pairs.rows
        label_counts = positives.label_counts(len(self.known))
        parts: list[tuple[np.ndarray, np.ndarray]] = []
        unused = np.random.default_rng(1).random(len(self.known)) < UNUSED
        for half in (0, 1):
            told = halves != half
            self._count(pairs.entries[told], true[told], np.where(unused, 0, label_counts))
            mine = pairs.take(np.flatnonzero(~told))
            parts.append((self._features(mine), true[~told]))
        self._count(pairs.entries, true, label_counts)
        if pairs.rows.size:
            features, target = (np.concatenate(column) for column in zip(*parts, strict=True))
            if target.any() and not target.all():
                self.coefficients = logistic(features, target)
                limits = zip(features.min(axis=0).tolist(), features.max(axis=0).tolist(), strict=True)
                self.ranges = {name: [*both] for name, both in zip(FEATURES, limits, strict=True)}
        digest = blake2b(digest_size=12)
        for column in (self.names.keys, self.names.labels, self.used, self.carried):
            digest.update(np.ascontiguousarray(column).tobytes())
        self.learned_from = digest.hexdigest()

    def rank(self, texts: Sequence[str] | None, embeddings: Any, k: int, allowed: np.ndarray | None = None) -> TopK:
        """All labels whose name stands in the text, regardless of `k`; the score is the probability that the name
        means the label.

        Raises:
            SettingsError: there are no texts.
        """
        if texts is None:
            raise SettingsError(
                "The channel names reads the texts of the queries", hint="pass them with the embeddings"
            )
        parts = [self._rank(texts[start : start + STEP]) for start in range(0, max(len(texts), 1), STEP)]
        width = max(part.k for part in parts)
        padded = [part.padded(width) for part in parts]
        return TopK(np.concatenate([part.ids for part in padded]), np.concatenate([part.scores for part in padded]))

    def _rank(self, texts: Sequence[str]) -> TopK:
        pairs = self._pairs(texts)
        return best_of(pairs.rows, pairs.labels, self._scores(self._features(pairs)), len(texts), None)

    def matches(self, text: str) -> list[NameMatch]:
        """The names that stand in a text, in their order, each with its label."""
        hits, spans = self._hits([text]), word_spans(text)
        found = []
        for place, words, name in zip(hits.places.tolist(), hits.words.tolist(), hits.names.tolist(), strict=True):
            start, end = spans[place][1], spans[place + words - 1][2]
            for entry in range(int(self._starts[name]), int(self._starts[name + 1])):
                found.append(NameMatch(int(self.names.labels[entry]), start, end, text[start:end]))
        return found

    def follow(self, catalogue: Catalogue) -> None:
        """Take over labels that were added or changed since the names were read. Labels that were added later have
        been used by nobody."""
        state = (catalogue, catalogue.num_rows, catalogue.texts_changed)
        if self._followed == state:
            return
        same = self._followed is not None and self._followed[0] is catalogue and self._followed[2] == state[2]
        start = len(self.known) if same else 0
        texts = texts_of(catalogue.arrow.slice(start))
        found = checksums(texts)
        before = self.known[start : start + len(found)]
        changed = np.flatnonzero(np.append(found[: len(before)] != before, np.ones(len(found) - len(before), bool)))
        if len(changed) or start + len(found) < len(self.known):
            rows = changed + start
            kept = ~np.isin(self.names.labels, rows) & (self.names.labels < catalogue.num_rows)
            new = Names.of(rows.tolist(), [texts[i] for i in changed.tolist()], self.stems)
            self.names, source = self.names.keep(kept).merged(new)
            self.used, self.carried = (
                np.where(source < 0, 0, column[kept][source]) if kept.any() else np.zeros(len(source), np.int64)
                for column in (self.used, self.carried)
            )
            self.known = np.concatenate([self.known[:start], found])
            self._read_names()
        self._followed = state

    def _read_names(self) -> None:
        found = distinct(self.names.keys)
        self._keys = found[0]
        self._starts = found[1]
        self._lengths = np.unique(self.names.words).tolist()

    def _hits(self, texts: Sequence[str]) -> Hits:
        return find_names(self.stems(texts), self._keys, self._lengths)

    def _pairs(self, texts: Sequence[str]) -> Pairs:
        """Each text with each label whose name stands in it."""
        parts = []
        for start in range(0, len(texts), STEP):
            rows = self.stems(texts[start : start + STEP])
            hits = find_names(rows, self._keys, self._lengths)
            sizes = np.diff(rows.indptr)
            parts.append(pairs_of(hits, self._starts, self.names.labels, sizes, start))
        return Pairs.joined(parts)

    def _count(self, entries: np.ndarray, true: np.ndarray, label_counts: np.ndarray) -> None:
        """Count how often training texts with a name carry its label; see `used`, `carried` and `priors`."""
        size = len(self.names)
        found = np.bincount(entries, minlength=size)
        carried = np.bincount(entries, weights=true, minlength=size).astype(np.int64)
        seen = label_counts[self.names.labels] > 0
        self.used, self.carried = np.where(seen, found, 0), np.where(seen, carried, 0)
        total = np.bincount(self.names.words, weights=self.used, minlength=MAX_WORDS + 1)[1:]
        right = np.bincount(self.names.words, weights=self.carried, minlength=MAX_WORDS + 1)[1:]
        overall = (right.sum() + SMOOTHING * PRIOR) / (total.sum() + SMOOTHING)
        self.priors = (right + 10 * SMOOTHING * overall) / (total + 10 * SMOOTHING)

    def _features(self, pairs: Pairs) -> np.ndarray:
        """`FEATURES` of pairs of text and label, float64 `[P, F]`."""
        entry = pairs.entries
        words = self.names.words[entry].astype(np.int64)
        prior, used = self.priors[words - 1], self.used[entry]
        keyphraseness = (self.carried[entry] + SMOOTHING * prior) / (used + SMOOTHING)
        known = used > 0
        kinds = self.names.kinds[entry]
        # Parts of a name in different labels are shared by design ("Mercury (planet)"), and so count as well.
        shared = np.diff(self._starts)[np.searchsorted(self._starts, entry, side="right") - 1]
        columns = (
            known,
            np.where(known, logit(keyphraseness), 0),
            np.where(known, np.log1p(used), 0),
            np.where(known, 0, logit(prior)),
            np.log(pairs.matches),
            np.log1p(pairs.places),
            np.log1p(pairs.sizes),
            words,
            np.log1p(self.names.characters[entry].astype(np.float64)),
            kinds == OTHER,
            kinds == PART,
            np.log(shared),
        )
        return np.stack([np.asarray(column, np.float64) for column in columns], axis=1)

    def _scores(self, features: np.ndarray) -> np.ndarray:
        weights = np.array([self.coefficients.get(name, 0.0) for name in FEATURES])
        limits = np.array([self.ranges.get(name, (-np.inf, np.inf)) for name in FEATURES])
        features = np.clip(features, limits[:, 0], limits[:, 1])
        return expit(features @ weights + self.coefficients["bias"])

    def versions(self, texts: Sequence[str] | None, embeddings: Any) -> Iterable[tuple[LabelNames, TopK]]:
        """The channel has no settings to try."""
        yield self, self.rank(texts, embeddings, 0)

    def describe(self) -> dict[str, Any]:
        """Language, number of names, and weight."""
        return {"weight": self.weight, "language": self.stems.language, "names": len(self._keys)}

    def fingerprint(self) -> str:
        """A hash of how names are judged. It does not depend on labels that come and go."""
        learned = [
            self.stems.language,
            sorted(self.coefficients.items()),
            sorted(self.ranges.items()),
            self.priors.tolist(),
        ]
        parts = repr([*learned, self.learned_from, self.weight])
        return blake2b(parts.encode(), digest_size=12).hexdigest()

    @property
    def size_bytes(self) -> int:
        """Bytes of its arrays."""
        return sum(column.nbytes for column in (*vars(self.names).values(), self.used, self.carried, self.known))

    def save_pretrained(self, folder: str | os.PathLike[str], /) -> None:
        """Write `names/` into a trained folder."""
        about = {
            "format": FORMAT,
            "language": self.stems.language,
            "weight": self.weight,
            "learned_from": self.learned_from,
            "priors": self.priors.tolist(),
            "coefficients": self.coefficients,
            "ranges": self.ranges,
            "num_names": len(self._keys),
            "num_labels": len(self.known),
            **({"made_for": dict(self.made_for)} if self.made_for else {}),
        }
        arrays = {
            **{name: getattr(self.names, name) for name in ("keys", "kinds", "words", "characters")},
            **{"labels": self.names.labels.astype(np.int32), "known": self.known},
            **{"used": self.used.astype(np.int32), "carried": self.carried.astype(np.int32)},
        }
        with (
            transaction(folder) as staging,
            replacing(staging / NAMES) as description,
            replacing(staging / ARRAYS) as numbers,
        ):
            forget_checksums(staging)
            write_document(about, description, NAMES)
            write_arrays(arrays, numbers, ARRAYS)

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike[str], /) -> LabelNames:
        """Load from a trained folder.

        Raises:
            ModelFolderError: files are missing, or do not fit together.
        """
        path = Path(folder)
        return read_whole(path, lambda: cls.read(path), lambda: cls.files)

    @classmethod
    def read(cls, folder: Path) -> LabelNames:
        """Load from a folder that nobody changes; see `from_pretrained`."""
        for name in cls.files:
            if not (folder / name).is_file():
                raise ModelFolderError(f"no {name}", folder, hint="fit the channel with hf-xmc calibrate")
        from hf_xmc.retrieval.schemas import NamesDocument

        hint = "fit it again with hf-xmc calibrate"
        about = read_document(folder / NAMES, NamesDocument, FORMAT, hint)
        kinds = {name: ("u", 1) for name in ("keys", "kinds", "words", "characters")}
        kinds |= {name: ("i", 1) for name in ("labels", "used", "carried")} | {"known": ("iu", 1)}
        arrays = read_arrays(folder / ARRAYS, kinds, hint=hint)
        try:
            check_names(about, arrays)
            labels, used, carried = (arrays[name].astype(np.int64) for name in ("labels", "used", "carried"))
            names = Names(arrays["keys"], labels, arrays["kinds"], arrays["words"], arrays["characters"])
            priors, weight = np.array(about["priors"], np.float64), float(about["weight"])
            stems, learned = Stems(about["language"]), (priors, about["coefficients"])
            made = cls(
                stems, names, used, carried, *learned, arrays["known"], weight, about["learned_from"], about["ranges"]
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ModelFolderError(f"the names cannot be read ({error!s:.200})", folder, hint=hint) from error
        made.made_for = about.get("made_for")
        return made


def check_names(about: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
    """Reject arrays that do not fit each other or the labels.

    Raises:
        ValueError: columns of different lengths, labels that are not there, or a feature without a coefficient.
    """
    columns = ("keys", "labels", "kinds", "words", "characters", "used", "carried")
    if len({len(arrays[name]) for name in columns}) > 1:
        raise ValueError("columns of different lengths")
    num_labels = len(arrays["known"])
    if about.get("num_labels", num_labels) != num_labels:
        raise ValueError(f"{num_labels:,} labels, expected {about['num_labels']:,}")
    labels = arrays["labels"]
    if len(labels) and not 0 <= labels.min() <= labels.max() < num_labels:
        raise ValueError(f"labels outside 0 to {num_labels - 1:,}")
    words = arrays["words"]
    if len(words) and not 1 <= words.min() <= words.max() <= MAX_WORDS:
        raise ValueError(f"names of fewer than 1 or more than {MAX_WORDS} words")
    if len(arrays["kinds"]) and arrays["kinds"].max() > PART:
        raise ValueError("names of an unknown kind")
    if (arrays["keys"][1:] < arrays["keys"][:-1]).any():
        raise ValueError("names out of order")
    if len(about["priors"]) != MAX_WORDS or min(about["priors"]) <= 0 or max(about["priors"]) >= 1:
        raise ValueError(f"priors should be {MAX_WORDS} numbers between 0 and 1")
    if "bias" not in about["coefficients"]:
        raise ValueError("no coefficient of bias")


@dataclass(frozen=True)
class Pairs:
    """Texts and labels whose names stand in them, each pair once.

    Args:
        rows, labels: text and label, int64 `[P]`.
        entries: the row of the name table: of several names of the label the longest, int64 `[P]`.
        matches: how often names of the label stand in the text, int64 `[P]`.
        places: the first word of the first match, int64 `[P]`.
        sizes: words of the text, int64 `[P]`.
    """

    rows: np.ndarray
    labels: np.ndarray
    entries: np.ndarray
    matches: np.ndarray
    places: np.ndarray
    sizes: np.ndarray

    @classmethod
    def joined(cls, parts: Sequence[Pairs]) -> Pairs:
        """Pairs of several blocks of texts."""
        columns = [[getattr(part, name) for part in parts] for name in cls.__dataclass_fields__]
        return cls(*(np.concatenate(its) if its else np.zeros(0, np.int64) for its in columns))

    def take(self, rows: np.ndarray) -> Pairs:
        """Some of the pairs."""
        return Pairs(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))


def pairs_of(hits: Hits, starts: np.ndarray, labels: np.ndarray, sizes: np.ndarray, first_row: int) -> Pairs:
    """Hits of names as pairs of text and label.

    Args:
        starts: where the entries of each distinct name start, `[U + 1]`.
        labels: of each entry, `[E]`.
        sizes: words of each text.
        first_row: the row of the first text.
    """
    counts = np.diff(starts)[hits.names]
    hit = np.repeat(np.arange(len(counts)), counts)
    offset = np.arange(len(hit)) - np.repeat(np.cumsum(counts) - counts, counts)
    entry = starts[hits.names[hit]] + offset
    row, label = hits.rows[hit], labels[entry]
    order = np.lexsort((hits.places[hit], -hits.words[hit], label, row))
    row, label, entry, place = row[order], label[order], entry[order], hits.places[hit][order]
    first = np.ones(len(order), bool)
    first[1:] = (row[1:] != row[:-1]) | (label[1:] != label[:-1])
    where = np.flatnonzero(first)
    matches = np.diff(np.append(where, len(order)))
    earliest = np.minimum.reduceat(place, where) if len(where) else place
    row = row[where]
    return Pairs(row + first_row, label[where], entry[where], matches, earliest, sizes[row])


def contains(positives: Positives, rows: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Whether each text has the label, bool `[P]`."""
    truth = positives.numpy()
    stride = int(max(labels.max(initial=0), truth.indices.max(initial=0))) + 1
    return np.isin(rows * stride + labels, truth.keys(stride))


def logistic(features: np.ndarray, target: np.ndarray) -> dict[str, float]:
    """The coefficients of a logistic regression on features as they are, `[P, F]`; both classes must occur."""
    mean, scale = features.mean(axis=0), features.std(axis=0)
    scale[scale < 1e-9] = math.inf  # a feature that never changes says nothing
    standard = np.append((features - mean) / scale, np.ones((len(features), 1)), axis=1)
    *weights, bias = newton(standard, target, np.ones(len(target)), DECAY)
    weights = np.asarray(weights) / scale
    return {"bias": float(bias - mean @ weights), **dict(zip(FEATURES, weights.tolist(), strict=True))}
