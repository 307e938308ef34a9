"""Results by the training frequency of labels, and by the number of positives of queries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

import numpy as np

from hf_xmc.errors import DataError, SettingsError
from hf_xmc.metrics.hits import Hits
from hf_xmc.metrics.per_query import per_query_metrics, ratio
from hf_xmc.types import Array

FREQUENT, RARE = 100, 20  # more than 100 training queries: head; fewer than 20: tail


class LabelGroup(TypedDict):
    """One row of the table by label frequency; counts are (query, label) pairs within the first k."""

    group: str
    num_labels: int
    min_count: int
    max_count: int
    true: int
    predicted: int
    correct: int
    precision: float
    recall: float
    coverage: float


def by_label_frequency(hits: Hits, label_counts: Array, k: int, bands: str = "deciles") -> list[LabelGroup]:
    """Precision and recall at k for each band of labels with similar training frequency.

    Args:
        hits: the result of `find_hits`, with a depth of at least k.
        label_counts: training queries per label, `[L]`.
        k: predictions per query that are evaluated.
        bands: `"deciles"`, ten groups of labels of nearly equal number, rarest first (ties by id); or `"head"`, the
            groups head (more than 100 training queries), torso, and tail (fewer than 20), after Liu et al.,
            "Large-Scale Long-Tailed Recognition in an Open World", CVPR 2019.

    Raises:
        ValueError: a label has no count, the bands have an unknown name, or k exceeds the depth of the hits.

    >>> import numpy as np
    >>> from hf_xmc import Positives, TopK
    >>> from hf_xmc.metrics.hits import find_hits
    >>> topk = TopK(np.array([[0, 1], [0, 2]]), np.array([[2.0, 1.0], [2.0, 1.0]]))
    >>> hits = find_hits(topk, Positives.from_lists([[0], [2]]), depth=2)
    >>> [(g["group"], g["precision"], g["recall"]) for g in by_label_frequency(hits, [500, 50, 1], 2, "head")]
    [('head', 0.5, 1.0), ('torso', 0.0, 0.0), ('tail', 1.0, 1.0)]
    """
    counts = np.asarray(label_counts)
    ids, hit = hits.ids[:, :k], hits.hit[:, :k]
    largest = max(int(ids.max(initial=-1)), int(hits.positives.indices.max(initial=-1)))
    if largest >= len(counts):
        raise DataError(f"There are {len(counts):,} label counts, but label id {largest:,} occurs; count all labels.")
    if k > hits.ids.shape[1]:
        raise ValueError(f"Hits have a depth of {hits.ids.shape[1]}, but k is {k}; call find_hits with depth={k}.")
    names, group = frequency_bands(counts, bands)
    true = np.bincount(hits.positives.indices, minlength=len(counts))
    predicted = np.bincount(ids[ids >= 0], minlength=len(counts))
    correct = np.bincount(ids[hit], minlength=len(counts))
    table: list[LabelGroup] = []
    for number, name in enumerate(names):
        labels = np.flatnonzero(group == number)
        t, p, c = (int(x[labels].sum()) for x in (true, predicted, correct))
        table.append(
            {
                "group": name,
                "num_labels": len(labels),
                "min_count": int(counts[labels].min(initial=counts.max(initial=0))),
                "max_count": int(counts[labels].max(initial=0)),
                "true": t,
                "predicted": p,
                "correct": c,
                "precision": ratio(c, p),
                "recall": ratio(c, t),
                "coverage": ratio(int((correct[labels] > 0).sum()), int((true[labels] > 0).sum())),
            }
        )
    return table


def by_num_positives(
    hits: Hits,
    ks: Sequence[int],
    inverse_propensity: np.ndarray | None = None,
    edges: Sequence[int] = (0, 1, 2, 3, 6, 11),
) -> list[dict[str, float | str]]:
    """All metrics that are sums over queries, for queries with 0, 1, 2, 3 to 5, 6 to 10, and 11 or more positives."""
    pairs = per_query_metrics(hits, ks, inverse_propensity)
    counts = hits.positives.counts
    table: list[dict[str, float | str]] = []
    for low, high in zip(edges, [*edges[1:], None], strict=True):
        rows = (counts >= low) & (counts < high) if high is not None else counts >= low
        if not rows.any():
            continue
        name = f"{low}+" if high is None else str(low) if high == low + 1 else f"{low}-{high - 1}"
        values = {
            metric: ratio(float(pair.numerator[rows].sum()), float(pair.denominator[rows].sum()))
            for metric, pair in pairs.items()
        }
        table.append({"positives": name, "num_queries": int(rows.sum()), **values})
    return table


def frequency_bands(counts: np.ndarray, bands: str) -> tuple[list[str], np.ndarray]:
    """Names of the groups, and the group of each label `[L]`."""
    if bands == "head":
        return ["head", "torso", "tail"], np.where(counts > FREQUENT, 0, np.where(counts >= RARE, 1, 2))
    if bands != "deciles":
        raise SettingsError(f"Bands are 'deciles' or 'head', found {bands!r}.")
    group = np.empty(len(counts), dtype=np.int64)
    group[np.argsort(counts, kind="stable")] = np.arange(len(counts)) * 10 // max(len(counts), 1)
    return [f"{10 * i}-{10 * i + 10} %" for i in range(10)], group
