"""Which passages of a long text speak for a label, by the embeddings that its labels were found with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from hf_xmc.retrieval.bags import Bags, passage_scores
from hf_xmc.retrieval.index import LabelIndex

MOST = 3  # passages that are named for a label
BESIDE = 2  # passages on either side whose scores count as well
LIKENESS = 0.3  # temperature of the softmax over their cosines: the smaller, the less those count that are not alike


@dataclass(frozen=True)
class Spoken:
    """A passage of a text, `source[start:end]`, and its score for the label (see `evidence`)."""

    text: str
    start: int
    end: int
    score: float


def spoken_passages(index: LabelIndex, text: str, embeddings: Any, label_ids: Sequence[int]) -> list[list[Spoken]]:
    """For each label the passages of largest score, best first; none for a text that is not cut.

    Args:
        embeddings: what the pipeline's `encode` returns for the text alone.
    """
    bags = embeddings if isinstance(embeddings, Bags) else None
    if bags is None or bags.spans is None or bags.counts[0] < 2 or not len(label_ids):
        return [[] for _ in label_ids]
    scores = evidence(bags[0], passage_scores(index, bags[0], np.asarray(label_ids, np.int64)))  # [T, n]
    found = []
    for own in scores.T:
        best = np.argsort(-own, kind="stable")[:MOST].tolist()
        spans = [(float(own[i]), *bags.spans[i].tolist()) for i in best]
        found.append([Spoken(text[start:end].strip(), start, end, score) for score, start, end in spans])
    return found


def evidence(vectors: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """How much each passage of a text speaks for each label: the mean of its own score and those of the passages
    beside it, weighted by how like it they are. What a text says of a subject often takes more than one passage, and
    its parts alone score low.

    Args:
        vectors: embeddings of the passages in their order, `[T, D]`.
        scores: of labels by each passage alone, `[T, n]`; -inf counts as no evidence anywhere near.

    Returns:
        `[T, n]`, in the units of `scores`.

    >>> vectors = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    >>> evidence(vectors, np.array([[0.6], [0.0], [0.0]])).round(2).tolist()
    [[0.29], [0.29], [0.02]]
    """
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    summed, total = np.zeros_like(scores, dtype=np.float64), np.zeros(len(scores))
    for step in range(-BESIDE, BESIDE + 1):
        own = slice(max(0, -step), len(unit) - max(0, step))
        other = slice(max(0, step), len(unit) + min(0, step))
        weights = np.exp((unit[own] * unit[other]).sum(axis=1) / LIKENESS)
        summed[own] += weights[:, None] * scores[other]
        total[own] += weights
    return summed / total[:, None]


def add_passages(
    index: LabelIndex, texts: Sequence[str], embeddings: Any, tagged: Sequence[Sequence[dict[str, Any]]]
) -> None:
    """Give each tag of a text that is cut the passages that speak for it, as dicts under `"passages"`."""
    for row, (text, tags) in enumerate(zip(texts, tagged, strict=True)):
        found = spoken_passages(index, text, embeddings[row : row + 1], [tag["id"] for tag in tags])
        for tag, passages in zip(tags, found, strict=True):
            if passages:
                tag["passages"] = [asdict(one) for one in passages]
