"""Combining text and classifier of a trained model into the vectors of a new index.

Of the validation split only the part is read on which `hf_xmc.inference.fitting.confidence` chooses settings (the same
one, for the same seed). The rest, on which a calibration may follow, chooses nothing here: its queries stay
exchangeable with new ones, and what is measured on them is honest.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hf_xmc.data.dataset import XMCDataset
from hf_xmc.data.transaction import transaction
from hf_xmc.errors import ModelFolderError
from hf_xmc.hub.card import METRICS
from hf_xmc.hub.folder import pipeline_parts, save_parts
from hf_xmc.hub.run import read_json
from hf_xmc.inference.fitting.confidence import TUNING, check_data, halves
from hf_xmc.inference.fitting.tagger import measure_validation
from hf_xmc.inference.labels import build_index, encode_catalogue
from hf_xmc.inference.loading import (
    AnyDataset,
    AnyPath,
    AnyTagger,
    alone_in,
    as_dataset,
    as_tagger,
    folder_to_write,
    on_catalogue_of,
)
from hf_xmc.inference.pipeline import XMCPipeline
from hf_xmc.metrics import inverse_propensity, ranking_metrics, search_depth
from hf_xmc.modeling import LabelHead, XMCDualEncoderModel
from hf_xmc.retrieval.head_fusion import fit_fusion
from hf_xmc.retrieval.index import LabelIndex
from hf_xmc.retrieval.search import exact_search
from hf_xmc.types import Positives, TopK

KS = (1, 3, 5)


@dataclass(frozen=True)
class HeadFit:
    """What was learned.

    Args:
        pipeline: its label head has the coefficients, its index the combined vectors. Channels and confidence were
            fitted to the index before, so it has none.
        summary: the coefficients, what was tried, and metrics of text, classifier and both on validation queries that
            chose nothing. JSON values.
        removed: files of the trained folder that were removed, because they were fitted to the index before.
    """

    pipeline: XMCPipeline
    summary: dict[str, Any]
    removed: tuple[str, ...] = ()

    def save(self, folder: str | Path, metrics: dict[str, Any] | None = None) -> list[str]:
        """Write label head, index, record of the run and metrics into the trained folder; returns the files that were
        removed, because they were fitted to the index before."""
        parts = pipeline_parts(self.pipeline)
        del parts["model"], parts["reranker"]
        head = self.pipeline.model.label_head
        return save_parts(folder, {**parts, "label_head": head, **({"metrics": metrics} if metrics else {})})


def fuse_label_head(
    tagger: AnyTagger,
    dataset: AnyDataset,
    batch_size: int = 64,
    seed: int = 0,
    depth: int = 100,
    output_dir: AnyPath | None = None,
) -> HeadFit:
    """Learn how the scores of text and classifier are combined, and index both as one vector per label.

    This is what `hf-xmc fuse` runs. A tagger that is given as a folder is saved there, with a new card; if it had
    metrics, they are measured again.

    Args:
        tagger: a tagger trained with `label_head="classifier"`, which is not changed, or its folder.
        dataset: the data set that it was trained on, its folder, or its name.
        batch_size: texts encoded at a time.
        seed: seed for splitting validation into halves, as in `calibrate`.
        depth: labels per query to learn from, by text and as many by classifier.
        output_dir: where to save the result; by default the folder of the tagger.

    Example:

        fitted = fuse_label_head("outputs/ngame", "sample")
        fitted.summary["fusion"]
    """
    folder = folder_to_write(tagger, output_dir)
    with alone_in(folder):
        given = as_tagger(tagger)
        data = on_catalogue_of(given, as_dataset(dataset))
        fitted = fuse_head(given, data, batch_size, seed, depth)
        if folder is None:
            return fitted
        metrics = None
        if before := read_json(folder / METRICS):
            metrics = measure_validation(fitted.pipeline, data, seed, before.get("train_seconds"), batch_size)
        with transaction(folder):
            if output_dir is not None:
                fitted.pipeline.save_pretrained(folder)
            return HeadFit(fitted.pipeline, fitted.summary, tuple(fitted.save(folder, metrics)))


def fuse_head(
    pipeline: XMCPipeline, data: XMCDataset, batch_size: int = 64, seed: int = 0, depth: int = 100
) -> HeadFit:
    """Learn on half of validation how text and classifier are combined, and index the combined vectors.

    Labels that were removed stay removed; those that were added are searched by their text alone. If labels have
    several texts in the index, coefficients are learned on the first of each.

    Args:
        pipeline: a trained model with a classifier head, and its index; not changed.
        data: the set that it was trained on.
        seed: seed for splitting validation into halves.
        depth: labels per query to learn from, by text and as many by classifier.

    Raises:
        ModelFolderError: there is no classifier.
        DataError: the index has other labels than the set, or validation has too few queries.
    """
    model, old = pipeline.model, pipeline.index
    head = classifier_of(model)
    check_data(pipeline, data)
    several = (
        old.about["texts"] if old.about["texts"] in ("mean", "rich") or old.index.num_rows > len(old) else "alone"
    )
    encoded = encode_catalogue(model, old.labels, several, batch_size)
    parts = Parts.of(head, encoded, old.removed)

    truth, filters = data.positives("validation"), data.filters.get("validation")
    later = set(range(len(head), data.num_labels))  # labels without a vector
    truth = truth.without(old.removed | later)
    filters = None if filters is None else filters.without(later)
    tuning, rest = halves(len(truth), seed)
    rest = np.sort(np.random.default_rng(seed).permutation(rest)[:TUNING])
    texts = data.queries["validation"].select(np.concatenate([tuning, rest]))["text"][:]
    queries = model.encode_queries(texts, batch_size, progress=True).numpy()
    weights = inverse_propensity(data.train_label_counts, data.num_train_queries, **data.propensity)
    held = [(truth.take(rows), None if filters is None else filters.take(rows)) for rows in (tuning, rest)]

    fusion, tried = fit_fusion(
        queries[: len(tuning)],
        parts.texts,
        parts.classifier,
        head.frequency().numpy(),
        held[0][0],
        weights[: len(head)],
        held[0][1],
        parts.allowed,
        depth,
        seed=seed,
    )
    fused = with_fusion(model, fusion)
    index = build_index(
        fused,
        old.labels,
        encoded,
        old.factory,
        several,
        recall_target=old.about.get("recall_target", 0.95),
        pooling=old.pooling,
    )
    if old.removed:
        index.remove(sorted(old.removed))
    summary = {
        "fusion": fusion,
        "tuned_on": len(tuning),
        "measured_on": len(rest),
        "metrics": measure(queries[len(tuning) :], parts, index, *held[1], weights[: len(head)]),
        "tried": tried,
    }
    run = {**pipeline.run, "fusion": summary}
    made = XMCPipeline(fused, index, run, reranker=pipeline.reranker, passages=pipeline.passages)
    return HeadFit(made, summary)


@dataclass(frozen=True)
class Parts:
    """The labels that have a vector: embeddings of their texts and their vectors, `[L, D]`; which are found, `[L]`."""

    texts: np.ndarray
    classifier: np.ndarray
    allowed: np.ndarray

    @classmethod
    def of(cls, head: LabelHead, encoded: tuple[np.ndarray, Tensor], removed: set[int]) -> Parts:
        rows = np.unique(encoded[0], return_index=True)[1][: len(head)]  # the first text of each label
        allowed = np.ones(len(head), bool)
        allowed[[row for row in removed if row < len(head)]] = False
        return cls(encoded[1][rows].numpy(), head.rows(torch.arange(len(head))).numpy(), allowed)


def classifier_of(model: XMCDualEncoderModel) -> LabelHead:
    """The model's classifier.

    Raises:
        ModelFolderError: it has none.
    """
    head = model.label_head
    if head is None or head.kind != "classifier":
        found = "no label head" if head is None else "a residual head, which is already part of the label embeddings"
        raise ModelFolderError(
            f"the model has {found}: there is nothing to fuse",
            hint="train a classifier with hf-xmc train --label_head classifier",
        )
    return head


def with_fusion(model: XMCDualEncoderModel, fusion: dict[str, float]) -> XMCDualEncoderModel:
    """The same model, its weights shared, whose label head has these coefficients."""
    made, head = copy.copy(model), classifier_of(model)
    made.label_head = LabelHead(head.kind, head.vectors, head.label_counts, head.catalogue, fusion, head.normalize)
    return made


def measure(
    queries: np.ndarray,
    parts: Parts,
    index: LabelIndex,
    positives: Positives,
    filters: Positives | None,
    weights: np.ndarray,
) -> dict[str, dict[str, float]]:
    """Ranking metrics of text alone, classifier alone, and the combination that is searched, on the same labels."""
    depth, live = search_depth(max(KS), filters), np.flatnonzero(parts.allowed)
    ranked = {"both": index.search(queries, depth, allowed=live)}
    for name, matrix in (("classifier alone", parts.classifier), ("text alone", parts.texts)):
        found = exact_search(queries, matrix[live], min(depth, len(live)))
        ranked[name] = TopK(live[found.ids], found.scores)
    return {name: ranking_metrics(topk, positives, KS, weights, filters) for name, topk in reversed([*ranked.items()])}
