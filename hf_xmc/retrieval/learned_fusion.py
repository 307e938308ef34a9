"""One ranking from several channels by a small linear model that is learned on held-out queries.

For each candidate it reads what every channel says: the score, alone and times the frequency of the label; its share
in a softmax over what the channel lists for the query; the rank; whether the channel lists it at all. To these it adds
in how many channels the label is among the first ten, and how often training queries carry it. Nothing in it belongs
to a single label but that count, so that it is the same for a catalogue of a million, and for labels that are added
later.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from scipy.special import expit

from hf_xmc.data.checksums import forget_checksums
from hf_xmc.data.documents import read_arrays, read_document, write_arrays, write_document
from hf_xmc.data.files import replacing
from hf_xmc.data.transaction import read_whole, transaction
from hf_xmc.errors import ModelFolderError
from hf_xmc.retrieval.scores import best_of
from hf_xmc.types import Positives, TopK

FUSION, COUNTS = "fusion.json", "fusion.safetensors"
FORMAT = 1
DEPTH = 100  # labels of each channel that are candidates
FIRST = 10  # labels of a channel that agree with those of others
ROWS = 1024  # queries fused at a time
# Features of each channel. The last one says whether the channel lists the label; all are 0 but the first two if not.
OWN = (
    "score",
    "score times frequency",
    "share",
    "logarithm of share",
    "reciprocal rank",
    "logarithm of rank",
    "listed",
)
SCORE, BY_FREQUENCY, SHARE, LOG_SHARE, RECIPROCAL, LOG_RANK, LISTED = range(len(OWN))
SMALLEST = 1e-4  # share of a label that is not listed, for the logarithm
COMMON = ("agreement", "frequency")


@dataclass(frozen=True)
class Listed:
    """What a channel lists for each query.

    Args:
        name: of the channel.
        topk: its labels with their scores, `[N, K]`.
        complete: whether labels that it does not list score 0; otherwise they score as much as the last one listed.
    """

    name: str
    topk: TopK
    complete: bool

    def first(self, depth: int = DEPTH) -> Listed:
        """The best labels only."""
        return replace(self, topk=self.topk.sorted().first(depth))

    def take(self, rows: Any) -> Listed:
        """Some of the queries."""
        return replace(self, topk=TopK(self.topk.ids[rows], self.topk.scores[rows]))


@dataclass(frozen=True)
class Candidates:
    """Labels that at least one channel lists, with what the channels say of them; sorted by query and label.

    Args:
        rows, labels: query and label of each candidate, int64 `[M]`.
        features: float32 `[M, F]`, named by `feature_names`.
        num_rows: queries.
        floors: the score of labels that the first channel does not list, float32 `[N]`.
    """

    rows: np.ndarray
    labels: np.ndarray
    features: np.ndarray
    num_rows: int
    floors: np.ndarray

    def true(self, positives: Positives) -> np.ndarray:
        """Which candidates are true labels of their query, bool `[M]`."""
        indptr = np.searchsorted(self.rows, np.arange(self.num_rows + 1))
        return np.asarray(positives.numpy().contains_pairs(Positives(indptr, self.labels)))

    def take(self, mask: np.ndarray) -> Candidates:
        """Some of the candidates, of the same queries."""
        return replace(self, rows=self.rows[mask], labels=self.labels[mask], features=self.features[mask])

    def ranked(self, scores: np.ndarray, k: int | None = None) -> TopK:
        """The candidates by these scores `[M]`, the k best of each query or all."""
        return best_of(self.rows, self.labels, scores, self.num_rows, k)


def feature_names(channels: Sequence[str]) -> list[str]:
    """The features of channels, in the order of the columns.

    >>> feature_names(["labels"])[5:]
    ['labels logarithm of rank', 'labels listed', 'agreement', 'frequency']
    """
    return [f"{channel} {own}" for channel in channels for own in OWN] + [*COMMON]


def candidates(lists: Sequence[Listed], temperatures: Mapping[str, float], frequency: np.ndarray) -> Candidates:
    """All labels that channels list, with their features.

    Args:
        lists: what each channel lists, the label vectors first; cut at `DEPTH`, best first.
        temperatures: of the softmax of each channel.
        frequency: of each label in training and of later labels, float32 `[L + 1]`; see `frequency_of`.
    """
    size = len(lists[0].topk)
    stride = max(int(one.topk.ids.max(initial=0)) for one in lists) + 1
    spots = [np.nonzero(one.topk.ids >= 0) for one in lists]
    keys = [row * stride + one.topk.ids[row, rank] for one, (row, rank) in zip(lists, spots, strict=True)]
    every = np.unique(np.concatenate(keys))
    rows, labels = np.divmod(every, stride)
    features = np.zeros((len(every), len(feature_names([one.name for one in lists]))), np.float32)
    floors = [lowest(one) for one in lists]
    features[:, -1] = frequency[np.minimum(labels, len(frequency) - 1)]
    for i, (one, (row, rank), key) in enumerate(zip(lists, spots, keys, strict=True)):
        where, columns = np.searchsorted(every, key), features[:, i * len(OWN) : (i + 1) * len(OWN)]
        columns[:, SCORE] = floors[i][rows]
        columns[where, SCORE] = one.topk.scores[row, rank]
        columns[:, BY_FREQUENCY] = columns[:, SCORE] * features[:, -1]
        share = shares(one, temperatures[one.name])[row, rank]
        columns[where, SHARE] = share
        columns[where, LOG_SHARE] = np.log1p(share / SMALLEST)
        columns[where, RECIPROCAL] = 1 / (1 + rank)
        columns[where, LOG_RANK] = np.log((1 + DEPTH) / (1 + rank))
        columns[where, LISTED] = 1
        features[where, -2] += rank < FIRST
    features[:, -2] = np.maximum(features[:, -2] - 1, 0)
    return Candidates(rows, labels, features, size, floors[0])


def lowest(one: Listed) -> np.ndarray:
    """The score of labels that a channel does not list, float32 `[N]`."""
    if one.complete:
        return np.zeros(len(one.topk), np.float32)
    found = np.where(one.topk.ids >= 0, one.topk.scores, np.inf).min(axis=1, initial=np.inf)
    return np.where(np.isfinite(found), found, 0).astype(np.float32)


def shares(one: Listed, temperature: float) -> np.ndarray:
    """The softmax over what a channel lists, `[N, K]`; 0 for padding."""
    real = one.topk.ids >= 0
    scores = np.where(real, one.topk.scores, -np.inf).astype(np.float64)
    top = scores.max(axis=1, keepdims=True, initial=-np.inf)
    powers = np.where(real, np.exp((scores - np.where(np.isfinite(top), top, 0)) / temperature), 0)
    return powers / np.maximum(powers.sum(axis=1, keepdims=True), 1e-30)


def spread(one: Listed) -> float:
    """How far the scores of the first ten labels lie apart, which serves as temperature of the softmax."""
    scores = np.where(one.topk.ids >= 0, one.topk.scores, np.nan)[:, :FIRST]
    several = scores[(np.isfinite(scores).sum(axis=1)) > 1]
    found = float(np.nanmean(np.nanstd(several, axis=1))) if len(several) else 0.0
    return found if found > 1e-6 else 0.1


@dataclass(frozen=True)
class LearnedFusion:
    """A linear model over the features of channels; a label's score is its sigmoid, from 0 to 1.

    Args:
        channels: names, the label vectors first. It ranks by exactly these.
        weights: of the features (`feature_names`), float64 `[F]`.
        bias: added to the weighted sum.
        temperatures: of the softmax of each channel.
        label_counts: training queries of each label, int32 `[L]`.
        about: how it was learned, JSON values.
    """

    channels: tuple[str, ...]
    weights: np.ndarray
    bias: float
    temperatures: Mapping[str, float]
    label_counts: np.ndarray
    about: Mapping[str, Any]

    name: ClassVar[str] = "fusion"

    @cached_property
    def frequency(self) -> np.ndarray:
        """See `candidates`."""
        return frequency_of(self.label_counts)

    def __call__(
        self, lists: Sequence[Listed], k: int, deeper: TopK | None = None, allowed: np.ndarray | None = None
    ) -> TopK:
        """The k best labels, `[N, k]`.

        The score of a label depends neither on k nor on which labels are allowed.

        Args:
            lists: what each of `channels` lists, in their order, regardless of `allowed`.
            deeper: the best allowed labels by their vectors, `[N, K]`; those that are no candidates follow below the
                candidates. None if the candidates are enough.
            allowed: rows of the label table that may be returned, bool `[L]`; None for all.
        """
        parts = []
        for start in range(0, max(len(lists[0].topk), 1), ROWS):
            rows = slice(start, start + ROWS)
            below = None if deeper is None else TopK(deeper.ids[rows], deeper.scores[rows])
            parts.append(self._fuse([one.take(rows) for one in lists], k, below, allowed))
        return TopK(np.concatenate([part.ids for part in parts]), np.concatenate([part.scores for part in parts]))

    def _fuse(self, lists: Sequence[Listed], k: int, deeper: TopK | None, allowed: np.ndarray | None) -> TopK:
        found = self.candidates(lists)
        raw = self.raw(found)
        rows, labels = found.rows, found.labels
        if deeper is not None and deeper.k:
            more_rows, more_labels, more = self.below(found, raw, deeper)
            rows, labels = np.concatenate([rows, more_rows]), np.concatenate([labels, more_labels])
            raw = np.concatenate([raw, more])
        if allowed is not None:
            kept = allowed[labels]
            rows, labels, raw = rows[kept], labels[kept], raw[kept]
        return ranked_by_sigmoid(rows, labels, raw, found.num_rows, k)

    def candidates(self, lists: Sequence[Listed]) -> Candidates:
        """The candidates of these lists with their features."""
        return candidates([one.first() for one in lists], self.temperatures, self.frequency)

    def raw(self, found: Candidates) -> np.ndarray:
        """The weighted sum of each candidate's features, float64 `[M]`."""
        return found.features.astype(np.float64) @ self.weights + self.bias

    def below(self, found: Candidates, raw: np.ndarray, deeper: TopK) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Labels that are no candidates: query, label and weighted sum. They stand below all candidates of the query,
        as far as their vectors score below those of the last one listed, so that their order does not depend on how
        many are asked for."""
        row, rank = np.nonzero(deeper.ids >= 0)
        label, score = deeper.ids[row, rank].astype(np.int64), deeper.scores[row, rank].astype(np.float64)
        stride = int(max(found.labels.max(initial=0), label.max(initial=0))) + 1
        new = ~np.isin(row * stride + label, found.rows * stride + found.labels)
        row, label, score = row[new], label[new], score[new]
        least = np.full(found.num_rows, np.inf)
        np.minimum.at(least, found.rows, raw)
        least[~np.isfinite(least)] = 0
        slope = max(float(self.weights[SCORE]), 1.0)
        return row, label, least[row] - slope * np.maximum(found.floors[row] - score, 1e-6)

    def contributions(self, found: Candidates) -> dict[str, np.ndarray]:
        """What each channel adds to the weighted sum of a candidate, compared with a label that it does not list, and
        what `"all"` of them have in common; float64 `[M]`."""
        parts, size = {}, len(OWN)
        for i, channel in enumerate(self.channels):
            columns = slice(i * size, (i + 1) * size)
            values = found.features[:, columns].astype(np.float64)
            floor = np.where(values[:, LISTED] > 0, self.floor(found, i), values[:, SCORE])
            values[:, SCORE] -= floor
            values[:, BY_FREQUENCY] -= floor * found.features[:, -1]
            parts[channel] = values @ self.weights[columns]
        parts["all"] = found.features[:, -len(COMMON) :].astype(np.float64) @ self.weights[-len(COMMON) :]
        return parts

    @staticmethod
    def floor(found: Candidates, channel: int) -> np.ndarray:
        """The score in a channel of labels that it does not list, for the query of each candidate, float64 `[M]`."""
        if channel == 0:
            return found.floors[found.rows].astype(np.float64)
        columns = found.features[:, channel * len(OWN) : (channel + 1) * len(OWN)]
        listed, scores = columns[:, LISTED] > 0, columns[:, SCORE]
        floors = np.zeros(found.num_rows)
        floors[found.rows[~listed]] = scores[~listed]
        return floors[found.rows]

    def describe(self) -> dict[str, Any]:
        """Channels, and how it was learned; JSON values."""
        return {"channels": [*self.channels], **self.about}

    def fingerprint(self) -> str:
        """A hash of all that scores depend on."""
        settings = [self.channels, self.weights.tolist(), self.bias, sorted(self.temperatures.items())]
        digest = blake2b(repr(settings).encode(), digest_size=12)
        digest.update(np.ascontiguousarray(self.label_counts, dtype=np.int32).tobytes())
        return digest.hexdigest()

    def save_pretrained(self, folder: str | os.PathLike[str], /) -> None:
        """Write `fusion.json` and `fusion.safetensors` into a trained folder."""
        about = {
            "format": FORMAT,
            "channels": [*self.channels],
            "weights": dict(zip(feature_names(self.channels), self.weights.tolist(), strict=True)),
            "bias": self.bias,
            "temperatures": dict(self.temperatures),
            "about": dict(self.about),
        }
        with (
            transaction(folder) as staging,
            replacing(staging / FUSION) as description,
            replacing(staging / COUNTS) as numbers,
        ):
            forget_checksums(staging)
            write_document(about, description, FUSION)
            write_arrays({"label_counts": np.asarray(self.label_counts, dtype=np.int32)}, numbers, COUNTS)

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike[str], /) -> LearnedFusion:
        """Load from a trained folder.

        Raises:
            ModelFolderError: files are missing, or do not fit together.
        """
        path = Path(folder)
        return read_whole(path, lambda: cls.read(path), lambda: (FUSION, COUNTS))

    @classmethod
    def read(cls, folder: Path) -> LearnedFusion:
        """Load from a folder that nobody changes; see `from_pretrained`."""
        hint = "fit it again with hf-xmc calibrate"
        for name in (FUSION, COUNTS):
            if not (folder / name).is_file():
                raise ModelFolderError(f"no {name}", folder, hint=hint)
        from hf_xmc.retrieval.schemas import FusionDocument

        about = read_document(folder / FUSION, FusionDocument, FORMAT, hint)
        counts = read_arrays(folder / COUNTS, {"label_counts": ("iu", 1)}, hint=hint)["label_counts"]
        channels = tuple(about["channels"])
        missing = [name for name in feature_names(channels) if name not in about["weights"]]
        missing += [name for name in channels if name not in about["temperatures"]]
        if missing or counts.min(initial=0) < 0:
            found = f"no weight or temperature of {missing[0]!r}" if missing else "labels with fewer than 0 texts"
            raise ModelFolderError(found, folder / FUSION, hint=hint)
        weights = np.array([about["weights"][name] for name in feature_names(channels)], np.float64)
        temperatures = {name: float(about["temperatures"][name]) for name in channels}
        return cls(channels, weights, float(about["bias"]), temperatures, counts, about.get("about", {}))


def ranked_by_sigmoid(rows: np.ndarray, labels: np.ndarray, raw: np.ndarray, num_rows: int, k: int | None) -> TopK:
    """Labels by falling weighted sum, whose sigmoid is their score."""
    found = best_of(rows, labels, raw, num_rows, k)
    return TopK(found.ids, np.where(found.ids < 0, -np.inf, expit(found.scores)).astype(np.float32))


def frequency_of(label_counts: np.ndarray) -> np.ndarray:
    """The logarithm of how often labels occur, from 0 to 1 for the most frequent one, and at the end that of labels
    that are added later, float32 `[L + 1]`.

    How often a label will be used that nobody has used yet is unknown: it counts as a middling one.

    >>> frequency_of(np.array([0, 1, 3, 7])).astype(float).round(2).tolist()
    [0.67, 0.33, 0.67, 1.0, 0.67]
    """
    logs = np.log1p(np.append(label_counts, 0).astype(np.float32))
    used = logs[logs > 0]
    logs[logs == 0] = np.median(used) if len(used) else 0
    return (logs / max(float(logs.max(initial=0)), 1e-6)).astype(np.float32)
