"""Label vectors moved towards the centroids of their training queries, without training.

z_l = |text_l| unit((1 - b_l) unit(text_l) + b_l c_l), with c_l the unit mean of the label's n_l training queries and
b_l = n_l / (n_l + kappa): frequent labels move to their queries, rare ones stay close to their text, and labels
without queries do not change. kappa is tuned on validation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix

from hf_xmc.errors import DataError, SettingsError
from hf_xmc.metrics.hits import search_depth
from hf_xmc.metrics.ranking import ranking_metrics
from hf_xmc.retrieval.search import as_matrix, exact_search
from hf_xmc.types import Positives

KAPPAS = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0)


def enrich_labels(labels: Any, queries: Any, positives: Positives, kappa: float) -> np.ndarray:
    """Label vectors of the same lengths, moved towards their centroids, float32 `[L, D]`.

    Args:
        labels: embeddings of the label texts, `[L, D]`.
        queries: embeddings of the training queries, `[N, D]`.
        positives: their labels, N rows.
        kappa: number of queries that weigh as much as the text; `inf` keeps the text vectors.

    >>> text, queries = np.array([[1.0, 0.0]]), np.array([[0.6, 0.8], [0.0, 1.0]])
    >>> enrich_labels(text, queries, Positives.from_lists([[0], [0]]), kappa=2).round(4)
    array([[0.8112, 0.5847]], dtype=float32)
    """
    text, (sums, counts) = as_matrix(labels), label_sums(labels, queries, positives)
    return blend(text, sums, counts, kappa)


def tune_enrichment(
    labels: Any,
    train_queries: Any,
    train_positives: Positives,
    queries: Any,
    positives: Positives,
    kappas: Sequence[float] = KAPPAS,
    filters: Positives | None = None,
    k: int = 5,
) -> tuple[float, list[dict[str, float]]]:
    """The kappa with the largest mean of P@1 and nDCG@k on held-out queries, and what was tried. `inf` (texts alone)
    is tried first and wins if centroids do not help.

    Args:
        labels, train_queries, train_positives: see `enrich_labels`.
        queries, positives, filters: held-out queries `[B, D]`, their truth, and pairs removed from predictions.
    """
    text = as_matrix(labels)
    sums, counts = label_sums(text, train_queries, train_positives)
    table = []
    for kappa in (float("inf"), *kappas):
        topk = exact_search(queries, blend(text, sums, counts, kappa), search_depth(k, filters))
        found = ranking_metrics(topk, positives, ks=(1, k), filters=filters)
        table.append({"kappa": kappa, "P@1": found["P@1"], f"nDCG@{k}": found[f"nDCG@{k}"]})
    best = int(np.argmax([row["P@1"] + row[f"nDCG@{k}"] for row in table]))
    return table[best]["kappa"], table


def label_sums(labels: Any, queries: Any, positives: Positives) -> tuple[np.ndarray, np.ndarray]:
    """The sum of the training queries of each label `[L, D]`, and their number `[L]`."""
    matrix, truth = as_matrix(queries), positives.numpy()
    if len(matrix) != len(truth):
        raise DataError(f"Found {len(matrix):,} query embeddings, but positives of {len(truth):,} queries")
    truth.validate(len(labels))
    ones = np.ones(len(truth.indices), dtype=np.float32)
    incidence = csr_matrix((ones, truth.indices, truth.indptr), shape=(len(truth), len(labels)))
    return np.asarray(incidence.T @ matrix, dtype=np.float32), truth.label_counts(len(labels))


def blend(text: np.ndarray, sums: np.ndarray, counts: np.ndarray, kappa: float) -> np.ndarray:
    """Text vectors and centroids weighted by frequency; each row keeps the length of its text vector."""
    if not kappa > 0:
        raise SettingsError(f"kappa is {kappa}; it must be above 0")
    share = (counts / (counts + kappa) if np.isfinite(kappa) else np.zeros(len(counts)))[:, None].astype(np.float32)
    # A length of 1 stays 1; if a classifier is fused with the text, the length matters for the score.
    return np.linalg.norm(text, axis=1, keepdims=True) * unit((1 - share) * unit(text) + share * unit(sums))


def unit(matrix: np.ndarray) -> np.ndarray:
    """Rows scaled to length 1; zero rows stay zero."""
    length = np.linalg.norm(matrix, axis=1, keepdims=True)
    return matrix / np.where(length > 0, length, 1)
