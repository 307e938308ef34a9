"""A data set for extreme multi-label classification: queries with their positives, and the label table."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, DatasetDict, Features, List, Value

from hf_xmc.data import prepared
from hf_xmc.data.errors import DataError
from hf_xmc.data.formats import jsonl
from hf_xmc.data.raw import RawDataset, RawQueries
from hf_xmc.data.splits import validation_rows
from hf_xmc.data.validation import validate
from hf_xmc.types import Positives

QUERY_FEATURES = Features({"uid": Value("string"), "text": Value("string"), "labels": List(Value("int32"))})
PROPENSITY_DEFAULTS = {"a": 0.55, "b": 1.5}


@dataclass
class XMCDataset:
    """Queries, labels, and what belongs to them.

    Attributes:
        queries: a `DatasetDict` with `train`, `validation` and, where the source has one, `test`; columns `uid`,
            `text`, `labels: List(int32)`.
        labels: the label table, a `Dataset` with `uid`, `text`, and what else the source has; row number = label id.
        name: what the set is called.
        train_label_counts: queries a label in the given training split, before validation was cut, int64 `[L]`.
        num_train_queries: queries in the given training split, before validation was cut. Propensities use these two.
        filters: split -> pairs that a filter list excludes, as `Positives` over the rows of the split.
        propensity: the constants `a` and `b` of the propensity model.
        licence, source: as the source states them.
    """

    queries: DatasetDict
    labels: Dataset
    name: str
    train_label_counts: np.ndarray
    num_train_queries: int
    filters: dict[str, Positives] = field(default_factory=dict)
    propensity: dict[str, float] = field(default_factory=lambda: dict(PROPENSITY_DEFAULTS))
    licence: str = ""
    source: str = ""

    @property
    def num_labels(self) -> int:
        return len(self.labels)

    def positives(self, split: str) -> Positives:
        """The positives of a split, numpy, one row a query."""
        return positives_of(self.queries[split])

    def counts(self) -> dict[str, int]:
        """Rows of each split and of the label table.

        >>> load_xmc_dataset("sample").counts()
        {'train': 3632, 'validation': 368, 'test': 1000, 'labels': 1193}
        """
        return {**{split: len(rows) for split, rows in self.queries.items()}, "labels": len(self.labels)}

    def fingerprint(self) -> str:
        """A hash of all uids, texts and labels, the same wherever the set is loaded."""
        digest = blake2b(digest_size=8)
        for _, table in sorted([*self.queries.items(), ("labels", self.labels)]):
            columns = [name for name in ("uid", "text", "labels") if name in table.column_names]
            for batch in table.select_columns(columns).iter(batch_size=10_000):
                digest.update(json.dumps(batch, ensure_ascii=False).encode("utf-8", "surrogatepass"))
        return digest.hexdigest()

    def save(self, folder: str | Path) -> Path:
        """Write a folder that `load_xmc_dataset` reads: Parquet files and `dataset.json`."""
        return prepared.write(self, Path(folder))


def load_xmc_dataset(name_or_folder: str | Path) -> XMCDataset:
    """Load a data set: `"sample"` (bundled), a folder, or the name of a folder in `$HF_XMC_DATA`.

    A folder holds a JSON-lines trio or what `hf-xmc prepare` wrote. Where a source has no validation split, a tenth
    of train is cut by a hash of the uid; the test split is never touched.

    Raises:
        DataError: there is no such folder, or its content is not valid; the message names file, row and cure.

    >>> data = load_xmc_dataset("sample")
    >>> data.queries["train"].column_names, data.labels[0]["uid"]
    (['uid', 'text', 'labels'], 'data_0006')
    """
    folder = find_folder(name_or_folder)
    if prepared.detect(folder):
        return XMCDataset(**prepared.read(folder))
    if jsonl.detect(folder):
        raw = jsonl.read(folder)
        return from_raw(raw, name=str(raw.description.get("name", folder.name)))
    found = ", ".join(sorted(p.name for p in folder.iterdir())[:8]) or "nothing"
    raise DataError(
        f"no data set (found {found})",
        folder,
        cure="expected trn, lbl and optionally val and tst, each .jsonl or .jsonl.gz, or a prepared folder",
    )


def find_folder(name_or_folder: str | Path) -> Path:
    """The folder that a name or path stands for."""
    if str(name_or_folder) == "sample":
        return Path(__file__).parent / "sample"
    shelf = Path(os.environ.get("HF_XMC_DATA", "../shared/data"))
    for folder in (Path(name_or_folder), shelf / str(name_or_folder)):
        if folder.is_dir():
            return folder
    raise DataError(
        f"no data set {str(name_or_folder)!r}", cure=f"give 'sample', a folder, or the name of a folder in {shelf}"
    )


def from_raw(raw: RawDataset, name: str) -> XMCDataset:
    """Check what a reader found, cut validation where there is none, and make tables of it.

    Raises:
        DataError: see `hf_xmc.data.validation.validate`.
    """
    validate(raw)
    given = Positives.from_lists(raw.queries["train"].labels)
    queries = dict(raw.queries)
    if "validation" not in queries:
        train = queries["train"]
        moved = validation_rows(train.uids, train.labels)
        kept = sorted(set(range(len(train))) - set(moved))
        queries |= {"train": train.take(kept), "validation": train.take(moved)}
    splits = {split: queries[split] for split in ("train", "validation", "test") if split in queries}
    about = raw.description
    return XMCDataset(
        queries=DatasetDict({split: query_table(rows) for split, rows in splits.items()}),
        labels=Dataset.from_list(raw.labels),
        name=name,
        train_label_counts=given.label_counts(len(raw.labels)),
        num_train_queries=len(given),
        filters={split: filter_pairs(rows) for split, rows in splits.items() if rows.filters},
        propensity={**PROPENSITY_DEFAULTS, **about.get("propensity", {})},
        licence=str(about.get("licence", "")),
        source=str(about.get("source", "")),
    )


def query_table(queries: RawQueries) -> Dataset:
    columns: dict[str, Any] = {
        "uid": queries.uids,
        "text": queries.texts,
        "labels": [sorted(ids) for ids in queries.labels],
    }
    return Dataset.from_dict(columns, features=QUERY_FEATURES)


def filter_pairs(queries: RawQueries) -> Positives:
    return Positives.from_lists(queries.filters.get(row, []) for row in range(len(queries)))


def positives_of(queries: Dataset) -> Positives:
    """The `labels` column of a query table as CSR, without a Python loop over rows."""
    chunks = queries.with_format("arrow")["labels"]
    column = chunks.combine_chunks() if hasattr(chunks, "combine_chunks") else chunks[:].combine_chunks()
    lengths = np.asarray(column.value_lengths().fill_null(0), dtype=np.int64)
    return Positives(np.concatenate([[0], np.cumsum(lengths)]), np.asarray(column.flatten(), dtype=np.int64))
