"""Filter lists: pairs of query and label that are excluded from evaluation."""

from __future__ import annotations

from array import array
from pathlib import Path

import numpy as np

from hf_xmc.data.files import lines
from hf_xmc.data.ingest.queries import MAX_LABELS, Staged
from hf_xmc.data.ingest.splits import SPLITS
from hf_xmc.errors import DataError
from hf_xmc.types import Positives


def read_filter(path: Path, num_rows: int | None, num_labels: int) -> Positives:
    """The pairs of a filter file (`row label` per line) over the rows of a split.

    Args:
        num_rows: rows of the split; None for as many as the last pair needs.

    Raises:
        DataError: a line does not have two integers, or they are out of range.
    """
    rows, ids = array("q"), array("q")
    for line, text in lines(path):
        if not text.strip():
            continue
        try:
            row, label = (int(part) for part in text.split())
        except ValueError as error:
            raise DataError(f"found {text.strip()!r:.60}", path, line, "expected 'row label'") from error
        if row < 0 or (num_rows is not None and row >= num_rows) or row > MAX_LABELS:
            raise DataError(f"row {row}", path, line, f"the split has rows 0 to {(num_rows or MAX_LABELS) - 1}")
        if not 0 <= label < num_labels:
            raise DataError(f"label id {label}", path, line, f"the label table has {num_labels:,} rows")
        rows.append(row)
        ids.append(label)
    pairs = np.unique(np.stack([np.array(rows, np.int64), np.array(ids, np.int64)], 1).reshape(-1, 2), axis=0)
    counts = np.bincount(pairs[:, 0], minlength=num_rows or 0)
    return Positives(np.concatenate([[0], np.cumsum(counts)]), pairs[:, 1])


def write_filters(
    staged: dict[str, Staged], places: dict[str, np.ndarray], filters: dict[str, Positives], folder: Path
) -> None:
    """Write the filter pairs of each final split: pairs follow their query."""
    for place, name in enumerate(SPLITS):
        parts = []
        for split, part in staged.items():
            pairs = filters.get(split, Positives(np.zeros(len(part.table) + 1, np.int64), np.zeros(0, np.int64)))
            parts.append(pairs.take(np.flatnonzero(places[split] == place)))
        if any(len(part.indices) for part in parts):
            counts = np.concatenate([part.counts for part in parts])
            np.save(folder / f"filter_indptr_{name}.npy", np.concatenate([[0], np.cumsum(counts)]))
            np.save(folder / f"filter_indices_{name}.npy", np.concatenate([part.indices for part in parts]))
