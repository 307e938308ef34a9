"""Building an index that reaches a recall: its kind is chosen by size, its search effort by measurement."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np

from hf_xmc.retrieval.factories import EFFORT, family, inner, set_effort
from hf_xmc.retrieval.search import exact_search
from hf_xmc.retrieval.vectors import VectorIndex

logger = logging.getLogger(__name__)
SAMPLE, DEPTH = 256, 10  # queries to measure on, and labels to find for each
NOISE = 0.75  # length of the noise on a sampled label of length 1: a cosine of 0.8
EXACT_UP_TO, GRAPH_UP_TO = 2**25, 2**27  # numbers in the matrix: 87k and 350k labels of 384 dimensions


def choose_factory(num_rows: int, dimension: int) -> list[str]:
    """Kinds of index for a catalogue of this size, best first.

    Up to about 90k labels of 384 dimensions, exact search takes milliseconds. Larger catalogues get a graph, which is
    the fastest to search but slow to build and large, and the largest ones lists of codes, at a quarter of the size.

    >>> choose_factory(10_000, 384), choose_factory(1_000_000, 384)[0]
    (['flat'], 'ivf-sq8')
    """
    if num_rows * dimension <= EXACT_UP_TO:
        return ["flat"]
    if num_rows * dimension <= GRAPH_UP_TO:
        return ["hnsw", "ivf-flat", "flat"]
    return ["ivf-sq8", "rabitq", "flat"]


def build_measured(
    factory: str, matrix: np.ndarray, label_ids: np.ndarray, recall_target: float, sample: np.ndarray | None = None
) -> tuple[VectorIndex, dict[str, Any]]:
    """Build an index of embeddings `[M, D]` under label ids `[M]`, and raise its search effort to reach a recall.

    Args:
        factory: a kind of index, or `"auto"` for the first that suits the size and reaches the target.
        sample: queries `[n, D]` to measure on; by default labels with noise.

    Returns:
        The index, and its measured `{"recall_at_10", "recall_target"}`; exact search is not measured.
    """
    kinds = choose_factory(*matrix.shape) if factory == "auto" else [factory]
    for kind in kinds:
        index = VectorIndex.build(kind, matrix, label_ids)
        recall = 1.0 if kind == "flat" else tune(index, matrix, label_ids, recall_target, sample)
        if recall >= recall_target:
            break
        logger.warning(f"A {kind} index finds {recall:.3f} of the true first ten, less than {recall_target:.3f}.")
    return index, {"recall_at_10": round(recall, 4), "recall_target": recall_target}


def tune(
    index: VectorIndex, matrix: np.ndarray, label_ids: np.ndarray, target: float, sample: np.ndarray | None = None
) -> float:
    """Double the search effort until it reaches the target or the maximum; returns the recall."""
    queries = noisy_labels(matrix) if sample is None else sample
    if not len(queries):
        return 1.0
    truth = label_ids[exact_search(queries, matrix, min(DEPTH, len(matrix))).ids]
    if family(index.factory) == "rabitq":
        index.parameters["k_factor"] = candidates_needed(index, queries, truth, target)
        set_effort(index.index, index.factory, index.parameters)
    recall = recall_of(index, queries, truth)
    name, most = EFFORT.get(family(index.factory), ("", 0))
    if name == "nprobe":
        most = min(most, index.parameters["nlist"])
    while name and recall < target and index.parameters[name] < most:
        index.parameters[name] = min(2 * index.parameters[name], most)
        set_effort(index.index, index.factory, index.parameters)
        recall = recall_of(index, queries, truth)
    return recall


def candidates_needed(index: VectorIndex, queries: np.ndarray, truth: np.ndarray, target: float) -> int:
    """The `k_factor` at which the candidates of an index of codes hold enough of the true labels `[n, k]`: one search
    of the codes says it for all values, where each search would read all of them."""
    factor, most = index.parameters["k_factor"], EFFORT["rabitq"][1]
    labels, depth = index.row_labels(), index.depth(truth.shape[1])
    rows = inner(index.index).base_index.search(queries, min(depth * most, index.num_rows))[1]  # [n, candidates]
    while factor < most and recall_among(labels[rows[:, : depth * factor]], truth) < target:
        factor = min(2 * factor, most)
    return factor


def recall_of(index: VectorIndex, queries: np.ndarray, truth: np.ndarray) -> float:
    """Mean share of the true labels `[n, k]` that a search for k labels finds."""
    return recall_among(index.search(queries, truth.shape[1])[1], truth)


def recall_among(found: np.ndarray, truth: np.ndarray) -> float:
    """Mean share of the true labels `[n, k]` that are among those found, `[n, m]`."""
    return float(
        np.mean([len(set(a) & set(b)) / len(set(b)) for a, b in zip(found.tolist(), truth.tolist(), strict=True)])
    )


def noisy_labels(matrix: np.ndarray) -> np.ndarray:
    """Queries near labels: a sample of the embeddings, with noise in proportion to their length."""
    random = np.random.default_rng(0)
    rows = matrix[random.choice(len(matrix), min(SAMPLE, len(matrix)), replace=False)]
    noise = random.standard_normal(rows.shape, np.float32) / np.sqrt(matrix.shape[1])
    return rows + NOISE * np.linalg.norm(rows, axis=1, keepdims=True) * noise
