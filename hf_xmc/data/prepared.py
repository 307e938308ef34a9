"""The folder that `hf-xmc prepare` writes: Parquet tables that `datasets` and the Hub read as they are.

dataset.json                 name, licence, source, propensity constants, counts
data/{train,...}.parquet     uid, text, labels; and filter_labels where a filter list excludes pairs
labels/labels.parquet        uid, text, ..., train_count (queries in the given training split)
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from datasets import Dataset, DatasetDict, Features, List, Value

from hf_xmc.data.errors import DataError
from hf_xmc.data.parquet import read_parquet, write_parquet
from hf_xmc.types import Positives

if TYPE_CHECKING:
    from hf_xmc.data.dataset import XMCDataset

DESCRIPTION = "dataset.json"
FORMAT = 1


def detect(folder: Path) -> bool:
    """Whether `write` made this folder."""
    return (folder / DESCRIPTION).is_file() and (folder / "labels" / "labels.parquet").is_file()


def write(dataset: XMCDataset, folder: Path) -> Path:
    """Write all tables beside `folder` under a temporary name, then rename.

    Raises:
        FileExistsError: `folder` holds something that is not a prepared data set, which is left alone.
    """
    if folder.is_dir() and any(folder.iterdir()) and not detect(folder):
        raise FileExistsError(f"{folder} is not empty and holds no prepared data set; give another folder.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        write_tables(dataset, temporary)
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    folder.chmod(0o755)
    return folder


def write_tables(dataset: XMCDataset, folder: Path) -> None:
    for split, queries in dataset.queries.items():
        if split in dataset.filters:
            pairs = dataset.filters[split]
            lists = [pairs.row(row).tolist() for row in range(len(pairs))]
            queries = Dataset.from_dict(
                {**queries.to_dict(), "filter_labels": lists},
                features=Features({**queries.features, "filter_labels": List(Value("int32"))}),
            )
        write_parquet(queries, folder / "data" / f"{split}.parquet")
    columns = {**dataset.labels.to_dict(), "train_count": dataset.train_label_counts.tolist()}
    write_parquet(Dataset.from_dict(columns), folder / "labels" / "labels.parquet")
    about = {
        "format": FORMAT,
        "name": dataset.name,
        "licence": dataset.licence,
        "source": dataset.source,
        "propensity": dataset.propensity,
        "num_train_queries": dataset.num_train_queries,
        "counts": dataset.counts(),
    }
    (folder / DESCRIPTION).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")


def read(folder: Path) -> dict[str, Any]:
    """The fields of an `XMCDataset`.

    Raises:
        DataError: a file is missing or not readable.
    """
    try:
        about = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
        splits = [name for name in ("train", "validation", "test") if (folder / "data" / f"{name}.parquet").is_file()]
        queries = {split: read_parquet(folder / "data" / f"{split}.parquet") for split in splits}
        labels = read_parquet(folder / "labels" / "labels.parquet")
        counts = np.asarray(labels["train_count"][:], dtype=np.int64)
        filters = {}
        for split, table in queries.items():
            if "filter_labels" in table.column_names:
                filters[split] = Positives.from_lists(table["filter_labels"])
                queries[split] = table.remove_columns("filter_labels")
        return {
            "queries": DatasetDict(queries),
            "labels": labels.remove_columns("train_count"),
            "name": about["name"],
            "train_label_counts": counts,
            "num_train_queries": about["num_train_queries"],
            "filters": filters,
            "propensity": about["propensity"],
            "licence": about["licence"],
            "source": about["source"],
        }
    except (OSError, KeyError, ValueError) as error:
        raise DataError(f"cannot be read ({error!r:.200})", folder, cure="run hf-xmc prepare again") from error
