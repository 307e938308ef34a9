"""The ranking of labels: by the index, with the votes of the memory, kept to labels that may be predicted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from datasets import Dataset

from hf_xmc.data.hierarchy import parents_of_table
from hf_xmc.retrieval.geometry import frechet_search, frechet_tree
from hf_xmc.retrieval.index import LabelIndex
from hf_xmc.retrieval.memory import QueryMemory
from hf_xmc.retrieval.rerank import CrossEncoderReranker, rerank
from hf_xmc.types import TopK

MEMORY_DEPTH = 100  # labels by score that the votes of the memory are put together with
RERANK_DEPTH = 50  # labels that a cross-encoder reads
GEOMETRY_DEPTH = 50  # likely labels whose middle is looked for


def rank_labels(
    index: LabelIndex,
    memory: QueryMemory | None,
    queries: Any,
    k: int,
    filters: Mapping[str, Any],
    geometry: str | None = None,
    temperature: float = 0.05,
) -> TopK:
    """The k best labels for embeddings `[N, D]`.

    Args:
        filters: `allowed`, `forbidden`, `where`, as in `LabelIndex.search`.
        geometry: `"embeddings"` or `"hierarchy"`: not the likeliest labels but those in the middle of the likely ones,
            by the distance of their embeddings or by hops from parent to child (Loki, `retrieval/geometry.py`).
        temperature: of the softmax that makes likelihoods of scores, for `geometry`.

    Raises:
        ValueError: an unknown geometry, or a hierarchy that the label table does not have.
    """
    if geometry is not None:
        likely = rank_labels(index, memory, queries, GEOMETRY_DEPTH, filters)
        if geometry == "embeddings":
            return frechet_search(index, likely, k, temperature, queries, **filters)
        if geometry != "hierarchy":
            raise ValueError(f"geometry is {geometry!r}; expected 'embeddings' or 'hierarchy'.")
        parents = parents_of_table(index.labels)
        if parents is None:
            raise ValueError("geometry='hierarchy' needs a column parents in the label table, and there is none.")
        return frechet_tree(parents, len(index.labels), likely, k, temperature, findable(index, filters))
    if memory is None:
        return index.search(queries, k, **filters)
    found = index.search(queries, max(k, MEMORY_DEPTH), **filters)
    return vote(memory, queries, found, findable(index, filters), k)


def reorder(
    reranker: CrossEncoderReranker | None, texts: Sequence[str] | None, topk: TopK, labels: Dataset, k: int
) -> TopK:
    """The first k of these predictions `[N, K]` in the order of a cross-encoder, with its scores.

    Raises:
        ValueError: no reranker, or no texts for it to read.
    """
    if reranker is None:
        raise ValueError("rerank is asked for, but the pipeline has no reranker; train one with hf-xmc rerank.")
    if texts is None:
        raise ValueError("A reranker reads the texts of the queries; give them beside the embeddings.")
    ranked = rerank(reranker, texts, topk, labels)
    return TopK(ranked.ids[:, :k], ranked.scores[:, :k])


def findable(index: LabelIndex, filters: Mapping[str, Any]) -> np.ndarray | None:
    """Which rows of the label table may be predicted, bool `[L]`; None for all."""
    mask = index.catalogue.allowed_rows(**filters)
    if mask is None and index.removed:
        mask = np.ones(index.catalogue.num_rows, bool)
        mask[list(index.removed)] = False
    return mask


def vote(memory: QueryMemory, queries: Any, labels: TopK, allowed: np.ndarray | None, k: int) -> TopK:
    """The k best labels by label scores and memory together, `[N, k]`, of the allowed ones.

    The memory knows the labels of training, among them some that were removed since or that a filter excludes: they
    are ranked with the others, then taken out, so that k are left.

    Args:
        queries: embeddings `[N, D]`.
        labels: the best allowed labels by their own score, `[N, K]`.
        allowed: mask over the rows of the label table, `[L]`; None for all.
    """
    if allowed is None:
        return memory.combine(queries, labels, k)
    most = memory.settings.num_neighbours * int(memory.positives.counts.max(initial=0))  # labels that can have a vote
    ranked = memory.combine(queries, labels, labels.k + min(most, memory.num_labels))
    ids = np.where((ranked.ids >= 0) & allowed[ranked.ids], ranked.ids, -1)
    kept = TopK(ids, np.where(ids < 0, -np.inf, ranked.scores)).sorted()
    return TopK(kept.ids[:, :k], kept.scores[:, :k])
