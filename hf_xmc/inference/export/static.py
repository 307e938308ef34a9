"""A static student of a tagger: its query encoder replaced by a table of vectors of hashed words, in the same space.

The student learns, by ridge regression in closed form, what the teacher makes of training texts and what vectors the
labels have. Index, memory and the other channels stay as they are, since the space is the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from scipy.linalg import solve
from scipy.sparse import csr_array

from hf_xmc.errors import ModelFolderError
from hf_xmc.inference.pipeline import XMCPipeline
from hf_xmc.modeling import XMCDualEncoderModel
from hf_xmc.modeling.static_tower_xmc import StaticTower
from hf_xmc.retrieval.fingerprint import encoder_fingerprint

MOST_TEXTS = 5000  # training texts, and as many labels: the regression solves a system of their number
RIDGE = 0.1  # in units of the mean squared norm of a text's features
LEAST_NORM = 1e-9


def distilled(teacher: XMCPipeline, train: Sequence[str], held_out: Sequence[str], seed: int = 0) -> XMCPipeline:
    """The same tagger with a static student in the place of its encoder. It has no confidence, which was fitted on the
    teacher's scores, and no reranker. The index of the teacher goes over to it.

    Args:
        train: texts whose embeddings are learned; of more than 5,000 as many at random.
        held_out: other texts, by which the length of what was learned is judged.

    Raises:
        ModelFolderError: a model without a transformer, or whose embeddings are not of unit length.
    """
    model = teacher.model
    if getattr(model, "query_encoder", None) is None:
        raise ModelFolderError(
            "the model has no transformer that a static student could replace; it is static already"
        )
    if not model.config.normalize:
        raise ModelFolderError("the embeddings are not of unit length, as those of a static student always are")
    draw = np.random.default_rng(seed)
    texts = [train[i] for i in some(len(train), draw)]
    live = np.array([row for row in range(teacher.index.catalogue.num_rows) if row not in teacher.index.removed])
    labels = live[some(len(live), draw)]
    names = [teacher.index.labels["text"][int(row)] for row in labels]
    targets = np.concatenate([np.asarray(model.encode_queries(texts)), unit(teacher.index.vectors(labels))])
    student = static_model(model, [*texts, *names], targets, held_out)
    about = {"encoder_fingerprint": encoder_fingerprint(student), "head_fingerprint": None}
    teacher.index.about |= about
    if teacher.memory is not None:
        teacher.memory.made_for = None  # its embeddings are the student's from now on
    run = {**teacher.run, "student": {"texts": len(texts), "labels": len(labels), "ridge": RIDGE, "seed": seed}}
    return XMCPipeline(student, teacher.index, run=run, channels=teacher.channels, fusion=teacher.fusion)


def some(number: int, draw: np.random.Generator) -> np.ndarray:
    """At most 5,000 of so many rows, at random, int64 `[n]`."""
    return np.arange(number) if number <= MOST_TEXTS else np.sort(draw.choice(number, MOST_TEXTS, replace=False))


def static_model(
    model: XMCDualEncoderModel, texts: Sequence[str], targets: np.ndarray, held_out: Sequence[str]
) -> XMCDualEncoderModel:
    """A model of a static tower alone, whose embeddings of the texts are near their targets.

    Args:
        targets: of each text, of unit length, float32 `[n, D]`.
    """
    tower, share = model.static_tower, model.config.static_weight
    if tower is None:
        tower, share = StaticTower(0, model.config.static_buckets), 0.0
        tower.grow(tower.features(texts))
    known = tower.table.detach().float().cpu().numpy()  # [R, S]; the last S dimensions are the teacher's own
    dense = targets.shape[1] - known.shape[1]
    learned = regression(scaled(matrix(tower, texts), known), unit(targets[:, :dense]))
    # A regression shrinks what it does not know; beside the static part, the dense one keeps its share.
    lengths = np.linalg.norm(scaled(matrix(tower, held_out), known) @ learned, axis=1)
    learned /= max(float(np.median(lengths)), LEAST_NORM)
    table = np.hstack([(1 - share) ** 0.5 * learned, share**0.5 * known])
    student = XMCDualEncoderModel.from_encoder(
        None, static_dim=targets.shape[1], static_buckets=tower.num_buckets, seed=0
    )
    assert student.static_tower is not None
    student.static_tower.replace(torch.from_numpy(table).half().float(), tower.buckets.cpu(), tower.idf.cpu())
    student.config.static_rows = len(tower)
    return student


def matrix(tower: StaticTower, texts: Sequence[str]) -> Any:
    """The weighted features of texts that a tower knows, a sparse float32 matrix `[n, R]`."""
    rows, weights, indptr = (part.cpu().numpy() for part in tower.bag(tower.features(texts).take()))
    return csr_array((weights.astype(np.float32), rows, indptr), shape=(len(texts), len(tower)))


def scaled(features: Any, known: np.ndarray) -> Any:
    """Features divided by the length of the static vector that they give, so that the teacher's static part is linear
    in them; without one by their own length."""
    lengths = np.linalg.norm(features @ known, axis=1) if known.shape[1] else np.sqrt(features.power(2).sum(axis=1))
    return csr_array(features.multiply(1 / np.maximum(lengths, LEAST_NORM)[:, None]))


def regression(features: Any, targets: np.ndarray) -> np.ndarray:
    """Ridge regression: vectors of the features, float32 `[R, D]`.

    Solved for the n texts and not for the R features, of which there are more.

    Args:
        features: sparse `[n, R]`.
        targets: `[n, D]`.

    >>> regression(csr_array(np.eye(2)), 1.1 * np.eye(2)).round(3).tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    size = max(float(features.power(2).sum(axis=1).mean()), LEAST_NORM)
    products = (features @ features.T).toarray() / size
    products[np.diag_indices_from(products)] += RIDGE
    weights = solve(products, targets, assume_a="pos", overwrite_a=True)
    return np.asarray(features.T @ weights, np.float32) / size


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), LEAST_NORM)
