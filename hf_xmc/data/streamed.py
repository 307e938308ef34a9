"""A prepared data set whose queries are read as they arrive, from a folder or from the Hub."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from datasets import Dataset, IterableDatasetDict, load_dataset

from hf_xmc.data.arrow import read_parquet
from hf_xmc.data.documents import read_document
from hf_xmc.data.formats import hub
from hf_xmc.data.ingest.splits import SPLITS
from hf_xmc.data.parquet_folder import DESCRIPTION, LABELS, detect
from hf_xmc.errors import DataError


@dataclass(frozen=True)
class StreamedDataset:
    """What `load_xmc_dataset(..., streaming=True)` returns.

    Attributes:
        queries: an `IterableDatasetDict` with the splits of the source; columns as in [`XMCDataset`], and
            `filter_labels`, the label ids of pairs that take no part in evaluation, if the source has any.
        labels: the label table, a `Dataset` with `uid`, `text`, ...; the row number is the label id.
        name, licence, source: as the source states them.
        train_label_counts: queries per label in the given training split, int64 `[L]`.
        num_train_queries: queries in the given training split.
        propensity: the constants `a` and `b` of the propensity model.
    """

    queries: IterableDatasetDict
    labels: Dataset
    name: str
    licence: str
    source: str
    train_label_counts: np.ndarray
    num_train_queries: int
    propensity: dict[str, float]

    @property
    def num_labels(self) -> int:
        return len(self.labels)


def stream(name: str, path: Path | None, tried: str) -> StreamedDataset:
    """Open a prepared data set, of which only the label table is read, or fetched from the Hub.

    Args:
        name: its id on the Hub.
        path: its folder on this machine; None if it is on the Hub.
        tried: where else the name was looked up, for the error message.

    Raises:
        DataError: there is no such data set, or it was not written by `hf-xmc prepare`.
    """
    from hf_xmc.data.schemas import DatasetDocument  # slow to import

    folder = hub.pull_prepared(name, queries=False) if path is None else path
    if folder is None:
        hint = f"{tried}; one of another format is prepared and pushed first, with hf-xmc prepare and hf-xmc push"
        raise DataError(f"no prepared data set {name!r}", hint=hint)
    if not detect(folder):
        raise DataError(
            "only a prepared data set can be streamed",
            folder,
            hint=f"run hf-xmc prepare {name} --output_dir FOLDER, and load FOLDER",
        )
    about = read_document(folder / DESCRIPTION, DatasetDocument, hint="run hf-xmc prepare again", error=DataError)
    # The folder of a download is called after its commit: queries and label ids are of the same one.
    base = f"hf://datasets/{name}@{folder.name}" if path is None else folder.absolute().as_posix()
    files = {split: f"{base}/data/{split}.parquet" for split in SPLITS if split in about["counts"]}
    table = read_parquet(folder / LABELS)
    return StreamedDataset(
        queries=load_dataset("parquet", data_files=files, streaming=True),
        labels=table.remove_columns("train_count"),
        train_label_counts=np.asarray(table["train_count"][:], np.int64),
        **{key: about[key] for key in ("name", "licence", "source", "num_train_queries", "propensity")},
    )
