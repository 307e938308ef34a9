"""Hierarchical metrics, in which a near miss counts more than a far one: precision and recall on labels and their
ancestors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from hf_xmc.errors import DataError
from hf_xmc.metrics.hits import find_hits
from hf_xmc.metrics.per_query import ratio
from hf_xmc.metrics.ranking import checked_ks
from hf_xmc.types import Array, Positives, TopK

if TYPE_CHECKING:
    from scipy.sparse import csr_array

CHUNK_ROWS = 8192  # rows whose predictions with ancestors are in memory at once


def hierarchical_metrics(
    topk: TopK,
    positives: Positives,
    parents: Array,
    ks: Sequence[int] = (1, 3, 5),
    filters: Positives | None = None,
    exclude: Sequence[int] | np.ndarray = (),
) -> dict[str, float]:
    """Precision, recall and F1 on the closure under ancestors, as Silla and Freitas (2011) define them.

    With T^ and P^ the true labels and the first k predictions, each with all their ancestors: micro hP is
    `sum |P^ & T^| / sum |P^|`, hR the same over `sum |T^|`, hF their harmonic mean. Macro is the mean over queries of
    each, with F computed per query. What papers on hierarchical text classification call Macro-F1, the mean over
    labels of F1 on closed sets, is `h_label_macro_f1` (over labels that are true or predicted). 0 / 0 is 0.

    Args:
        topk: predictions `[N, K]`; ancestors are added to the first k.
        positives: the truth, N rows.
        parents: pairs (child id, parent id), integers `[E, 2]`. A label may have several parents, and parents may be
            nodes that are not in the label table.
        ks: cut-offs.
        filters: pairs that are removed from the predictions.
        exclude: ids that are ignored. A root above all labels should be, since every prediction would contain it.

    Returns:
        Fractions under `h_micro_precision@k h_micro_recall@k h_micro_f1@k h_macro_precision@k h_macro_recall@k
        h_macro_f1@k h_label_macro_f1@k`.

    Raises:
        ValueError: the parents form a circle, or are not pairs of ids.
    """
    ks = checked_ks(ks)
    hits = find_hits(topk, positives, max(ks), filters)
    truth = hits.positives
    edges = np.asarray(parents)
    largest = max(int(x.max(initial=-1)) for x in (truth.indices, hits.ids, edges))
    closure = ancestor_closure(edges, largest + 1, exclude)
    result: dict[str, float] = {}
    for k in ks:
        sums, per_row, by_label = np.zeros(3), np.zeros(3), np.zeros((3, closure.shape[0]))
        for start in range(0, len(truth), CHUNK_ROWS):
            rows = np.arange(start, min(start + CHUNK_ROWS, len(truth)))
            true, predicted = _close(truth.take(rows), closure), _close(_predicted(hits.ids[rows, :k]), closure)
            both = true * predicted
            sizes = np.stack([np.diff(x.indptr) for x in (both, predicted, true)]).astype(float)  # [3, rows]
            sums += sizes.sum(axis=1)
            shares = [_divide(sizes[0], sizes[1]), _divide(sizes[0], sizes[2])]
            per_row += [x.sum() for x in [*shares, _divide(2 * sizes[0], sizes[1] + sizes[2])]]
            for j, x in enumerate((both, predicted, true)):
                by_label[j] += np.bincount(x.indices, minlength=closure.shape[0])
        values = {
            "h_micro_precision": ratio(sums[0], sums[1]),
            "h_micro_recall": ratio(sums[0], sums[2]),
            "h_micro_f1": ratio(2 * sums[0], sums[1] + sums[2]),
            **dict(
                zip(
                    ("h_macro_precision", "h_macro_recall", "h_macro_f1"),
                    per_row / max(len(truth), 1),
                    strict=True,
                )
            ),
            "h_label_macro_f1": ratio(
                _divide(2 * by_label[0], by_label[1] + by_label[2]).sum(),
                int(((by_label[1] + by_label[2]) > 0).sum()),
            ),
        }
        result |= {f"{name}@{k}": float(value) for name, value in values.items()}
    return result


def roots(parents: Array) -> np.ndarray:
    """The nodes that have children but no parent, sorted, int64. They should be excluded, because nearly every label
    has one of them as an ancestor.

    >>> roots(np.array([[1, 0], [2, 1], [4, 3]])).tolist()
    [0, 3]
    """
    edges = np.asarray(parents, dtype=np.int64).reshape(-1, 2)
    return np.setdiff1d(edges[:, 1], edges[:, 0])


def ancestor_closure(parents: Array, num_nodes: int, exclude: Sequence[int] | np.ndarray = ()) -> csr_array:
    """Each node with all its ancestors, as a sparse 0/1 matrix `[num_nodes, num_nodes]`.

    >>> ancestor_closure([[1, 0], [2, 1]], 3).toarray().astype(int).tolist()
    [[1, 0, 0], [1, 1, 0], [1, 1, 1]]
    """
    from scipy.sparse import csr_array

    edges = np.asarray(parents, dtype=np.int64).reshape(-1, 2) if len(parents) == 0 else np.asarray(parents)
    if edges.ndim != 2 or edges.shape[1] != 2 or not np.issubdtype(edges.dtype, np.integer):
        raise DataError(f"Parents must be integer pairs (child, parent) [E, 2], found {edges.dtype} {edges.shape}.")
    if len(edges) and (edges.min() < 0 or edges.max() >= num_nodes):
        raise DataError(f"Parents name node {edges.max():,} or a negative one; there are {num_nodes:,} nodes.")
    if (closing := find_circle(edges, num_nodes)) is not None:
        raise DataError(
            f"Parents form a circle: {closing[1]} is above {closing[0]} and below it. Remove the pair that closes it."
        )
    step = csr_array((np.ones(len(edges)), (edges[:, 0], edges[:, 1])), shape=(num_nodes, num_nodes))
    reached = csr_array((np.ones(num_nodes), (np.arange(num_nodes),) * 2), shape=(num_nodes, num_nodes))
    frontier = reached
    while (frontier := frontier @ step).nnz:  # as many steps up as the hierarchy is deep
        frontier.data[:] = 1.0  # paths are not counted
        reached = reached + frontier
    reached.data[:] = 1.0
    if len(exclude):
        kept = np.ones(num_nodes)
        kept[np.asarray(exclude)] = 0.0
        reached = reached @ csr_array((kept, (np.arange(num_nodes),) * 2), shape=(num_nodes, num_nodes))
        reached.eliminate_zeros()
    return csr_array(reached)


def find_circle(parents: Array, num_nodes: int) -> tuple[int, int] | None:
    """A pair (child, parent) that lies on a circle, or None.

    >>> find_circle([[1, 0], [2, 1]], 3), find_circle([[1, 0], [2, 1], [0, 2]], 3)
    (None, (1, 0))
    """
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import connected_components

    edges = np.asarray(parents, dtype=np.int64).reshape(-1, 2)
    graph = csr_array((np.ones(len(edges)), (edges[:, 0], edges[:, 1])), shape=(num_nodes, num_nodes))
    _, component = connected_components(graph, directed=True, connection="strong")
    size = np.bincount(component, minlength=1)
    child, parent = edges[:, 0], edges[:, 1]
    closed = (child == parent) | ((component[child] == component[parent]) & (size[component[child]] > 1))
    return (int(child[closed.argmax()]), int(parent[closed.argmax()])) if closed.any() else None


def _close(rows: Positives, closure: csr_array) -> csr_array:
    """Labels with all their ancestors, as a sparse 0/1 matrix."""
    from scipy.sparse import csr_array

    labels = csr_array((np.ones(len(rows.indices)), rows.indices, rows.indptr), shape=(len(rows), closure.shape[0]))
    closed = csr_array(labels @ closure)
    closed.data[:] = 1.0
    return closed


def _predicted(ids: np.ndarray) -> Positives:
    """Predictions `[R, k]` as CSR, without padding."""
    kept = ids >= 0
    return Positives(np.concatenate([[0], np.cumsum(kept.sum(axis=1))]), ids[kept])


def _divide(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    return np.divide(above, below, out=np.zeros_like(below), where=below != 0)
