"""Exact search, and the form that every search returns."""

from __future__ import annotations

from typing import Any

import faiss
import numpy as np
import torch

from hf_xmc.types import TopK


def as_matrix(embeddings: Any) -> np.ndarray:
    """Embeddings as FAISS wants them: float32, contiguous, `[N, D]`.

    Raises:
        ValueError: not a matrix, or not finite.
    """
    if hasattr(embeddings, "detach"):
        embeddings = embeddings.detach().float().cpu()
    matrix = np.ascontiguousarray(embeddings, dtype=np.float32)
    if matrix.ndim != 2:
        raise ValueError(f"Embeddings have shape {matrix.shape}; expected [N, D].")
    if not np.isfinite(matrix).all():
        row = int((~np.isfinite(matrix)).any(1).argmax())
        raise ValueError(f"The embedding of row {row} holds NaN or infinity; did training diverge?")
    return matrix


def exact_search(queries: Any, labels: Any, k: int) -> TopK:
    """The k labels of largest dot product for each query, without an index.

    Args:
        queries, labels: embeddings, `[N, D]` and `[L, D]`, arrays or tensors.
        k: results a query; where it is larger than L, the rest is padding (-1, -inf).

    >>> exact_search(np.eye(2), np.array([[1.0, 0.0], [0.5, 0.5], [1.0, 0.0]]), k=2).ids.tolist()
    [[0, 2], [1, 0]]
    """
    queries, labels = as_matrix(queries), as_matrix(labels)
    share_threads()
    found = min(k, len(labels))
    scores, ids = faiss.knn(queries, labels, found, metric=faiss.METRIC_INNER_PRODUCT)
    return as_topk(ids, scores, k)


def as_topk(ids: np.ndarray, scores: np.ndarray, k: int) -> TopK:
    """What FAISS found as a `TopK` with k columns: best first, of equal scores the lower id first, then padding."""
    missing = ((0, 0), (0, k - ids.shape[1]))
    ids = np.pad(ids, missing, constant_values=-1)
    scores = np.pad(scores, missing, constant_values=-np.inf)
    return TopK(ids, scores).sorted()


def share_threads() -> None:
    """FAISS and torch bring an OpenMP runtime each: give FAISS the number of threads that torch was given."""
    faiss.omp_set_num_threads(torch.get_num_threads())
