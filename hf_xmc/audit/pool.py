"""The queries that are audited: those of training and validation."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from datasets import Dataset, concatenate_datasets

from hf_xmc.data.dataset import XMCDataset
from hf_xmc.types import Positives

SPLITS = ("train", "validation")


@dataclass(frozen=True)
class Pool:
    """Queries with what they were given.

    Args:
        queries: `uid` and `text`, N rows.
        positives: the given pairs, N rows.
        ignored: pairs that nobody asked for, which are neither missing nor wrong; None for none.
        labels: the label table, L rows.
    """

    queries: Dataset
    positives: Positives
    ignored: Positives | None
    labels: Dataset

    @classmethod
    def of(cls, data: XMCDataset) -> Pool:
        """Training and validation queries of a data set."""
        splits = [split for split in SPLITS if split in data.queries]
        tables = [data.queries[split].select_columns(["uid", "text"]) for split in splits]
        empty = {split: Positives.from_lists([[]] * len(data.queries[split])) for split in splits}
        ignored = stacked([data.filters.get(split) or empty[split] for split in splits])
        return cls(
            concatenate_datasets(tables),
            stacked([data.positives(split) for split in splits]),
            ignored if len(ignored.indices) else None,
            data.labels,
        )

    @property
    def num_labels(self) -> int:
        return len(self.labels)

    @cached_property
    def texts(self) -> list[str]:
        """The texts of the queries, `[N]`."""
        texts: list[str] = self.queries["text"][:]
        return texts

    @cached_property
    def label_texts(self) -> list[str]:
        """The texts of the labels, `[L]`."""
        texts: list[str] = self.labels["text"][:]
        return texts


def stacked(parts: list[Positives]) -> Positives:
    """Pairs of several splits, one after the other, without weights.

    >>> stacked([Positives.from_lists([[1]]), Positives.from_lists([[], [0, 2]])]).indptr.tolist()
    [0, 1, 1, 3]
    """
    pairs = [part.numpy() for part in parts]
    indptr = np.concatenate([[0], np.concatenate([part.counts for part in pairs]).cumsum()])
    return Positives(indptr, np.concatenate([part.indices for part in pairs]))
