"""Where a tagger is weak: rare labels, long texts, branches of the hierarchy."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Any

import numpy as np

from hf_xmc.data.dataset import XMCDataset
from hf_xmc.data.hierarchy import parents_of_table
from hf_xmc.metrics import by_label_frequency, find_hits, per_query_metrics
from hf_xmc.types import TopK

K = 5
LENGTH_GROUPS = 4  # of about as many texts each
FEWEST_PAIRS = 20  # true pairs of a branch that is reported
SHOWN_BRANCHES = 5
FREQUENCIES = {"head": "more than 100 examples", "torso": "20 to 100 examples", "tail": "fewer than 20 examples"}
WORD = re.compile(r"\w+")


def weaknesses(
    topk: TopK, data: XMCDataset, split: str, rows: np.ndarray | None = None
) -> dict[str, list[dict[str, Any]]]:
    """Recall of true labels within the first five, by groups.

    Args:
        topk: predictions for the queries `rows` of the split (for all of them by default), at least five.

    Returns:
        `"labels"` by training frequency, `"texts"` by length, and `"branches"`, the worst ones of the hierarchy, if
        the label table has one. Each row has the group's `name`, the number of true pairs (or texts), and `recall`.
    """
    rows = np.arange(len(data.queries[split])) if rows is None else rows
    positives = data.positives(split).take(rows)
    filters = data.filters.get(split)
    hits = find_hits(topk, positives, K, None if filters is None else filters.take(rows))
    counts = np.asarray(data.train_label_counts)
    labels = [
        {"name": FREQUENCIES[str(group["group"])], "count": group["true"], "recall": group["recall"]}
        for group in by_label_frequency(hits, counts, K, "head")
        if group["true"]
    ]
    texts = data.queries[split].select(rows)["text"][:]
    return {
        "labels": labels + without_examples(hits, counts),
        "texts": by_length(hits, texts),
        "branches": by_branch(hits, data),
    }


def without_examples(hits: Any, counts: np.ndarray) -> list[dict[str, Any]]:
    """Labels that no training query has, if any of them is true."""
    unseen = counts == 0
    true = int(unseen[hits.positives.indices].sum())
    if not true:
        return []
    found = int(unseen[hits.ids[:, :K][hits.hit[:, :K]]].sum())
    return [{"name": "no example", "count": true, "recall": found / true}]


def by_length(hits: Any, texts: list[str]) -> list[dict[str, Any]]:
    """Recall at five in groups of texts of similar length."""
    lengths = np.array([len(WORD.findall(text)) for text in texts])
    pair = per_query_metrics(hits, (K,))[f"R@{K}"]
    edges: Any = (
        np.unique(np.quantile(lengths, np.linspace(0, 1, LENGTH_GROUPS + 1)).astype(int)) if len(lengths) else []
    )
    table = []
    for low, high in pairwise(edges):
        last = high == edges[-1]
        inside = (lengths >= low) & ((lengths <= high) if last else (lengths < high))
        total = float(pair.denominator[inside].sum())
        if total:
            name = f"{low} to {high if last else high - 1} words"
            table.append(
                {"name": name, "count": int(inside.sum()), "recall": float(pair.numerator[inside].sum()) / total}
            )
    return table


def by_branch(hits: Any, data: XMCDataset) -> list[dict[str, Any]]:
    """The top-level branches of the hierarchy with the lowest recall, worst first."""
    parents = parents_of_table(data.labels)
    if parents is None:
        return []
    parents = parents[(parents < data.num_labels).all(axis=1)]  # others stand above the catalogue
    branch = top_of_each(parents, data.num_labels)
    true = np.bincount(branch[hits.positives.indices], minlength=data.num_labels)
    found = np.bincount(branch[hits.ids[:, :K][hits.hit[:, :K]]], minlength=data.num_labels)
    enough = np.flatnonzero(true >= FEWEST_PAIRS)
    worst = enough[np.argsort(found[enough] / true[enough], kind="stable")][:SHOWN_BRANCHES]
    if len(enough) < 2:
        return []
    names = data.labels.select(worst)["text"][:]
    return [
        {"name": name[:80], "count": int(true[label]), "recall": float(found[label] / true[label])}
        for label, name in zip(worst.tolist(), names, strict=True)
    ]


def top_of_each(parents: np.ndarray, num_labels: int) -> np.ndarray:
    """The ancestor without a parent of each label, int64 `[L]`; the first parent of each is followed.

    >>> top_of_each(np.array([[1, 0], [2, 1]]), 4).tolist()
    [0, 0, 0, 3]
    """
    above = np.arange(num_labels)
    children, first = np.unique(parents[:, 0], return_index=True)
    above[children] = parents[first, 1]
    for _ in range(num_labels.bit_length() + 1):  # a path doubles each time; a circle does not end it
        above = above[above]
    return above
