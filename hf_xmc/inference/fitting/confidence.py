"""Fitting what needs no training to a trained model: channels, centroids, and the confidence of predictions.

The validation split is divided. One half, or 2,000 queries of it, chooses settings (weights of channels, kappa of the
centroids, depth of the search); the rest calibrates and is used for nothing else, so that its queries are exchangeable
with new ones (as nearly as possible if the best checkpoint, one of a few, was chosen on the whole split). Channels are
fitted on training queries only. Fit again after many labels have been added or removed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.model_selection import KFold
from transformers.utils import logging

from hf_xmc.data.dataset import XMCDataset
from hf_xmc.data.labelled import check_labelled
from hf_xmc.errors import DataError
from hf_xmc.hub.folder import pipeline_parts, save_parts
from hf_xmc.inference.evaluation.confidence import advised_threshold, measure_confidence
from hf_xmc.inference.fitting.channels import FittedChannels, Held, fit_channels, learned, listed, wanted_channels
from hf_xmc.inference.loading import check_labels
from hf_xmc.inference.pipeline import XMCPipeline
from hf_xmc.inference.ranking import FUSION_DEPTH
from hf_xmc.metrics import (
    calibration_metrics,
    drop_pairs,
    inverse_propensity,
    ranking_metrics,
    search_depth,
)
from hf_xmc.retrieval.bags import Bags
from hf_xmc.retrieval.calibration import RankedMap
from hf_xmc.retrieval.channels import FusedChannel
from hf_xmc.retrieval.confidence import Confidence
from hf_xmc.retrieval.conformal import true_scores
from hf_xmc.retrieval.enrichment import enrich_labels, tune_enrichment
from hf_xmc.retrieval.index import LabelIndex
from hf_xmc.retrieval.learned_fusion import LearnedFusion
from hf_xmc.retrieval.preference import Preference
from hf_xmc.types import Positives, TopK

logger = logging.get_logger(__name__)
DEPTHS = (100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000)
CELLS = 5 * 10**7  # predictions held at a time: of very deep ones fewer queries calibrate
TUNING = 2000  # queries that are enough to choose settings
FEWEST = 40  # validation queries: half of them calibrates, and a coverage of 90 % needs ten at the very least
ECE_K = 5


@dataclass(frozen=True)
class Fit:
    """What was fitted.

    Args:
        pipeline: with its channels, confidence, and enriched index; an option that did not help is left out.
        summary: figures of the calibration half: metrics with and without, calibration errors, sizes of sets; and what
            was tried. JSON values.
    """

    pipeline: XMCPipeline
    summary: dict[str, Any]

    def save(self, folder: str | Path, metrics: dict[str, Any] | None = None) -> list[str]:
        """Write channels and confidence into the trained folder, the index if centroids changed it, and metrics of the
        new ranking; returns the files that were removed, because they belonged to another ranking."""
        parts = pipeline_parts(self.pipeline)
        kept = ("model", "run", "reranker", *(["index"] if self.summary["centroids"] is None else []))
        parts = {name: part for name, part in parts.items() if name not in kept}
        return save_parts(folder, {**parts, **({"metrics": metrics} if metrics else {})})


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
    channels: Sequence[str] | None = None,
    fusion: str = "auto",
    prefer: str = "balanced",
) -> Fit:
    """Encode train and validation, choose settings on half of validation, calibrate on the rest.

    Args:
        pipeline: a trained model with its index; it is not changed. Channels that it has are fitted again.
        data: the set that it was trained on.
        level: default coverage of the conformal prediction sets.
        memory: let similar training queries vote, if that helps.
        centroids: move label vectors towards their training queries, if that helps; makes a new index.
        method: of the probabilities; see `Confidence.fit`.
        seed: for splitting validation into tuning and calibration halves.
        max_depth: predictions per query, at most. Deeper ones allow a higher coverage, and predictions take longer.
        channels: names of the channels to try; by default all that are registered.
        fusion: how channels are combined: by `"weights"`, by a linear model that is `"learned"`, or `"auto"` for what
            is better in cross-validation.
        prefer: what is chosen for: `"balanced"`, `"head"` for the first label, or `"tail"` for rare labels.

    Raises:
        DataError: the index has other labels than the set, or validation has too few queries.
    """
    preference_of(data, prefer)
    embeddings = encoded(pipeline, data, memory, centroids, batch_size, channels)
    options = (level, memory, centroids, method, seed, max_depth, channels, fusion, prefer)
    return fit_from_embeddings(pipeline, data, embeddings, *options)


def encoded(
    pipeline: XMCPipeline,
    data: XMCDataset,
    memory: bool = True,
    centroids: bool = False,
    batch_size: int = 64,
    channels: Sequence[str] | None = None,
) -> dict[str, Any]:
    """The embeddings that `fit_from_embeddings` needs: those of validation as the tagger reads long texts, and of
    train and labels if they are used.

    Raises:
        DataError: the index has other labels than the set, or validation has too few queries.
    """
    check_data(pipeline, data)
    wanted = wanted_channels(channels, memory)
    texts = {split: data.queries[split]["text"][:] for split in ("train", "validation")}
    given = pipeline.encode(texts["validation"], batch_size, progress=True)
    given = given if isinstance(given, Bags) else np.asarray(given)
    embeddings: dict[str, Any] = {"validation": given}
    if wanted or centroids:  # of long training texts the beginning is enough to find similar ones
        embeddings["train"] = pipeline.model.encode_queries(texts["train"], batch_size, progress=True).numpy()
    if centroids:
        names = pipeline.index.labels["text"][:]
        ids = range(len(names))
        embeddings["labels"] = pipeline.model.encode_labels(names, ids, batch_size, progress=True).numpy()
    return embeddings


def fit_from_embeddings(
    pipeline: XMCPipeline,
    data: XMCDataset,
    embeddings: Mapping[str, Any],
    level: float = 0.9,
    memory: bool = True,
    centroids: bool = False,
    method: str = "isotonic",
    seed: int = 0,
    max_depth: int = 2000,
    channels: Sequence[str] | None = None,
    fusion: str = "auto",
    prefer: str = "balanced",
) -> Fit:
    """The same from embeddings of `validation`, of `train` (for channels and centroids) and `labels` (for
    centroids)."""
    check_data(pipeline, data)
    split = data.queries["validation"]
    tuning, calibrating = halves(len(split), seed)
    validation = Held(
        embeddings["validation"],
        data.positives("validation").without(pipeline.index.removed),
        data.filters.get("validation"),
        split["text"][:],
    )
    held = validation.take(tuning)
    plain = with_parts(pipeline, pipeline.index, [])

    kappa, kappas = math.inf, list[dict[str, float]]()
    index = pipeline.index
    if centroids:
        given = (embeddings["labels"], embeddings["train"], data.positives("train"))
        kappa, kappas = tune_enrichment(*given, held.queries, held.positives, filters=held.filters)
        if math.isfinite(kappa):
            index = enriched_index(pipeline.index, enrich_labels(*given, kappa), kappa)
    wanted, preference = wanted_channels(channels, memory), preference_of(data, prefer)
    made = fit_channels(wanted, data, embeddings.get("train"), index, held, fusion, preference, seed)

    tuned = with_parts(pipeline, index, made.kept, fusion=made.fusion)
    depth = choose_depth(tuned, held, level, max_depth)
    calibrating = some(calibrating, depth, seed)
    chose, held = held, validation.take(calibrating)
    topk = drop_pairs(tuned.rank(held.queries, depth, texts=held.texts), held.filters).sorted()
    confidence = Confidence.fit(
        topk,
        held.positives,
        np.pad(data.train_label_counts, (0, len(index.labels) - data.num_labels)),  # labels added later: no query
        method,
        level,
        seed=seed,
        ranking=tuned.ranking_fingerprint(),
        memory=tuned.memory is not None,
        channels=[channel.name for channel in tuned.channels],
        centroids=kappa if math.isfinite(kappa) else None,
        data=data.name,
        factory=index.factory,
        encoder_fingerprint=pipeline.encoder_fingerprint,
        head_fingerprint=pipeline.head_fingerprint,
    )
    advised = advised_threshold(topk, held.positives, confidence)
    confidence.settings |= {"advised": advised} if advised else {}
    fitted = with_parts(pipeline, index, made.kept, confidence, made.fusion)
    summary = {
        "tuned_on": len(tuning),
        "calibrated_on": len(calibrating),
        "chosen_by": made.measured,
        "depth": depth,
        "memory": None if tuned.memory is None else tuned.memory.describe(),
        "channels": channel_rows(pipeline, index, made, chose, held, data, preference),
        "fusion": "weights" if made.fusion is None else made.fusion.describe(),
        "prefer": prefer,
        "centroids": kappa if math.isfinite(kappa) else None,
        "metrics": {
            "without": ranked_metrics(plain, data, held),
            "with": ranked_metrics(fitted, data, held),
        },
        "calibration": cross_fitted(topk, held.positives, method, seed),
        "threshold": advised,
        "sets": set_sizes(topk, held.positives, confidence),
        "tried": {"centroids": kappas, **made.tried},
    }
    return Fit(fitted, summary)


def with_parts(
    pipeline: XMCPipeline,
    index: LabelIndex,
    channels: Sequence[FusedChannel],
    confidence: Confidence | None = None,
    fusion: LearnedFusion | None = None,
) -> XMCPipeline:
    """The same model and reranker with other parts."""
    return XMCPipeline(
        pipeline.model,
        index,
        pipeline.run,
        confidence=confidence,
        reranker=pipeline.reranker,
        channels=channels,
        fusion=fusion,
        passages=pipeline.passages,
    )


def preference_of(data: XMCDataset, prefer: str) -> Preference:
    """What to choose for, with the propensities of a data set.

    Raises:
        SettingsError: an unknown preference.
    """
    weights = inverse_propensity(data.train_label_counts, data.num_train_queries, **data.propensity)
    return Preference(prefer, weights)


def channel_rows(
    pipeline: XMCPipeline,
    index: LabelIndex,
    made: FittedChannels,
    chose: Held,
    held: Held,
    data: XMCDataset,
    preference: Preference,
) -> list[dict[str, Any]]:
    """What each channel brought: metrics of the ranking with and without it, on queries that chose nothing.

    A learned fusion is learned again with or without the channel, on the same queries as before.

    Args:
        chose: the queries that settings were chosen on.
        held: the queries to measure on.
    """
    names = [channel.name for channel in made.kept]
    lists = {} if made.fusion is None else listed(index, made.offered, chose)
    measured = {tuple(names): ranked_metrics(with_parts(pipeline, index, made.kept, fusion=made.fusion), data, held)}

    def metrics(some: tuple[str, ...]) -> dict[str, float]:
        if some not in measured:
            channels = [channel for channel in made.offered if channel.name in some]
            found = learned(lists, some, made, chose, preference) if lists and some else None
            fused = with_parts(pipeline, index, channels, fusion=None if found is None else found.fusion)
            measured[some] = ranked_metrics(fused, data, held)
        return measured[some]

    rows = []
    for channel in made.offered:
        kept = channel.name in names
        together = tuple(c.name for c in made.offered if c.name in names or c is channel)
        rows.append(
            {
                "name": channel.name,
                "kept": kept,
                "weight": channel.weight,
                "with": metrics(together) if kept or lists else None,
                "without": metrics(tuple(name for name in names if name != channel.name)),
                "seconds": round(made.seconds[channel.name], 2),
                "bytes": getattr(channel, "size_bytes", None),
                "settings": channel.describe(),
            }
        )
    return rows


def enriched_index(index: LabelIndex, vectors: np.ndarray, kappa: float) -> LabelIndex:
    """An index of the same labels with other vectors."""
    made_by = {name: index.about[name] for name in ("encoder_fingerprint", "head_fingerprint")}
    made = LabelIndex.build(vectors, index.labels, index.factory, **made_by)
    made.about["centroids"] = kappa
    if index.removed:
        made.remove(sorted(index.removed))
    return made


def check_data(pipeline: XMCPipeline, data: XMCDataset) -> None:
    """Raise a DataError if the index does not belong to the set, or if its validation split is too small or was
    trained on."""
    check_labels(pipeline.index, data)
    if pipeline.run.get("validation") == "none":
        raise DataError(
            f"the model was trained on the validation queries of {data.name} too (--validation none), and knows them "
            "too well to be calibrated on them",
            hint="train without --validation none, or give a dataset with other validation queries",
        )
    hint = "calibration needs queries with the labels that they should have"
    check_labelled(
        data.positives("validation"), data.num_labels, f"query of the validation split of {data.name}", hint
    )
    if (found := len(data.queries["validation"])) < FEWEST:
        raise DataError(
            f"the validation split of {data.name} has {found} queries",
            hint=f"half of it tunes and half calibrates: at least {FEWEST} are needed, a thousand are better",
        )


def halves(num_queries: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows that choose settings (half of them, at most `TUNING`), and rows that calibrate (all others)."""
    rows = np.random.default_rng(seed).permutation(num_queries)
    tuning = min(num_queries // 2, TUNING)
    return np.sort(rows[:tuning]), np.sort(rows[tuning:])


def some(rows: np.ndarray, depth: int, seed: int) -> np.ndarray:
    """As many of the rows as fit into memory with predictions of this depth, at least a thousand."""
    most = max(1000, CELLS // depth)
    return np.sort(np.random.default_rng(seed).permutation(rows)[:most])


def choose_depth(pipeline: XMCPipeline, held: Held, level: float, max_depth: int) -> int:
    """Predictions per query that leave room for sets of this coverage: the smallest depth at which at most half of the
    queries that may lose a true label do, else the largest."""
    deepest_allowed = min(len(pipeline.index), max_depth)
    allowed = [*(depth for depth in DEPTHS if depth < deepest_allowed), deepest_allowed]
    deepest = drop_pairs(pipeline.rank(held.queries, allowed[-1], texts=held.texts), held.filters).sorted()
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
    topk = pipeline.rank(held.queries, search_depth(5, held.filters), texts=held.texts)
    return ranking_metrics(topk, held.positives, (1, 5), weights, held.filters)


def set_sizes(topk: TopK, positives: Positives, confidence: Confidence) -> dict[str, dict[str, Any]]:
    """Sizes of the sets, without their coverage: on the queries that they were fitted on it says nothing."""
    found = measure_confidence(topk, positives, confidence)["sets"]
    return {method: {k: v for k, v in row.items() if "covered" not in k} for method, row in found.items()}


def cross_fitted(topk: TopK, positives: Positives, method: str, seed: int, folds: int = 5) -> dict[str, float]:
    """Calibration error of the raw scores, and of probabilities whose map was fitted on other queries."""
    topk = topk.first(FUSION_DEPTH)  # as many as a map reads, and more
    probabilities = np.zeros((len(topk), ECE_K))
    first = topk.first(ECE_K)
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
