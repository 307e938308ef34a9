"""What a tagger is worth: beside simple baselines, channel by channel; its speed, its size, and where it is weak."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hf_xmc.data.dataset import XMCDataset
from hf_xmc.fit.plan import MOST_MEASURED
from hf_xmc.fit.stages import Trained
from hf_xmc.fit.weaknesses import weaknesses
from hf_xmc.inference.evaluation.evaluate import baseline_predictions, label_weights
from hf_xmc.inference.fitting.confidence import Fit, halves
from hf_xmc.inference.pipeline import XMCPipeline
from hf_xmc.metrics import bootstrap_intervals, find_hits, per_query_metrics, search_depth
from hf_xmc.retrieval.baselines import tfidf_neighbours
from hf_xmc.types import TopK

KS = (1, 3, 5)
SHOWN = ("P@1", "P@5", "nDCG@5", "R@5", "PSP@5")
TAGGER, VECTORS = "this tagger", "label vectors"
BASELINES = ("popularity", "tf-idf of label texts", "tf-idf neighbours")
TIMED_TEXTS = 256  # that the speed is measured on


def measure(fitted: Fit, trained: Trained, data: XMCDataset, seed: int) -> dict[str, Any]:
    """Measure the tagger and what it is compared with. JSON values.

    The validation figures are of the half that calibrated: nothing was chosen on it but probabilities.

    Returns:
        `"systems"`: split -> system -> metric -> value, low, high (95 % bootstrap); `"queries"`: split -> queries that
        were measured; `"weak"`: groups in which few true labels are found; `"texts_per_second"`.
    """
    found: dict[str, Any] = {"systems": {}, "queries": {}}
    for split in ("validation", "test"):
        if split not in data.queries or not len(data.queries[split]):
            continue
        rows = measured_rows(len(data.queries[split]), split, seed)
        ranked = rankings(fitted.pipeline, trained, data, split, rows)
        found["systems"][split] = {name: scored(topk, data, split, rows, seed) for name, topk in ranked.items()}
        found["queries"][split] = len(rows)
        found["weak"] = weaknesses(ranked[TAGGER], data, split, rows)
    found["texts_per_second"] = texts_per_second(fitted.pipeline, data)
    return found


def measured_rows(num_queries: int, split: str, seed: int) -> np.ndarray:
    """Rows of a split that are measured: of validation those that calibrated; at most `MOST_MEASURED`."""
    rows = halves(num_queries, seed)[1] if split == "validation" else np.arange(num_queries)
    if len(rows) > MOST_MEASURED:
        rows = np.sort(np.random.default_rng(seed).permutation(rows)[:MOST_MEASURED])
    return rows


def rankings(tagger: XMCPipeline, trained: Trained, data: XMCDataset, split: str, rows: np.ndarray) -> dict[str, TopK]:
    """What each system predicts for some queries: baselines, label vectors (of passages, and of the beginnings of the
    texts as well), each channel alone, and the tagger."""
    embeddings = trained.read_as(tagger.passages)[split][rows]
    filters = data.filters.get(split)
    depth = search_depth(max(KS), filters)
    texts = data.queries[split].select(rows)["text"][:]
    train = data.queries["train"]["text"][:]
    systems = dict(baseline_predictions(data, split, max(KS), rows))
    systems[BASELINES[-1]] = tfidf_neighbours(texts, train, data.positives("train"), depth)
    if tagger.passages is not None:
        beginning = trained.embeddings[split][rows]
        systems[f"{VECTORS}, beginning of texts"] = tagger.rank(beginning, depth, texts, channels=())
    systems[VECTORS] = tagger.rank(embeddings, depth, texts, channels=())
    for channel in tagger.channels:
        alone = channel.rank(texts, embeddings, depth)
        systems[f"{channel.name} alone"] = alone.sorted().padded(depth)
    systems[TAGGER] = tagger.rank(embeddings, depth, texts)
    return systems


def scored(topk: TopK, data: XMCDataset, split: str, rows: np.ndarray, seed: int) -> dict[str, list[float]]:
    """The metrics of predictions for some queries of a split, each with its 95 % bootstrap interval."""
    filters = data.filters.get(split)
    hits = find_hits(topk, data.positives(split).take(rows), max(KS), None if filters is None else filters.take(rows))
    pairs = per_query_metrics(hits, KS, label_weights(data))
    return {name: [float(x) for x in interval] for name, interval in bootstrap_intervals(pairs, seed=seed).items()}


def texts_per_second(tagger: XMCPipeline, data: XMCDataset) -> float:
    """How many texts of the training split the tagger tags in a second, from text to labels."""
    texts = data.queries["train"].select(range(min(TIMED_TEXTS, len(data.queries["train"]))))["text"][:]
    tagger(texts[:8])
    start = time.perf_counter()
    tagger(texts)
    return len(texts) / max(time.perf_counter() - start, 1e-9)


def folder_bytes(folder: Path, files: list[str]) -> int:
    """The size of some files of a folder."""
    return sum((folder / name).stat().st_size for name in files)


def metrics_of(measured: Mapping[str, Any], split: str, system: str) -> dict[str, float]:
    """The values, without intervals, of one system on a split."""
    return {name: values[0] for name, values in measured["systems"][split][system].items()}
