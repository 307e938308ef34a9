"""Training a reranker for a tagger, on what the tagger finds for the training queries."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from transformers import TrainingArguments, set_seed

from hf_xmc.data.dataset import XMCDataset
from hf_xmc.errors import SettingsError
from hf_xmc.hub.folder import pipeline_parts, save_parts
from hf_xmc.inference.evaluation.evaluate import predict_split, score
from hf_xmc.inference.loading import (
    AnyDataset,
    AnyPath,
    AnyTagger,
    alone_in,
    as_dataset,
    as_tagger,
    check_labels,
    folder_to_write,
    on_catalogue_of,
)
from hf_xmc.inference.pipeline import XMCPipeline
from hf_xmc.metrics import drop_pairs
from hf_xmc.retrieval.rerank import CrossEncoderReranker, Reranker
from hf_xmc.training.reranker import train_cross_encoder


@dataclass(frozen=True)
class RerankerFit:
    """A trained reranker.

    Args:
        pipeline: the tagger with its reranker.
        metrics: ranking metrics on validation, `"as found"` and `"best k reranked"`; empty without validation queries.
        k: candidates per query that it learned to order.
    """

    pipeline: XMCPipeline
    metrics: dict[str, dict[str, float]]
    k: int


def train_reranker(
    tagger: AnyTagger,
    dataset: AnyDataset,
    encoder: str,
    k: int = 20,
    max_length: int = 128,
    num_train_epochs: float = 1.0,
    learning_rate: float = 2e-5,
    batch_size: int = 4,
    seed: int = 42,
    output_dir: AnyPath | None = None,
) -> RerankerFit:
    """Train a cross-encoder that reads text and label together and reorders the best labels of a tagger.

    This is what `hf-xmc rerank` runs. A tagger that is given as a folder gets its reranker saved there. Use it with
    `tagger(text, rerank=20)`.

    Args:
        tagger: a tagger, which is not changed, or its folder.
        dataset: the data set that it was trained on, its folder, or its name.
        encoder: a cross-encoder with one output, or any encoder: Hub id or folder.
        k: candidates per query that it learns to order.
        max_length: tokens of text and label together.
        num_train_epochs: passes over the training queries. xMEN trains 20, on few queries.
        learning_rate: 2e-5 as in xMEN.
        batch_size: queries per step, each with all its candidates.
        seed: seed for the order of queries and for a new output layer.
        output_dir: where to save the result; by default the folder of the tagger.

    Raises:
        SettingsError: a number that is out of range.

    Example:

        fitted = train_reranker("outputs/demo/model", "sample", "cross-encoder/ms-marco-MiniLM-L6-v2")
        fitted.pipeline("Aligns short reads to a reference genome", rerank=20)
    """
    check_ranges(
        {"k": (k, 2), "max_length": (max_length, 4), "batch_size": (batch_size, 1)},
        {"num_train_epochs": num_train_epochs, "learning_rate": learning_rate},
    )
    folder = folder_to_write(tagger, output_dir)
    with alone_in(folder):
        data, given = as_dataset(dataset), as_tagger(tagger)
        data = on_catalogue_of(given, data)
        check_labels(given.index, data)
        set_seed(seed)
        reranker = CrossEncoderReranker.from_encoder(encoder, max_length)
        # By the label vectors alone: in the query memory a training query would find itself.
        found = drop_pairs(
            predict_split(given, data, "train", k, channels=(), **known_labels(data)), data.filters.get("train")
        )
        with TemporaryDirectory() as scratch:
            args = TrainingArguments(
                scratch,
                num_train_epochs=num_train_epochs,
                learning_rate=learning_rate,
                per_device_train_batch_size=batch_size,
                weight_decay=0.01,
                seed=seed,
                save_strategy="no",
                report_to="none",
            )
            texts, truth = data.queries["train"]["text"][:], data.positives("train")
            temperature = given.model.config.temperature
            train_cross_encoder(reranker, texts, found, truth, data.labels, args, temperature=temperature)
        return finished(given, reranker, data, k, folder, output_dir is None)


def finished(
    given: XMCPipeline, reranker: Reranker, data: XMCDataset, k: int, folder: Path | None, in_place: bool
) -> RerankerFit:
    """The tagger with its reranker: saved, if there is a folder to write, and measured on validation.

    Args:
        in_place: the folder is the tagger's own.
    """
    made = XMCPipeline(
        given.model,
        given.index,
        given.run,
        confidence=given.confidence,
        reranker=reranker,
        channels=given.channels,
        fusion=given.fusion,
        passages=given.passages,
    )
    if folder is not None:
        save_parts(folder, {"reranker": reranker} if in_place else pipeline_parts(made))
    metrics: dict[str, dict[str, float]] = {}
    if len(data.queries["validation"]):
        for name, depth in (("as found", 0), (f"best {k} reranked", k)):
            ranked = predict_split(made, data, "validation", 5, rerank=depth, **known_labels(data))
            metrics[name] = score(ranked, data, "validation")
    return RerankerFit(made, metrics, k)


def check_ranges(least: dict[str, tuple[int, int]], rates: dict[str, float]) -> None:
    """Refuse numbers that are out of range.

    Raises:
        SettingsError: a whole number below its minimum, given as name -> (value, minimum); a rate that is not above 0.
    """
    for name, (value, minimum) in least.items():
        if value < minimum:
            raise SettingsError(f"{name} is {value}; it must be at least {minimum}")
    for name, rate in rates.items():
        if not rate > 0:
            raise SettingsError(f"{name} is {rate}; it must be above 0")


def known_labels(data: XMCDataset) -> dict[str, Any]:
    """The search option that leaves out labels that were added later, which have no queries in the data set."""
    return {"allowed": np.arange(data.num_labels)}
