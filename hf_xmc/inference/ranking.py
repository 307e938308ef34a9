"""The ranking of labels: by the index, with the votes of the memory, kept to labels that may be predicted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from hf_xmc.retrieval.index import LabelIndex
from hf_xmc.retrieval.memory import QueryMemory
from hf_xmc.types import TopK

MEMORY_DEPTH = 100  # labels by score that the votes of the memory are put together with


def rank_labels(
    index: LabelIndex, memory: QueryMemory | None, queries: Any, k: int, filters: Mapping[str, Any]
) -> TopK:
    """The k best labels for embeddings `[N, D]`; `filters` as in `LabelIndex.search`."""
    if memory is None:
        return index.search(queries, k, **filters)
    found = index.search(queries, max(k, MEMORY_DEPTH), **filters)
    return vote(memory, queries, found, findable(index, filters), k)


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
