"""Which passages of a long text speak for a label."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np

from hf_xmc.retrieval.bags import Bags, passage_scores
from hf_xmc.retrieval.index import LabelIndex
from hf_xmc.retrieval.passages import Passage

MOST = 3  # passages that are named for a label


@dataclass(frozen=True)
class Spoken:
    """A passage of a text, `source[start:end]`, and its own score for the label."""

    text: str
    start: int
    end: int
    score: float


class Cutting(Protocol):
    """What is needed of an `XMCPipeline`."""

    index: LabelIndex

    def passages_of(self, text: str) -> list[Passage]: ...


def spoken_passages(pipeline: Cutting, text: str, embeddings: Any, label_ids: Sequence[int]) -> list[list[Spoken]]:
    """For each label the passages of largest score, best first; none for a text that is not cut.

    Args:
        embeddings: what the pipeline's `encode` returns for the text alone.
    """
    if not isinstance(embeddings, Bags) or embeddings.counts[0] < 2 or not len(label_ids):
        return [[] for _ in label_ids]
    spans = pipeline.passages_of(text)
    scores = passage_scores(pipeline.index, embeddings[0], np.asarray(label_ids, np.int64))  # [T, n]
    found = []
    for own in scores.T:
        best = [(spans[i], float(own[i])) for i in np.argsort(-own, kind="stable")[:MOST].tolist()]
        found.append([Spoken(text[its.start : its.end].strip(), its.start, its.end, score) for its, score in best])
    return found


def add_passages(
    pipeline: Cutting, texts: Sequence[str], embeddings: Any, tagged: Sequence[Sequence[dict[str, Any]]]
) -> None:
    """Give each tag of a text that is cut the passages that speak for it, as dicts under `"passages"`."""
    for row, (text, tags) in enumerate(zip(texts, tagged, strict=True)):
        found = spoken_passages(pipeline, text, embeddings[row : row + 1], [tag["id"] for tag in tags])
        for tag, passages in zip(tags, found, strict=True):
            if passages:
                tag["passages"] = [asdict(one) for one in passages]
