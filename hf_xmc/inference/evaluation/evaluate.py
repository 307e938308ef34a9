"""Measuring a model, or any ranking, on a split of a data set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from transformers.utils import logging

from hf_xmc.data.dataset import XMCDataset
from hf_xmc.data.hierarchy import parents_of_table
from hf_xmc.hub.run import versions, write_json
from hf_xmc.inference.evaluation.predictions import write_predictions
from hf_xmc.inference.evaluation.report import Texts, render_report, write_report
from hf_xmc.inference.pipeline import XMCPipeline
from hf_xmc.metrics import (
    bootstrap_intervals,
    by_label_frequency,
    by_num_positives,
    find_circle,
    find_hits,
    hierarchical_metrics,
    inverse_propensity,
    paired_test,
    per_query_metrics,
    ranking_metrics,
    roots,
    search_depth,
)
from hf_xmc.metrics.per_query import PerQuery
from hf_xmc.retrieval import baselines
from hf_xmc.types import TopK

logger = logging.get_logger(__name__)
KS = (1, 3, 5)


def predict_split(
    pipeline: XMCPipeline, dataset: XMCDataset, split: str, k: int, batch_size: int = 64, **search: Any
) -> TopK:
    """The k best labels of each query, and as many more as the filter may take away, `[N, k + filtered]`; `search` as
    in `XMCPipeline.rank`."""
    depth = search_depth(k, dataset.filters.get(split))
    return pipeline.predict(dataset.queries[split]["text"][:], depth, batch_size, progress=True, **search)


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate_predictions` found and wrote.

    Args:
        metrics: of the predictions.
        comparison: metric -> values of both systems, their difference and its p-value; empty without a second one.
        folder: where `metrics.json`, `details.json`, `predictions.parquet` and `report.html` are.
    """

    metrics: dict[str, float]
    comparison: dict[str, dict[str, float]]
    folder: Path


def evaluate_predictions(
    topk: TopK,
    dataset: XMCDataset,
    split: str,
    output_dir: str | Path,
    ks: tuple[int, ...] = KS,
    name: str = "predictions",
    against: TopK | None = None,
    against_name: str = "the other system",
    baselines: Mapping[str, dict[str, float]] | None = None,
    seed: int = 0,
    parents: np.ndarray | None = None,
    train_seconds: float | None = None,
    confidence: Mapping[str, Any] | None = None,
) -> Evaluation:
    """Measure predictions of any system on a split, and write files that say all about it.

    `metrics.json` has the values and every choice they depend on, `details.json` results by label frequency and number
    of positives, bootstrap intervals and the paired test, `predictions.parquet` the predictions, and `report.html` is
    a page to look at.

    Args:
        train_seconds: what training took, if it is known.
        confidence: what `measure_confidence` found, for a system that has one.
        topk: predictions, one row for each query of the split; more than max(ks) columns where a filter may drop some.
        against: predictions of a second system on the same queries, to be compared with.
        name, against_name: what to call the two.
        baselines: name -> metrics of other systems, printed beside.
        seed: of the resamples and of the sample that is shown.
        parents: pairs (child id, parent id) `[E, 2]`; by default those of the label table's column `parents`, if it
            has one. With parents the hierarchical metrics are among the others; roots are left out of them.
    """
    truth, filters = dataset.positives(split), dataset.filters.get(split)
    metrics = score(topk, dataset, split, ks)
    hierarchy_given = parents
    parents = parents_of_table(dataset.labels) if parents is None else parents
    if parents is not None and hierarchy_given is None and find_circle(parents, int(parents.max(initial=0)) + 1):
        logger.warning("The parents of the label table form a circle: no hierarchical scores.")
        parents = None
    if parents is not None:
        metrics |= hierarchical_metrics(topk, truth, parents, ks, filters, exclude=roots(parents))
    pairs = per_query_scores(topk, dataset, split, ks)
    intervals = bootstrap_intervals(pairs, seed=seed)
    comparison = {}
    if against is not None:
        depth = min(topk.k, against.k)  # MRR looks at all columns: of both systems as many
        one, other = (per_query_scores(first_columns(t, depth), dataset, split, ks) for t in (topk, against))
        comparison = paired_test(other, one, seed=seed)
    compared = {key: row._asdict() for key, row in comparison.items()}
    document = metrics_document(metrics, dataset, split, max(ks), dict(baselines or {}), seed, train_seconds)
    document["settings"] |= {"ks": list(ks), "system": name, **counted(topk, dataset, split, max(ks), parents)}
    if confidence is not None:
        document["confidence"] = {key: confidence[key] for key in ("num_queries", "calibration", "sets")}
    details = {
        "intervals": {key: interval._asdict() for key, interval in intervals.items()},
        **breakdowns(topk, dataset, split, ks),
        "against": against_name if comparison else None,
        "comparison": compared,
        **({} if confidence is None else {"reliability": confidence["reliability"]}),
    }
    rows, counts = dataset.queries[split], np.asarray(dataset.train_label_counts)
    page = render_report(
        f"{name} on {dataset.name}, {split}",
        metrics,
        topk,
        truth,
        Texts(queries=rows["text"], labels=dataset.labels["text"], uids=rows["uid"]),
        counts,
        {"split": split, **document["settings"], "versions": document["versions"]},
        filters,
        intervals,
        comparison,
        against_name,
        baselines,
        confidence,
        seed=seed,
    )
    folder = Path(output_dir)
    write_predictions(topk, rows["uid"][:], folder / "predictions.parquet")
    write_report(page, folder / "report.html")
    write_json(details, folder / "details.json")
    write_json(document, folder / "metrics.json")
    return Evaluation(metrics, compared, folder)


