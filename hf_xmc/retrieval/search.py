"""Exact search, and what all searches share."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import faiss
import numpy as np

from hf_xmc.errors import DataError
from hf_xmc.types import TopK

if TYPE_CHECKING:
    from torch import Tensor


def as_matrix(embeddings: Any) -> np.ndarray:
    """Embeddings as FAISS needs them: float32, contiguous, `[N, D]`.

    Raises:
        DataError: not a matrix, or not finite.
    """
    if hasattr(embeddings, "detach"):  # a tensor
        embeddings = embeddings.detach().float().cpu()
    matrix = np.ascontiguousarray(embeddings, dtype=np.float32)
    if matrix.ndim != 2:
        raise DataError(f"Embeddings have shape {matrix.shape}; expected [N, D].")
    if not np.isfinite(matrix).all():
        row = int((~np.isfinite(matrix)).any(1).argmax())
        raise DataError(f"The embedding of row {row} holds NaN or infinity; did training diverge?")
    return matrix


def exact_search(queries: Any, labels: Any, k: int) -> TopK:
    """The k labels of largest dot product for each query, without an index.

    Args:
        queries, labels: embeddings, `[N, D]` and `[L, D]`, arrays or tensors.
        k: results per query; if it is larger than L, the rest is padding (-1, -inf).

    >>> exact_search(np.eye(2), np.array([[1.0, 0.0], [0.5, 0.5], [1.0, 0.0]]), k=2).ids.tolist()
    [[0, 2], [1, 0]]
    """
    queries, labels = as_matrix(queries), as_matrix(labels)
    share_threads()
    found = min(k, len(labels))
    scores, ids = faiss.knn(queries, labels, found, metric=faiss.METRIC_INNER_PRODUCT)
    return as_topk(ids, scores, k)


def torch_search(
    queries: Tensor, labels: Tensor, k: int, mask: Tensor | None = None, chunk_size: int = 2**18
) -> tuple[Tensor, Tensor]:
    """Exact search by matrix products on the device of the labels, which is fast on a GPU.

    Args:
        queries, labels: embeddings, `[N, D]` and `[L, D]`.
        mask: the labels that may be returned, bool `[L]`; None for all.
        chunk_size: number of labels that are compared at a time.

    Returns:
        Scores and rows of the k best labels, `[N, k]`, best first; -inf and -1 where there are fewer.

    >>> import torch
    >>> torch_search(torch.eye(2), torch.tensor([[1.0, 0.0], [0.5, 0.6]]), k=1)[1].tolist()
    [[0], [1]]
    """
    import torch

    queries = queries.to(labels)
    scores, ids = queries.new_full((len(queries), k), -torch.inf), labels.new_full((len(queries), k), -1).long()
    for start in range(0, len(labels), chunk_size):
        block = queries @ labels[start : start + chunk_size].T  # [N, chunk]
        if mask is not None:
            block = block.masked_fill(~mask[start : start + chunk_size], -torch.inf)
        best, rows = block.topk(min(k, block.shape[1]))
        rows = torch.where(best == -torch.inf, -1, rows + start)
        scores, order = torch.cat([scores, best], 1).topk(k)
        ids = torch.cat([ids, rows], 1).gather(1, order)
    return scores, ids


def as_topk(ids: np.ndarray, scores: np.ndarray, k: int) -> TopK:
    """FAISS results as a `TopK` with k columns: best first, of equal scores the lower id first, then padding."""
    if ids.shape[1] == k and (scores[:, 1:] < scores[:, :-1]).all() and ids.min(initial=0) >= 0:
        return TopK(ids, scores)  # nearly always; for one query the rest would take about as long as the search
    missing = ((0, 0), (0, k - ids.shape[1]))
    ids = np.pad(ids, missing, constant_values=-1)
    scores = np.pad(scores, missing, constant_values=-np.inf)
    return TopK(ids, scores).sorted()


def best_of_each(ids: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The best result of each label, in rows that may contain a label more than once, best first; the other places
    become padding at the end. Returns ids, scores, and the number of labels per row.

    >>> best_of_each(np.array([[4, 4, 1]]), np.array([[0.9, 0.7, 0.2]]))[0].tolist()
    [[4, 1, -1]]
    """
    order = np.argsort(ids, axis=1, kind="stable")
    grouped = np.take_along_axis(ids, order, 1)
    again = np.zeros(ids.shape, bool)
    np.put_along_axis(again, order[:, 1:], grouped[:, 1:] == grouped[:, :-1], 1)
    again |= ids < 0
    kept = np.argsort(again, axis=1, kind="stable")
    empty = np.take_along_axis(again, kept, 1)
    ids = np.where(empty, -1, np.take_along_axis(ids, kept, 1))
    scores = np.where(empty, -np.inf, np.take_along_axis(scores, kept, 1))
    return ids, scores, (~again).sum(1)


def share_threads() -> None:
    """Give FAISS as many threads as torch has, if it is imported; each brings its own OpenMP runtime."""
    if torch := sys.modules.get("torch"):
        faiss.omp_set_num_threads(torch.get_num_threads())
