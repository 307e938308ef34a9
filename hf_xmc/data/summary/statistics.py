"""Statistics of a data set, for the summary on the screen, the report and the card."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow.compute as pc
from datasets import Dataset

from hf_xmc.data.arrow import batches
from hf_xmc.data.dataset import XMCDataset

PERCENTILES = (50, 95, 99)


@dataclass(frozen=True)
class Statistics:
    """Counts of a data set.

    Args:
        splits: for each split its queries, positives, mean labels per query, labels in use, and filter pairs.
        labels_per_query: positives of each training query, `[N]`.
        query_words, label_words: words of each training query, `[N]`, and of each label text, `[L]`.
        frequencies: training queries per label, the most frequent label first, `[L]`.
        soft: soft positives of each source, which the counts above leave out.
    """

    splits: dict[str, dict[str, float]]
    labels_per_query: np.ndarray
    query_words: np.ndarray
    label_words: np.ndarray
    frequencies: np.ndarray
    soft: dict[str, int] = field(default_factory=dict)

    def facts(self) -> dict[str, str]:
        """The most important numbers, in words."""
        used = self.frequencies[self.frequencies > 0]
        tail = (self.frequencies < 5).mean()
        top = self.frequencies[: max(1, len(self.frequencies) // 10)].sum() / max(self.frequencies.sum(), 1)
        return {
            "Labels": f"{len(self.frequencies):,}",
            "Labels with training queries": f"{len(used):,}",
            "Labels with fewer than 5 training queries": f"{tail:.1%}",
            "Training queries per label in use": f"mean {used.mean() if len(used) else 0:.1f}, "
            f"median {np.median(used) if len(used) else 0:.0f}, max {self.frequencies[:1].sum():,}",
            "Training pairs of the most frequent 10% of labels": f"{top:.1%}",
            "Words per query": spread(self.query_words),
            "Words per label": spread(self.label_words),
            "Labels per query": spread(self.labels_per_query),
            **({"Soft positives": ", ".join(f"{n:,} {name}" for name, n in self.soft.items())} if self.soft else {}),
        }


def spread(values: np.ndarray) -> str:
    """Mean and percentiles in words.

    >>> spread(np.array([1, 2, 3]))
    'mean 2.0, median 2, 95th percentile 3, 99th percentile 3, max 3'
    """
    if not len(values):
        return "none"
    median, p95, p99 = (f"{np.percentile(values, p):.0f}" for p in PERCENTILES)
    mean = f"mean {values.mean():.1f}, median {median}"
    return f"{mean}, 95th percentile {p95}, 99th percentile {p99}, max {values.max()}"


def statistics(dataset: XMCDataset) -> Statistics:
    """The statistics of a data set; texts are read once, in batches."""
    splits, per_query = {}, np.zeros(0, dtype=np.int64)
    for split in dataset.queries:
        positives = dataset.positives(split)
        filters = dataset.filters.get(split)
        if split == "train":
            per_query = np.asarray(positives.counts)
        splits[split] = {
            "queries": len(positives),
            "positives": len(positives.indices),
            "labels per query": len(positives.indices) / max(len(positives), 1),
            "labels in use": int((positives.label_counts(dataset.num_labels) > 0).sum()),
            "filter pairs": 0 if filters is None else len(filters.indices),
        }
    frequencies = np.sort(np.asarray(dataset.train_label_counts))[::-1]
    soft = {} if dataset.soft is None else dataset.soft.counts()
    return Statistics(splits, per_query, words(dataset.queries["train"]), words(dataset.labels), frequencies, soft)


def words(table: Dataset) -> np.ndarray:
    """Words of each text, separated by white space, int32 `[N]`."""
    counts = [np.zeros(0, dtype=np.int32)]
    for batch in batches(table, ["text"]):
        trimmed = pc.utf8_trim_whitespace(batch["text"])
        gaps = np.asarray(pc.count_substring_regex(trimmed, r"\s+").combine_chunks(), dtype=np.int32)
        counts.append(gaps + (np.asarray(pc.utf8_length(trimmed).combine_chunks()) > 0))
    return np.concatenate(counts)


def examples(dataset: XMCDataset, split: str = "train", count: int = 8) -> list[dict[str, Any]]:
    """Queries spread evenly over a split, with the texts of their labels."""
    table = dataset.queries[split]
    rows = sorted({i * len(table) // count for i in range(count)} if len(table) else set())
    return [
        {"uid": row["uid"], "text": row["text"], "labels": [dataset.labels[id_]["text"] for id_ in row["labels"]]}
        for row in (table[i] for i in rows)
    ]
