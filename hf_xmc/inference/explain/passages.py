"""Which passages of a long text speak for a label, by the embeddings that its labels were found with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from hf_xmc.retrieval.bags import Bags, passage_scores
from hf_xmc.retrieval.index import LabelIndex

MOST = 3  # passages that are named for a label


@dataclass(frozen=True)
class Spoken:
    """A passage of a text, `source[start:end]`, and its own score for the label."""

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
    scores = passage_scores(index, bags[0], np.asarray(label_ids, np.int64))  # [T, n]
    found = []
    for own in scores.T:
        best = np.argsort(-own, kind="stable")[:MOST].tolist()
        spans = [(float(own[i]), *bags.spans[i].tolist()) for i in best]
        found.append([Spoken(text[start:end].strip(), start, end, score) for score, start, end in spans])
    return found


def add_passages(
    index: LabelIndex, texts: Sequence[str], embeddings: Any, tagged: Sequence[Sequence[dict[str, Any]]]
) -> None:
    """Give each tag of a text that is cut the passages that speak for it, as dicts under `"passages"`."""
    for row, (text, tags) in enumerate(zip(texts, tagged, strict=True)):
        found = spoken_passages(index, text, embeddings[row : row + 1], [tag["id"] for tag in tags])
        for tag, passages in zip(tags, found, strict=True):
            if passages:
                tag["passages"] = [asdict(one) for one in passages]
