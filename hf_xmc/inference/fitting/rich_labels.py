"""Indexing labels by all their texts, with weights by kind that validation queries teach."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from datasets import Dataset

from hf_xmc.data.dataset import XMCDataset
from hf_xmc.inference.labels import build_index, encode_catalogue, gathered
from hf_xmc.retrieval.index import LabelIndex
from hf_xmc.retrieval.label_kinds import LabelTexts
from hf_xmc.retrieval.pooling import Pooling
from hf_xmc.retrieval.pooling_learning import QUERIES, PoolingFit, fit_pooling

if TYPE_CHECKING:
    from hf_xmc.modeling import XMCDualEncoderModel


def rich_index(
    model: XMCDualEncoderModel,
    labels: Dataset,
    data: XMCDataset | None = None,
    factory: str = "flat",
    pool: str = "auto",
    batch_size: int = 64,
    recall_target: float = 0.95,
    seed: int = 0,
) -> tuple[LabelIndex, PoolingFit]:
    """The index of all texts of a label table, and what was learned about their kinds.

    Args:
        labels: the label table; definitions and parents' names are taken from its columns.
        data: whose validation queries teach the weights; without one, or with too few queries, all kinds have the
            same weight.
        pool: `"auto"` for the best one on validation, or one of `hf_xmc.retrieval.pooling.POOLS`.
    """
    table = gathered(labels)
    encoded = encode_catalogue(model, table, "rich", batch_size)
    fitted = PoolingFit(None, [], 0)
    if data is not None and len(data.queries["validation"]):
        fitted = learn_pooling(model, table, encoded, data, batch_size, seed)
    pooling = chosen(fitted, pool)
    return build_index(model, table, encoded, factory, "rich", pooling=pooling, recall_target=recall_target), fitted


def learn_pooling(
    model: XMCDualEncoderModel,
    table: Dataset,
    encoded: tuple[np.ndarray, Any],
    data: XMCDataset,
    batch_size: int = 64,
    seed: int = 0,
    queries: np.ndarray | None = None,
) -> PoolingFit:
    """Weights by kind from the validation queries of a data set.

    Args:
        table: the label table that the data set refers to, or a longer one, with `texts` and `kinds`.
        encoded: of all its texts, from `encode_catalogue`.
        queries: embeddings of all validation queries, `[N, D]`, if they exist already.
    """
    import torch

    ids, embeddings = encoded
    if model.label_head is not None:
        embeddings = model.label_head.embed(embeddings, torch.from_numpy(ids))
    positives, filters = data.positives("validation"), data.filters.get("validation")
    rows = np.sort(np.random.default_rng(seed).permutation(len(positives))[:QUERIES])
    if queries is None:
        texts = data.queries["validation"].select(rows)["text"][:]
        own: Any = model.encode_queries(texts, batch_size, progress=True)
    else:
        own = queries[rows]
    ignored = None if filters is None else filters.take(rows)
    return fit_pooling(LabelTexts.of(table), embeddings, own, positives.take(rows), ignored, seed)


def chosen(fitted: PoolingFit, pool: str) -> Pooling:
    """The pooling that is best on validation, or the best one of a sort."""
    if pool == "auto":
        return fitted.pooling or Pooling()
    of_sort = [row for row in fitted.tried[1:] if row["pool"] == pool]  # the first one is names alone
    best = max(of_sort, key=lambda row: row["P@1"] + row["nDCG@5"], default=None)
    return Pooling(pool) if best is None else Pooling.from_dict(best)
