"""The query memory: training queries similar to a query vote with their labels."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from scipy.special import expit, softmax

from hf_xmc.data.files import read_json, replacing
from hf_xmc.errors import DataError
from hf_xmc.metrics.ranking import ranking_metrics
from hf_xmc.retrieval.folder import fetch_folder
from hf_xmc.retrieval.fusion import FusionSettings, fuse, grid, joint_softmax, sum_votes
from hf_xmc.retrieval.search import as_matrix, exact_search
from hf_xmc.types import Positives, TopK

MEMORY, EMBEDDINGS, POSITIVES = "memory/memory.json", "memory/embeddings.npy", "memory/positives.safetensors"
MEMORY_FILES = (MEMORY, EMBEDDINGS, POSITIVES)
FORMAT = 1
BLOCK = 2**16  # rows of the memory that are searched at a time


class QueryMemory:
    """Embeddings of the training queries (half precision, memory-mapped once saved) and their labels.

    It holds nothing but training queries: validation or calibration queries in it would be their own neighbours.

    Args:
        embeddings: `[N, D]`.
        positives: their labels, N rows.
        num_labels: L.
        settings: how `search` and `combine` use it by default; see `tune_fusion`.

    >>> memory = QueryMemory.build(np.eye(3), Positives.from_lists([[4], [4, 5], [6]]), num_labels=7)
    >>> found = memory.search(np.array([[0.6, 0.7, 0.0]]), k=2, num_neighbours=2, temperature=None)
    >>> found.ids.tolist(), found.scores.round(4)
    ([[4, 5]], array([[0.8808, 0.7311]], dtype=float32))
    """

    def __init__(
        self, embeddings: np.ndarray, positives: Positives, num_labels: int, settings: FusionSettings | None = None
    ) -> None:
        if len(embeddings) != len(positives):
            raise ValueError(f"Found {len(embeddings):,} embeddings, but positives of {len(positives):,} queries.")
        self.embeddings = embeddings
        self.positives = positives
        self.num_labels = num_labels
        self.settings = settings or FusionSettings()

    @classmethod
    def build(
        cls, embeddings: Any, positives: Positives, num_labels: int, settings: FusionSettings | None = None
    ) -> QueryMemory:
        """From the embeddings `[N, D]` (array or tensor) of the training queries and their positives.

        Raises:
            ValueError: not one embedding a query, embeddings that are not finite, label ids from `num_labels` on.
        """
        positives = positives.numpy()
        positives.validate(num_labels)
        return cls(as_matrix(embeddings).astype(np.float16), positives, num_labels, settings)

    def __len__(self) -> int:
        """Number of training queries."""
        return len(self.embeddings)

    @property
    def weight(self) -> float:
        """The tuned weight of the memory in `fuse`."""
        return self.settings.weight

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
            num_neighbours: who votes; by default as tuned.
            temperature: a neighbour's vote is its share of the softmax of cosine / temperature, so that the votes for
                a label lie between 0 and 1. `None`: all votes are equal and the score is sigmoid(votes), as in
                PatentSBERTa (Bekamiri, Hain, Jurowetzki), which predicts labels above 0.9, or three votes. By
                default as tuned.
            exclude: for each query the row of the memory that is the query itself, -1 for none, `[B]`.
        """
        near = self.neighbours(queries, num_neighbours or self.settings.num_neighbours, exclude)
        return self.votes(near, k, self.settings.temperature if temperature == "tuned" else temperature)

    def combine(self, queries: Any, labels: TopK, k: int, exclude: np.ndarray | None = None) -> TopK:
        """The k best labels by label scores and memory together, as tuned, `[B, k]`.

        Args:
            queries: embeddings `[B, D]`.
            labels: the best labels by their own score, `[B, K]`, K >= k.
            exclude: see `search`.
        """
        if self.settings.weight == 0:
            return fuse(labels, labels, 0.0, k)
        near = self.neighbours(queries, self.settings.num_neighbours, exclude)
        return self.combine_with(near, labels, k, self.settings)

    def combine_with(self, near: TopK, labels: TopK, k: int, settings: FusionSettings) -> TopK:
        """The same from neighbours that were found before (`[B, M]`, M >= settings.num_neighbours)."""
        near = first_columns(near, settings.num_neighbours)
        if settings.combine == "sum":
            return fuse(labels, self.votes(near, None, settings.temperature), settings.weight, k)
        assert settings.temperature is not None
        return joint_softmax(labels, near, self.positives, settings.weight, settings.temperature, k)

    def neighbours(self, queries: Any, num_neighbours: int, exclude: np.ndarray | None = None) -> TopK:
        """The nearest training queries: rows of the memory and dot products, `[B, num_neighbours]`. Exact."""
        matrix = as_matrix(queries)
        if matrix.shape[1] != self.embeddings.shape[1]:
            raise ValueError(
                f"The queries have {matrix.shape[1]} dimensions, the memory {self.embeddings.shape[1]}; was it built "
                "by another model?"
            )
        wanted = num_neighbours + (exclude is not None)
        found = TopK(np.zeros((len(matrix), 0), np.int64), np.zeros((len(matrix), 0), np.float32))
        for start in range(0, len(self), BLOCK):
            block = np.asarray(self.embeddings[start : start + BLOCK], dtype=np.float32)
            part = exact_search(matrix, block, min(wanted, len(block)))
            both = TopK(
                np.concatenate([found.ids, part.ids + start], axis=1),
                np.concatenate([found.scores, part.scores], axis=1),
            ).sorted()
            found = TopK(both.ids[:, :wanted], both.scores[:, :wanted])
        if exclude is None:
            return found
        own = found.ids == np.asarray(exclude)[:, None]
        left = TopK(np.where(own, -1, found.ids), np.where(own, -np.inf, found.scores)).sorted()
        return TopK(left.ids[:, :num_neighbours], left.scores[:, :num_neighbours])

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

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write `memory/` into a trained folder: embeddings, positives, and `memory.json` with the settings."""
        folder = Path(folder)
        about = {
            "format": FORMAT,
            "num_queries": len(self),
            "num_labels": self.num_labels,
            "dimension": int(self.embeddings.shape[1]),
            "settings": asdict(self.settings),
        }
        arrays = {"indptr": self.positives.indptr, "indices": self.positives.indices.astype(np.int32)}
        with (
            replacing(folder / MEMORY) as description,
            replacing(folder / POSITIVES) as pairs,
            replacing(folder / EMBEDDINGS) as vectors,
        ):
            description.write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
            save_file(arrays, str(pairs))
            with vectors.open("wb") as file:  # numpy would add an ending to a name
                np.save(file, self.embeddings, allow_pickle=False)

    @classmethod
    def from_pretrained(cls, name_or_folder: str | os.PathLike[str], **hub: Any) -> QueryMemory:
        """Load from a folder or a Hub repository (`revision`, `token`, ... are passed on); embeddings are mapped.

        Raises:
            DataError: no memory there, or files that do not fit together.
        """
        folder = fetch_folder(name_or_folder, ["memory/*"], **hub)
        for name in (MEMORY, EMBEDDINGS, POSITIVES):
            if not (folder / name).is_file():
                raise DataError(f"no {name}", folder, hint="build the memory with hf-xmc calibrate")
        try:
            about = read_json(folder / MEMORY)
            if about["format"] > FORMAT:
                raise ValueError(f"format {about['format']}, this version reads {FORMAT}")
            arrays = load_file(str(folder / POSITIVES))
            embeddings = np.load(folder / EMBEDDINGS, mmap_mode="r", allow_pickle=False)
            positives = Positives(arrays["indptr"], arrays["indices"]).numpy()
            positives.validate(about["num_labels"])
            return cls(embeddings, positives, about["num_labels"], FusionSettings(**about["settings"]))
        except (KeyError, TypeError, ValueError, EOFError, SafetensorError) as error:
            hint = "build it again with hf-xmc calibrate"
            raise DataError(f"the memory cannot be read ({error!s:.200})", folder, hint=hint) from error


def first_columns(topk: TopK, width: int) -> TopK:
    """The first `width` columns of what is sorted."""
    return TopK(topk.ids[:, :width], topk.scores[:, :width])


def tune_fusion(
    memory: QueryMemory,
    queries: Any,
    labels: TopK,
    positives: Positives,
    settings: Sequence[FusionSettings] | None = None,
    filters: Positives | None = None,
    k: int = 5,
) -> tuple[FusionSettings, list[dict[str, Any]]]:
    """Try settings on held-out queries; returns the best, and what was tried.

    The best has the largest mean of P@1 and nDCG@k: P@1 is what the first label is worth, but of few queries it says
    little; nDCG is steadier. Of equal ones the first wins, so that labels alone win where memory does not help.

    Args:
        memory: of training queries only.
        queries: embeddings of the held-out queries, `[B, D]`.
        labels: their best labels by label scores, `[B, K]`; K of 50 to 100 is enough here.
        positives, filters: the truth, and pairs that are removed from predictions.
        settings: what to try; by default `fusion.grid()`.
    """
    tried = grid() if settings is None else list(settings)
    near = memory.neighbours(queries, max(one.num_neighbours for one in tried))
    depth = k + (0 if filters is None else int(max(filters.counts, default=0)))
    table = []
    voted: tuple[Any, TopK] = (None, labels)  # votes of the last settings: the weight does not change them
    for one in tried:
        if one.combine == "sum":
            key = (one.num_neighbours, one.temperature)
            voted = voted if voted[0] == key else (key, memory.votes(first_columns(near, key[0]), None, key[1]))
            combined = fuse(labels, voted[1], one.weight, depth)
        else:
            combined = memory.combine_with(near, labels, depth, one)
        found = ranking_metrics(combined, positives, ks=(1, k), filters=filters)
        table.append({**asdict(one), "P@1": found["P@1"], f"nDCG@{k}": found[f"nDCG@{k}"]})
    best = int(np.argmax([row["P@1"] + row[f"nDCG@{k}"] for row in table]))
    return tried[best], table