def first_columns(topk: TopK, depth: int) -> TopK:
    """The best `depth` predictions of each query."""
    ordered = topk.sorted()
    return TopK(ordered.ids[:, :depth], ordered.scores[:, :depth])


def is_shallow(topk: TopK, dataset: XMCDataset, split: str, k: int) -> bool:
    """Whether there are fewer predictions a query than k and the filter need: metrics at k are then too low."""
    return topk.k < min(search_depth(k, dataset.filters.get(split)), dataset.num_labels)


def counted(topk: TopK, dataset: XMCDataset, split: str, k: int, parents: np.ndarray | None) -> dict[str, int]:
    """The counts that values depend on: what was ranked, for whom, and what was left out."""
    truth = dataset.positives(split)
    return {
        "num_labels": dataset.num_labels,
        "num_train_queries": dataset.num_train_queries,
        "num_true_pairs": len(truth.indices),
        "num_queries_without_positives": int((truth.counts == 0).sum()),
        "num_filtered_pairs": len(dataset.filters[split].indices) if split in dataset.filters else 0,
        "predictions_a_query": topk.k,
        "fewer_predictions_than_needed": is_shallow(topk, dataset, split, k),
        "num_parent_pairs": 0 if parents is None else len(parents),
        "num_roots_left_out": 0 if parents is None else len(roots(parents)),
    }


def breakdowns(topk: TopK, dataset: XMCDataset, split: str, ks: tuple[int, ...]) -> dict[str, Any]:
    """Results by frequency of the labels, and by the number of positives of the queries."""
    hits = find_hits(topk, dataset.positives(split), max(ks), dataset.filters.get(split))
    counts = np.asarray(dataset.train_label_counts)
    return {
        "by_label_frequency": {
            "bands": by_label_frequency(hits, counts, max(ks), "head"),
            "deciles": by_label_frequency(hits, counts, max(ks)),
        },
        "by_num_positives": by_num_positives(hits, ks, label_weights(dataset)),
    }


def label_weights(dataset: XMCDataset) -> np.ndarray:
    """Inverse propensities with the constants that belong to the data set, `[L]`."""
    return inverse_propensity(dataset.train_label_counts, dataset.num_train_queries, **dataset.propensity)


def per_query_scores(topk: TopK, dataset: XMCDataset, split: str, ks: tuple[int, ...] = KS) -> dict[str, PerQuery]:
    """Numerators and denominators a query, as intervals and paired tests need them."""
    hits = find_hits(topk, dataset.positives(split), max(ks), dataset.filters.get(split))
    return per_query_metrics(hits, ks, label_weights(dataset))


def score(topk: TopK, dataset: XMCDataset, split: str, ks: tuple[int, ...] = KS) -> dict[str, float]:
    """All ranking metrics, with the propensities and the filter that belong to the data set."""
    filters = dataset.filters.get(split)
    return ranking_metrics(topk, dataset.positives(split), ks, label_weights(dataset), filters)


def baseline_predictions(dataset: XMCDataset, split: str, k: int) -> dict[str, TopK]:
    """What needs no trained model, as deep as `predict_split`: popularity, and tf-idf matching of label texts."""
    k = search_depth(k, dataset.filters.get(split))
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
