"""Fitting what needs no training to a trained model: query memory, centroids, and the confidence of predictions.

The validation split is parted. One half, or 2,000 queries of it, chooses settings (weight of the memory, kappa of the
centroids, depth of the search); the rest calibrates and is used for nothing else, so that its queries are exchangeable
with new ones (as nearly as can be where the best checkpoint, one of a few, was chosen on the whole split). The memory
holds training queries only. After many labels have come or gone, fit again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.model_selection import KFold

from hf_xmc.data.dataset import XMCDataset
from hf_xmc.errors import DataError
from hf_xmc.inference.evaluation.confidence import measure_confidence
from hf_xmc.inference.pipeline import XMCPipeline
from hf_xmc.inference.ranking import MEMORY_DEPTH
from hf_xmc.metrics import (
    calibration_metrics,
    drop_pairs,
    inverse_propensity,
    ranking_metrics,
    search_depth,
)
from hf_xmc.retrieval.calibration import RankedMap
from hf_xmc.retrieval.confidence import CONFIDENCE_FILES, Confidence
from hf_xmc.retrieval.conformal import true_scores
from hf_xmc.retrieval.enrichment import enrich_labels, tune_enrichment
from hf_xmc.retrieval.index import LabelIndex
from hf_xmc.retrieval.memory import MEMORY_FILES, QueryMemory, tune_fusion
from hf_xmc.types import Positives, TopK

DEPTHS = (100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000)
CELLS = 5 * 10**7  # predictions that are held at a time: of very deep ones fewer queries calibrate
TUNING = 2000  # queries that are enough to choose settings
FEWEST = 40  # validation queries: half of them calibrates, and a level of 90 % needs ten at the very least
ECE_K = 5


@dataclass(frozen=True)
class Fit:
    """What was fitted.

    Args:
        pipeline: with its memory, confidence, and enriched index; an option that did not help is left out.
        summary: figures of the calibration half: metrics with and without, calibration errors, sizes of sets; and what
            was tried. JSON values.
    """

    pipeline: XMCPipeline
    summary: dict[str, Any]

    def save(self, folder: str | Path) -> None:
        """Write memory and confidence into the trained folder, and the index where centroids changed it.

        What an earlier fit left is removed first: a confidence belongs to one ranking, and to no other.
        """
        folder = Path(folder)
        for name in (*CONFIDENCE_FILES, *(() if self.pipeline.memory else MEMORY_FILES)):
            (folder / name).unlink(missing_ok=True)
        if self.summary["centroids"] is not None:
            self.pipeline.index.save_pretrained(folder)
        for part in (self.pipeline.memory, self.pipeline.confidence):
            if part is not None:
                part.save_pretrained(folder)


def fit_confidence(
    pipeline: XMCPipeline,
    data: XMCDataset,
    level: float = 0.9,
    memory: bool = True,
    centroids: bool = False,
    method: str = "isotonic",
    batch_size: int = 64,
    seed: int = 0,
    max_depth: int = 2000,
) -> Fit:
    """Encode train and validation, choose settings on half of validation, calibrate on the rest.

    Args:
        pipeline: a trained model with its index; not changed. A memory that it has is built anew.
        data: the set that it was trained on.
        level: default level of the conformal sets.
        memory: let similar training queries vote, where that helps.
        centroids: draw label vectors towards their training queries, where that helps; makes a new index.
        method: of the probabilities; see `Confidence.fit`.
        seed: of the halves.
        max_depth: predictions a query at most. Deeper ones let sets promise more, and predictions take longer.

    Raises:
        DataError: the index has other labels than the set, or validation has too few queries.
    """
    check_data(pipeline, data)
    texts = {split: data.queries[split]["text"][:] for split in ("train", "validation")}
    embeddings = {
        split: pipeline.model.encode_queries(rows, batch_size, progress=True).numpy()
        for split, rows in texts.items()
        if split == "validation" or memory or centroids
    }
    if centroids:
        names = pipeline.index.labels["text"][:]
        ids = range(len(names))
        embeddings["labels"] = pipeline.model.encode_labels(names, ids, batch_size, progress=True).numpy()
    return fit_from_embeddings(pipeline, data, embeddings, level, memory, centroids, method, seed, max_depth)


def fit_from_embeddings(
    pipeline: XMCPipeline,
    data: XMCDataset,
    embeddings: Mapping[str, np.ndarray],
    level: float = 0.9,
    memory: bool = True,
    centroids: bool = False,
    method: str = "isotonic",
    seed: int = 0,
    max_depth: int = 2000,
) -> Fit:
    """The same from embeddings of `validation`, of `train` (for memory and centroids) and `labels` (for centroids)."""
    check_data(pipeline, data)
    truth, filters = without(data.positives("validation"), pipeline.index.removed), data.filters.get("validation")
    tuning, calibrating = halves(len(truth), seed)
    held = Held(
        embeddings["validation"][tuning], truth.take(tuning), None if filters is None else filters.take(tuning)
    )
    train = data.positives("train")
    plain = XMCPipeline(pipeline.model, pipeline.index, pipeline.run)

    kappa, kappas = math.inf, list[dict[str, float]]()
    index = pipeline.index
    if centroids:
        given = (embeddings["labels"], embeddings["train"], train)
        kappa, kappas = tune_enrichment(*given, held.queries, held.positives, filters=held.filters)
        if math.isfinite(kappa):
            made_by = {name: index.about[name] for name in ("encoder_fingerprint", "head_fingerprint")}
            enriched = enrich_labels(*given, kappa)
            index = LabelIndex.build(enriched, index.labels, index.factory, **made_by)
            if pipeline.index.removed:
                index.remove(sorted(pipeline.index.removed))
    remembered, fusions = None, list[dict[str, Any]]()
    if memory:
        remembered = QueryMemory.build(embeddings["train"], train, len(index.labels))
        shallow = index.search(held.queries, MEMORY_DEPTH)
        settings, fusions = tune_fusion(remembered, held.queries, shallow, held.positives, filters=held.filters)
        remembered.settings = settings
        remembered = remembered if settings.weight > 0 else None

    tuned = XMCPipeline(pipeline.model, index, pipeline.run, remembered)
    depth = choose_depth(tuned, held, level, max_depth)
    calibrating = some(calibrating, depth, seed)
    held = Held(
        embeddings["validation"][calibrating],
        truth.take(calibrating),
        None if filters is None else filters.take(calibrating),
    )
    topk = drop_pairs(tuned.rank(held.queries, depth), held.filters).sorted()
    confidence = Confidence.fit(
        topk,
        held.positives,
        np.pad(data.train_label_counts, (0, len(index.labels) - data.num_labels)),  # labels added later: no query
        method,
        level,
        seed=seed,
        memory=remembered is not None,
        centroids=kappa if math.isfinite(kappa) else None,
        data=data.name,
        factory=index.factory,
        encoder_fingerprint=pipeline.encoder_fingerprint,
        head_fingerprint=pipeline.head_fingerprint,
    )
    fitted = XMCPipeline(pipeline.model, index, pipeline.run, remembered, confidence)
    summary = {
        "tuned_on": len(tuning),
        "calibrated_on": len(calibrating),
        "depth": depth,
        "memory": None if remembered is None else vars(remembered.settings),
        "centroids": kappa if math.isfinite(kappa) else None,
        "metrics": {
            "without": ranked_metrics(plain, data, held),
            "with": ranked_metrics(fitted, data, held),
        },
        "calibration": cross_fitted(topk, held.positives, method, seed),
        "sets": set_sizes(topk, held.positives, confidence),
        "tried": {"centroids": kappas, "memory": fusions},
    }
    return Fit(fitted, summary)


@dataclass(frozen=True)
class Held:
    """Held-out queries `[B, D]`, their truth, and the pairs that are no valid predictions."""

    queries: np.ndarray
    positives: Positives
    filters: Positives | None


def check_data(pipeline: XMCPipeline, data: XMCDataset) -> None:
    """Refuse a set that the index does not belong to, and a validation split that is too small."""
    if pipeline.index.labels["uid"][: data.num_labels] != data.labels["uid"][:]:
        raise DataError(
            f"the index ({len(pipeline.index.labels):,} labels) has other labels than {data.name} "
            f"({data.num_labels:,} labels), or in another order",
            hint="give the set that the model was trained on, or build the index of this one with hf-xmc index",
        )
    if (found := len(data.queries["validation"])) < FEWEST:
        raise DataError(
            f"the validation split of {data.name} has {found} queries",
            hint=f"half of it tunes and half calibrates: at least {FEWEST} are needed, a thousand are well",
        )


def without(positives: Positives, removed: set[int]) -> Positives:
    """The truth without labels that were removed from the index: no search can find them, and none shall.

    >>> without(Positives.from_lists([[0, 2], [2], [1, 3]]), {2}).indptr.tolist()
    [0, 1, 1, 3]
    """
    truth = positives.numpy()
    kept = ~np.isin(truth.indices, list(removed))
    return Positives(np.concatenate([[0], np.cumsum(kept)])[truth.indptr], truth.indices[kept])


def halves(num_queries: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows that choose settings, half of them or `TUNING`, and rows that calibrate, all others."""
    rows = np.random.default_rng(seed).permutation(num_queries)
    tuning = min(num_queries // 2, TUNING)
    return np.sort(rows[:tuning]), np.sort(rows[tuning:])


def some(rows: np.ndarray, depth: int, seed: int) -> np.ndarray:
    """As many of the rows as predictions of this depth can be held of, a thousand at least."""
    most = max(1000, CELLS // depth)
    return np.sort(np.random.default_rng(seed).permutation(rows)[:most])


def choose_depth(pipeline: XMCPipeline, held: Held, level: float, max_depth: int) -> int:
    """Predictions a query, so that a set of this level can hold all true labels with room to spare: the least depth at
    which at most half of the queries that may lose one do, else the largest."""
    deepest_allowed = min(len(pipeline.index), max_depth)
    allowed = [*(depth for depth in DEPTHS if depth < deepest_allowed), deepest_allowed]
    deepest = drop_pairs(pipeline.rank(held.queries, allowed[-1]), held.filters).sorted()
    rank = np.broadcast_to(-np.arange(1.0, deepest.k + 1), deepest.ids.shape)
    true = -true_scores(TopK(deepest.ids, rank), held.positives)  # the rank of each true label
    rows = np.repeat(np.arange(len(held.positives)), held.positives.counts)
    for depth in allowed:
        missed = len(np.unique(rows[true > depth])) / max(len(held.positives), 1)
        if missed <= (1 - level) / 2:
            return depth
    return allowed[-1]


def ranked_metrics(pipeline: XMCPipeline, data: XMCDataset, held: Held) -> dict[str, float]:
    """Ranking metrics at 1 and 5."""
    weights = inverse_propensity(data.train_label_counts, data.num_train_queries, **data.propensity)
    topk = pipeline.rank(held.queries, search_depth(5, held.filters))
    return ranking_metrics(topk, held.positives, (1, 5), weights, held.filters)


def set_sizes(topk: TopK, positives: Positives, confidence: Confidence) -> dict[str, dict[str, Any]]:
    """Sizes of the sets; what they cover of the queries that they were fitted on says nothing."""
    found = measure_confidence(topk, positives, confidence)["sets"]
    return {method: {k: v for k, v in row.items() if "covered" not in k} for method, row in found.items()}


def cross_fitted(topk: TopK, positives: Positives, method: str, seed: int, folds: int = 5) -> dict[str, float]:
    """Calibration error of the scores as they are, and of probabilities whose map never saw the query."""
    topk = TopK(topk.ids[:, :MEMORY_DEPTH], topk.scores[:, :MEMORY_DEPTH])  # as many as a map looks at, and more
    probabilities = np.zeros((len(topk), ECE_K))
    first = TopK(topk.ids[:, :ECE_K], topk.scores[:, :ECE_K])
    for rest, fold in KFold(folds, shuffle=True, random_state=seed).split(topk.ids):
        score_map = RankedMap.fit(TopK(topk.ids[rest], topk.scores[rest]), positives.take(rest), method)
        probabilities[fold, : first.k] = score_map(TopK(first.ids[fold], first.scores[fold]))
    before = calibration_metrics(first, positives, (ECE_K,))
    after = calibration_metrics(TopK(first.ids, probabilities[:, : first.k]), positives, (ECE_K,))
    return {
        f"{name}@{ECE_K} {when}": found[f"{name}@{ECE_K}"]
        for when, found in (("before", before), ("after", after))
        for name in ("ECE", "Brier")
    }
