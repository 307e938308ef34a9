"""The second channel: training queries similar to a query vote for their labels."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from hashlib import blake2b
from itertools import product
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from scipy.special import expit, softmax

from hf_xmc.data.checksums import forget_checksums
from hf_xmc.data.documents import is_sound, read_arrays, read_document, write_arrays, write_document
from hf_xmc.data.files import replacing
from hf_xmc.data.transaction import read_whole, transaction
from hf_xmc.errors import DataError, ModelFolderError, SettingsError
from hf_xmc.retrieval.bags import Bags
from hf_xmc.retrieval.channels.channel import TrainQueries
from hf_xmc.retrieval.folder import fetch_folder
from hf_xmc.retrieval.scores import add_scores, best_of
from hf_xmc.retrieval.search import as_matrix, exact_search
from hf_xmc.types import Positives, TopK

MEMORY, EMBEDDINGS, POSITIVES = "memory/memory.json", "memory/embeddings.npy", "memory/positives.safetensors"
MEMORY_FILES = (MEMORY, EMBEDDINGS, POSITIVES)
FORMAT = 1
COMBINATIONS = ("sum", "joint")
NEIGHBOURS = (10, 30, 100)  # numbers of neighbours tried on validation
TEMPERATURES = (0.04, 0.08, 0.15)  # temperatures tried on validation
BLOCK = 2**16  # rows of the memory searched at a time
ROWS = 1024  # queries whose neighbours' labels are unfolded at a time
WHOLE = 2**24  # numbers that are checked; of a larger array as many, evenly spaced
SAMPLE = 2**20  # numbers of a large array that its fingerprint reads, evenly spaced


@dataclass(frozen=True)
class MemorySettings:
    """How the memory votes, and how its votes are combined with the scores of label vectors.

    Args:
        combine: `"sum"`: (1 - weight) label score + weight votes; or `"joint"`: one softmax over labels and
            neighbours, as in RAE-XMC.
        weight: share of the memory in the fused score, 0 (labels only) to 1 (neighbours only); lambda in RAE-XMC.
        num_neighbours: training queries that vote.
        temperature: of the softmax over similarities; RAE-XMC uses 0.04. None: equal votes.
    """

    combine: str = "sum"
    weight: float = 0.5
    num_neighbours: int = 50
    temperature: float | None = 0.04

    def __post_init__(self) -> None:
        if self.combine not in COMBINATIONS:
            raise SettingsError(f"combine is {self.combine!r}; expected one of {', '.join(COMBINATIONS)}")
        if not 0 <= self.weight <= 1:
            raise SettingsError(f"weight is {self.weight}; expected 0 (labels only) to 1 (memory only)")
        if self.num_neighbours < 1:
            raise SettingsError(f"num_neighbours is {self.num_neighbours}; it must be at least 1")
        if self.temperature is not None and not self.temperature > 0:
            raise SettingsError(f"temperature is {self.temperature}; it must be above 0")
        if self.combine == "joint" and self.temperature is None:
            raise SettingsError("combine='joint' is a softmax and needs a temperature")


class QueryMemory:
    """Embeddings of the training queries (half precision, memory-mapped once saved) and their labels.

    It must hold training queries only: validation or calibration queries would be their own neighbours.

    Args:
        embeddings: `[N, D]`.
        positives: their labels, N rows.
        num_labels: L.
        settings: how it votes by default; learned by [`hf_xmc.retrieval.fusion.tune_channel`].

    >>> memory = QueryMemory.build(np.eye(3), Positives.from_lists([[4], [4, 5], [6]]), num_labels=7)
    >>> found = memory.search(np.array([[0.6, 0.7, 0.0]]), k=2, num_neighbours=2, temperature=None)
    >>> found.ids.tolist(), found.scores.round(4)
    ([[4, 5]], array([[0.8808, 0.7311]], dtype=float32))
    """

    name: ClassVar[str] = "memory"
    files: ClassVar[tuple[str, ...]] = MEMORY_FILES
    complete: ClassVar[bool] = True  # a label without votes scores 0

    def __init__(
        self, embeddings: np.ndarray, positives: Positives, num_labels: int, settings: MemorySettings | None = None
    ) -> None:
        if len(embeddings) != len(positives):
            raise DataError(f"Found {len(embeddings):,} embeddings, but positives of {len(positives):,} queries")
        self.embeddings = embeddings
        self.positives = positives
        self.num_labels = num_labels
        self.settings = settings or MemorySettings()
        self.made_for: Mapping[str, Any] | None = None  # encoder and labels; the pipeline sets it

    @classmethod
    def build(
        cls, embeddings: Any, positives: Positives, num_labels: int, settings: MemorySettings | None = None
    ) -> QueryMemory:
        """From the embeddings `[N, D]` (array or tensor) of the training queries and their positives.

        Raises:
            DataError: the number of embeddings is not that of the queries, embeddings are not finite, or a label id is
                not below `num_labels`.
        """
        positives = positives.numpy()
        positives.validate(num_labels)
        halves = as_matrix(embeddings).astype(np.float16)
        as_matrix(halves)  # of which large numbers are infinity
        return cls(halves, positives, num_labels, settings)

    @classmethod
    def fit(cls, train: TrainQueries) -> QueryMemory:
        """The memory of a training split, with the default settings."""
        return cls.build(train.embeddings, train.positives, len(train.labels))

    def __len__(self) -> int:
        """Number of training queries."""
        return len(self.embeddings)

    @property
    def weight(self) -> float:
        """Share of the memory in the fused score."""
        return self.settings.weight

    @weight.setter
    def weight(self, value: float) -> None:
        self.settings = replace(self.settings, weight=value)

    def rank(self, texts: Sequence[str] | None, embeddings: Any, k: int, allowed: np.ndarray | None = None) -> TopK:
        """All labels with a vote, regardless of `k`, since few votes can still change the order of similar labels."""
        return self.votes(self.neighbours(embeddings, self.settings.num_neighbours), None, self.settings.temperature)

    def search(
        self,
        queries: Any,
        k: int,
        num_neighbours: int | None = None,
        temperature: float | Literal["tuned"] | None = "tuned",
        exclude: np.ndarray | None = None,
    ) -> TopK:
        """The k labels with most votes of the nearest training queries, `[B, k]`.

        Args:
            queries: embeddings `[B, D]`.
            num_neighbours: number of training queries that vote; by default as tuned.
            temperature: a neighbour's vote is its share of the softmax of cosine / temperature, so that the votes for
                a label lie between 0 and 1. `None`: all votes are equal and the score is sigmoid(votes), as in
                PatentSBERTa (Bekamiri, Hain, Jurowetzki), which predicts labels above 0.9, or three votes. By
                default as tuned.
            exclude: for each query the row of the memory that is the query itself, -1 for none, `[B]`.
        """
        near = self.neighbours(queries, num_neighbours or self.settings.num_neighbours, exclude)
        return self.votes(near, k, self.settings.temperature if temperature == "tuned" else temperature)

    def joint(self, labels: TopK, embeddings: Any, k: int | None = None) -> TopK:
        """RAE-XMC's ranking by one softmax over label vectors and neighbours; see `joint_softmax`.

        Args:
            labels: the best labels by their vectors, `[B, K]`.
            embeddings: of the queries, `[B, D]`.
            k: labels to keep; by default all of `labels` and all with a vote.
        """
        near = self.neighbours(embeddings, self.settings.num_neighbours)
        return self.joint_with(near, labels, k)

    def joint_with(self, near: TopK, labels: TopK, k: int | None = None) -> TopK:
        """`joint` with neighbours found before, `[B, M]`, M >= `num_neighbours`."""
        assert self.settings.temperature is not None
        near = near.first(self.settings.num_neighbours)
        return joint_softmax(labels, near, self.positives, self.settings.weight, self.settings.temperature, k)

    def versions(
        self,
        texts: Sequence[str] | None,
        embeddings: Any,
        neighbours: Sequence[int] = NEIGHBOURS,
        temperatures: Sequence[float] = TEMPERATURES,
    ) -> Iterable[tuple[QueryMemory, TopK]]:
        """The memory with each number of neighbours and temperature, and its votes."""
        near = self.neighbours(embeddings, max(neighbours))
        for number, temperature in product(neighbours, temperatures):
            settings = MemorySettings("sum", self.weight, number, temperature)
            yield self.with_settings(settings), self.votes(near.first(number), None, temperature)

    def joint_versions(
        self,
        labels: TopK,
        embeddings: Any,
        weights: Sequence[float],
        k: int,
        num_neighbours: int = max(NEIGHBOURS),
        temperatures: Sequence[float] = TEMPERATURES,
    ) -> Iterable[tuple[QueryMemory, TopK]]:
        """The memory with each setting of the joint softmax, and what it ranks."""
        near = self.neighbours(embeddings, num_neighbours)
        for temperature, weight in product(temperatures, weights):
            version = self.with_settings(MemorySettings("joint", weight, num_neighbours, temperature))
            yield version, version.joint_with(near, labels, k)

    def with_settings(self, settings: MemorySettings) -> QueryMemory:
        """The same training queries with other settings."""
        made = QueryMemory(self.embeddings, self.positives, self.num_labels, settings)
        made.made_for = self.made_for
        return made

    def neighbours(self, queries: Any, num_neighbours: int, exclude: np.ndarray | None = None) -> TopK:
        """The nearest training queries: rows of the memory and dot products, `[B, num_neighbours]`. Exact. Those of a
        bag are the nearest to any of its passages."""
        if isinstance(queries, Bags):
            own = None if exclude is None else np.repeat(exclude, queries.counts)
            return queries.merged(self.neighbours(queries.vectors, num_neighbours, own), num_neighbours)
        matrix = as_matrix(queries)
        if matrix.shape[1] != self.embeddings.shape[1]:
            raise ModelFolderError(
                f"The queries have {matrix.shape[1]} dimensions, the memory {self.embeddings.shape[1]}",
                hint="it was built with another model; build it again with hf-xmc calibrate",
            )
        wanted = num_neighbours + (exclude is not None)
        found = TopK(np.zeros((len(matrix), 0), np.int64), np.zeros((len(matrix), 0), np.float32))
        for start in range(0, len(self), BLOCK):
            block = np.asarray(self.embeddings[start : start + BLOCK], dtype=np.float32)
            part = exact_search(matrix, block, min(wanted, len(block)))
            both = TopK(
                np.concatenate([found.ids, part.ids + start], axis=1),
                np.concatenate([found.scores, part.scores], axis=1),
            )
            found = both.sorted().first(wanted)
        if exclude is None:
            return found
        own = found.ids == np.asarray(exclude)[:, None]
        left = TopK(np.where(own, -1, found.ids), np.where(own, -np.inf, found.scores))
        return left.sorted().first(num_neighbours)

    def votes(self, near: TopK, k: int | None, temperature: float | None) -> TopK:
        """The labels of neighbours with their votes; see `search`."""
        present = near.ids >= 0
        if temperature is None:
            counted = sum_votes(near.ids, present.astype(np.float32), self.positives, k)
            return TopK(counted.ids, np.where(counted.ids < 0, -np.inf, expit(counted.scores)).astype(np.float32))
        if not near.k:
            return sum_votes(near.ids, near.scores, self.positives, k)
        scores = np.where(present.any(axis=1, keepdims=True), near.scores, 0.0)  # no softmax of nothing
        return sum_votes(near.ids, softmax(scores / temperature, axis=1), self.positives, k)

    def describe(self) -> dict[str, Any]:
        """The settings, JSON values."""
        return asdict(self.settings)

    def fingerprint(self) -> str:
        """A hash of the training queries, their labels and the settings."""
        return blake2b(f"{self.content} {self.settings}".encode(), digest_size=12).hexdigest()

    @cached_property
    def content(self) -> str:
        """A hash of embeddings and labels; of large arrays it reads a sample, so that a mapped file stays on disk."""
        digest = blake2b(repr([self.embeddings.shape, self.num_labels]).encode(), digest_size=12)
        rows = max(1, self.embeddings.size // SAMPLE)
        digest.update(np.ascontiguousarray(self.embeddings[::rows]).tobytes())
        for array in (self.positives.indptr, self.positives.indices):
            digest.update(np.asarray(array[:: max(1, len(array) // SAMPLE)], dtype=np.int64).tobytes())
        return digest.hexdigest()

    @property
    def size_bytes(self) -> int:
        """Bytes of its arrays."""
        return int(self.embeddings.nbytes + self.positives.indptr.nbytes + self.positives.indices.nbytes // 2)

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write `memory/` into a trained folder: embeddings, positives, and `memory.json` with the settings."""
        about = {
            "format": FORMAT,
            "num_queries": len(self),
            "num_labels": self.num_labels,
            "dimension": int(self.embeddings.shape[1]),
            "settings": asdict(self.settings),
            **({"made_for": dict(self.made_for)} if self.made_for else {}),
        }
        arrays = {"indptr": self.positives.indptr, "indices": self.positives.indices.astype(np.int32)}
        with (
            transaction(folder) as staging,
            replacing(staging / MEMORY) as description,
            replacing(staging / POSITIVES) as pairs,
            replacing(staging / EMBEDDINGS) as vectors,
        ):
            forget_checksums(staging)
            write_document(about, description, MEMORY)
            write_arrays(arrays, pairs, POSITIVES)
            with vectors.open("wb") as file:  # numpy would add a suffix to a name
                np.save(file, self.embeddings, allow_pickle=False)

    @classmethod
    def from_pretrained(cls, name_or_folder: str | os.PathLike[str], **hub: Any) -> QueryMemory:
        """Load from a folder or a Hub repository (`revision`, `token`, ... are passed on); embeddings are mapped.

        Raises:
            ModelFolderError: there is no memory, or its files do not fit together.
        """
        folder = fetch_folder(name_or_folder, ["memory/*"], **hub)
        return read_whole(folder, lambda: cls.read(folder), lambda: MEMORY_FILES)

    @classmethod
    def read(cls, folder: Path) -> QueryMemory:
        """Load from a folder that nobody changes; see `from_pretrained`."""
        for name in MEMORY_FILES:
            if not (folder / name).is_file():
                raise ModelFolderError(f"no {name}", folder, hint="build the memory with hf-xmc calibrate")
        from hf_xmc.retrieval.schemas import MemoryDocument

        hint = "build it again with hf-xmc calibrate"
        about = read_document(folder / MEMORY, MemoryDocument, FORMAT, hint)
        arrays = read_arrays(folder / POSITIVES, {"indptr": ("i", 1), "indices": ("i", 1)}, hint=hint)
        embeddings = read_embeddings(folder, (about["num_queries"], about["dimension"]), hint)
        try:
            positives = Positives(arrays["indptr"], arrays["indices"]).numpy()
            positives.validate(about["num_labels"])
            made = cls(embeddings, positives, about["num_labels"], MemorySettings(**known(about["settings"])))
        except (TypeError, ValueError, IndexError) as error:
            raise ModelFolderError(f"the memory cannot be read ({error!s:.200})", folder, hint=hint) from error
        made.made_for = about.get("made_for")
        return made


