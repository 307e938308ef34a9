"""Measuring a model, or any ranking, on a split of a data set."""

from __future__ import annotations

from typing import Any

import numpy as np

from hf_xmc.data.dataset import XMCDataset
from hf_xmc.inference.pipeline import XMCPipeline
from hf_xmc.metrics import inverse_propensity, ranking_metrics
from hf_xmc.retrieval import baselines
from hf_xmc.training.run import versions
from hf_xmc.types import TopK

KS = (1, 3, 5)


def predict_split(pipeline: XMCPipeline, dataset: XMCDataset, split: str, k: int, batch_size: int = 64) -> TopK:
    """The k best labels of each query, and as many more as the filter may take away, `[N, k + filtered]`."""
    extra = int(max(dataset.filters[split].counts, default=0)) if split in dataset.filters else 0
    return pipeline.predict(dataset.queries[split]["text"][:], k + extra, batch_size, progress=True)


def score(topk: TopK, dataset: XMCDataset, split: str, ks: tuple[int, ...] = KS) -> dict[str, float]:
    """All ranking metrics, with the propensities and the filter that belong to the data set."""
    weights = inverse_propensity(dataset.train_label_counts, dataset.num_train_queries, **dataset.propensity)
    return ranking_metrics(
        topk, dataset.positives(split), ks=ks, inverse_propensity=weights, filters=dataset.filters.get(split)
    )


def baseline_predictions(dataset: XMCDataset, split: str, k: int) -> dict[str, TopK]:
    """What needs no trained model: popularity, and tf-idf matching of label texts."""
    texts = dataset.queries[split]["text"][:]
    train, labels = dataset.queries["train"]["text"][:], dataset.labels["text"][:]
    return {
        "popularity": baselines.popularity(np.asarray(dataset.train_label_counts), len(texts), k),
        "tf-idf of label texts": baselines.tfidf(texts, labels, train, k),
    }


def metrics_document(
    metrics: dict[str, float],
    dataset: XMCDataset,
    split: str,
    k: int,
    baselines: dict[str, dict[str, float]] | None = None,
    seed: int | None = None,
    train_seconds: float | None = None,
) -> dict[str, Any]:
    """The content of `metrics.json`: values as fractions, with every choice that they depend on."""
    return {
        "split": split,
        "num_queries": len(dataset.queries[split]),
        "metrics": metrics,
        "baselines": baselines or {},
        "settings": {
            "dataset": dataset.name,
            "propensity": dataset.propensity,
            "filter": split in dataset.filters,
            "k": k,
            "seed": seed,
        },
        "train_seconds": train_seconds,
        "versions": versions(),
    }
