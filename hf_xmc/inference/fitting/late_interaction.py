"""Training a late-interaction reranker for a tagger, and choosing how much the first ranking counts beside it."""

from __future__ import annotations

from tempfile import TemporaryDirectory

import numpy as np
from transformers import TrainingArguments, set_seed

from hf_xmc.errors import SettingsError
from hf_xmc.inference.evaluation.evaluate import predict_split
from hf_xmc.inference.fitting.reranker import RerankerFit, check_ranges, finished, known_labels
from hf_xmc.inference.loading import (
    AnyDataset,
    AnyPath,
    AnyTagger,
    as_dataset,
    as_tagger,
    check_labels,
    folder_to_write,
    on_catalogue_of,
)
from hf_xmc.metrics import drop_pairs, ranking_metrics, search_depth
from hf_xmc.retrieval.late_interaction import LateInteractionReranker
from hf_xmc.retrieval.rerank import score_pairs, standardised
from hf_xmc.training.late_interaction import train_projections
from hf_xmc.types import Positives, TopK

WEIGHTS = (0.0, 0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0)  # of the first ranking, tried on validation


def train_late_interaction(
    tagger: AnyTagger,
    dataset: AnyDataset,
    k: int = 100,
    dim: int = 128,
    transport_weight: float = 0.1,
    max_train_samples: int | None = None,
    num_train_epochs: float = 3.0,
    learning_rate: float = 1e-3,
    batch_size: int = 16,
    seed: int = 42,
    output_dir: AnyPath | None = None,
) -> RerankerFit:
    """Train a reranker that compares the tokens of a text with those of a label, over the tagger's own encoder.

    This is what `hf-xmc rerank --kind late_interaction` runs. A tagger that is given as a folder gets its reranker
    saved there. Use it with `tagger(text, rerank=100)`.

    Only a projection for each side is trained, with the conditional transport loss as a regulariser. How much the
    scores of the tagger count beside it is chosen by nDCG@5 on validation; without validation queries, as much as its
    own.

    Args:
        tagger: a tagger with a transformer, which is not changed, or its folder.
        dataset: the data set that it was trained on, its folder, or its name.
        k: candidates per query that it learns to order.
        dim: dimensions of the tokens that are compared.
        transport_weight: weight of the conditional transport loss; 0 for max-sim alone.
        max_train_samples: train on a random sample of so many training queries, to save time and disk; by default all.
        num_train_epochs: passes over the training queries, which are encoded once.
        learning_rate: peak learning rate of the projections.
        batch_size: queries per step, each with all its candidates.
        seed: seed for projections, sample and order of queries.
        output_dir: where to save the result; by default the folder of the tagger.

    Raises:
        SettingsError: a number that is out of range, or a tagger without a transformer.

    Example:

        fitted = train_late_interaction("outputs/demo/model", "sample")
        fitted.pipeline("Aligns short reads to a reference genome", rerank=100)
    """
    check_ranges(
        {
            "k": (k, 2),
            "dim": (dim, 1),
            "batch_size": (batch_size, 1),
            "max_train_samples": (1 if max_train_samples is None else max_train_samples, 1),
        },
        {"num_train_epochs": num_train_epochs, "learning_rate": learning_rate},
    )
    if not transport_weight >= 0:
        raise SettingsError(f"transport_weight is {transport_weight}; it must be at least 0")
    folder = folder_to_write(tagger, output_dir)
    data, given = as_dataset(dataset), as_tagger(tagger)
    data = on_catalogue_of(given, data)
    check_labels(given.index, data)
    if given.model.query_encoder is None:
        raise SettingsError(
            "the tagger has a static tower alone, and no transformer whose tokens could be compared",
            hint="make one with hf-xmc fit --preset default, or rerank with --kind cross_encoder",
        )
    set_seed(seed)
    reranker = LateInteractionReranker(given.model, dim=dim, seed=seed)
    rows = some(np.arange(len(data.queries["train"])), max_train_samples, seed)
    texts, truth = data.queries["train"].select(rows)["text"][:], data.positives("train").take(rows)
    left_out = None if (filters := data.filters.get("train")) is None else filters.take(rows)
    # By the label vectors alone: in the query memory a training query would find itself.
    found = given.predict(texts, search_depth(k, left_out), progress=True, channels=(), **known_labels(data))
    with TemporaryDirectory() as scratch:
        args = TrainingArguments(
            scratch,
            num_train_epochs=num_train_epochs,
            learning_rate=learning_rate,
            lr_scheduler_type="linear",
            warmup_steps=0.1,
            per_device_train_batch_size=batch_size,
            weight_decay=0.01,
            seed=seed,
            save_strategy="no",
            report_to="none",
        )
        candidates = drop_pairs(found, left_out)
        train_projections(reranker, texts, candidates, truth, data.labels, args, transport_weight)
    reranker.first_stage_weight = 1.0
    if len(data.queries["validation"]):
        first = predict_split(given, data, "validation", k, **known_labels(data))
        scores = score_pairs(reranker, data.queries["validation"]["text"][:], first, data.labels)
        truth, left_out = data.positives("validation"), data.filters.get("validation")
        reranker.first_stage_weight = choose_weight(first, scores, truth, left_out)
    return finished(given, reranker, data, k, folder, output_dir is None)


def some(rows: np.ndarray, number: int | None, seed: int) -> np.ndarray:
    """A random sample of rows, in their order; all of them if the number is None or larger."""
    if number is None or number >= len(rows):
        return rows
    return np.sort(np.random.default_rng(seed).choice(rows, number, replace=False))


def choose_weight(first: TopK, scores: np.ndarray, truth: Positives, filters: Positives | None = None) -> float:
    """The weight of the first ranking, among `WEIGHTS`, with the best nDCG@5; the smallest of equals.

    `WEIGHTS` are in units of the spread that the reranker's own scores have.

    Args:
        first: the first ranking, `[N, K]`.
        scores: the reranker's own, of the same labels, `[N, K]`.
        truth: the true labels of these queries.
        filters: pairs that are left out of the measure.
    """
    spread = float(scores[np.asarray(first.ids) >= 0].std()) or 1.0
    prior = standardised(first)

    def quality(weight: float) -> float:
        ranked = TopK(first.ids, scores + weight * spread * prior).sorted()
        return ranking_metrics(ranked, truth, (5,), filters=filters)["nDCG@5"]

    return spread * max(WEIGHTS, key=quality)