def known(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings that this version has."""
    return {name: settings[name] for name in MemorySettings.__dataclass_fields__}


def read_embeddings(folder: Path, shape: tuple[int, int], hint: str) -> np.ndarray:
    """The mapped embeddings of a folder.

    Raises:
        ModelFolderError: the file is damaged, has another shape or type, or numbers that are not finite; of many the
            file is read in a sample.
    """
    try:
        embeddings = np.load(folder / EMBEDDINGS, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # numpy evaluates the header as a literal, which fails in many ways
        raise ModelFolderError(f"not a sound array ({error!s:.200})", folder / EMBEDDINGS, hint=hint) from error
    if not isinstance(embeddings, np.ndarray) or embeddings.dtype not in (np.float16, np.float32):
        raise ModelFolderError("no array of float16 or float32", folder / EMBEDDINGS, hint=hint)
    if embeddings.shape != shape:
        found = f"found shape {[*embeddings.shape]}, expected {[*shape]} by {MEMORY}"
        raise ModelFolderError(found, folder / EMBEDDINGS, hint=hint)
    step = max(1, embeddings.size // WHOLE)
    if not is_sound(np.asarray(embeddings[::step])):
        raise ModelFolderError("numbers that are not finite", folder / EMBEDDINGS, hint=hint)
    return embeddings


def joint_softmax(
    labels: TopK, neighbours: TopK, positives: Positives, weight: float, temperature: float, k: int | None
) -> TopK:
    """RAE-XMC's ranking: one softmax over the similarities of labels and training queries, whose weights go to the
    label itself (times 1 - lambda) or to all labels of the training query (times lambda).

    After Wang, Chang, Jiang, Zhang, Yu, Vishwanathan 2025. There the softmax runs over the best 200 of both together;
    here it runs over everything that is given.

    Args:
        labels: label ids and cosines, `[N, K]`.
        neighbours: rows of the memory and their cosines, `[N, M]`.
        positives: the labels of each row of the memory.
        weight: lambda.
        k: labels to keep; None for all.

    >>> labels = TopK(np.array([[1, 2]]), np.array([[0.82, 0.70]]))
    >>> neighbours = TopK(np.array([[0, 1]]), np.array([[0.80, 0.78]]))
    >>> found = joint_softmax(labels, neighbours, Positives.from_lists([[0], [0, 1]]), 0.5, 0.04, k=3)
    >>> found.ids.tolist(), found.scores.round(4)
    ([[1, 0, 2]], array([[0.3379, 0.2407, 0.0123]], dtype=float32))
    """
    both = np.concatenate([labels.scores, neighbours.scores], axis=1).astype(np.float64) / temperature
    both = np.exp(both - np.where(np.isfinite(both), both, -np.inf).max(axis=1, keepdims=True, initial=-1e30))
    both = both / np.maximum(both.sum(axis=1, keepdims=True), 1e-30)  # [N, K + M]
    own = np.where(np.asarray(labels.ids) >= 0, (1 - weight) * both[:, : labels.k], -np.inf)
    votes = sum_votes(neighbours.ids, weight * both[:, labels.k :], positives)
    return add_scores(TopK(labels.ids, own.astype(np.float32)), votes, labels.k + votes.k if k is None else k)


def sum_votes(rows: np.ndarray, weights: np.ndarray, positives: Positives, k: int | None = None) -> TopK:
    """The labels of the neighbours, each with the summed weights of those that have it.

    Args:
        rows: neighbours of each query, rows of `positives`, `[N, M]`; -1 for none.
        weights: of each neighbour, `[N, M]`.
        k: labels to keep; by default all that have a vote.
    """
    truth = positives.numpy()
    parts = []
    for start in range(0, len(rows), ROWS):
        near, weight = rows[start : start + ROWS], weights[start : start + ROWS]
        query, column = np.nonzero(near >= 0)
        found = truth.take(near[query, column])
        parts.append(
            best_of(
                np.repeat(query, found.counts),
                found.indices,
                np.repeat(weight[query, column], found.counts),
                len(near),
                k,
            )
        )
    width = max((part.k for part in parts), default=0) if k is None else k
    ids = np.full((len(rows), width), -1, dtype=np.int64)
    scores = np.full((len(rows), width), -np.inf, dtype=np.float32)
    for start, part in zip(range(0, len(rows), ROWS), parts, strict=True):
        ids[start : start + ROWS, : part.k], scores[start : start + ROWS, : part.k] = part.ids, part.scores
    return TopK(ids, scores)
