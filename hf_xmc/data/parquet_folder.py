"""The folder that `hf-xmc prepare` writes: Parquet tables that `datasets` and the Hub read as they are.

dataset.json                 name, licence, source, propensity constants, counts
data/{train,...}.parquet     uid, text, labels, optional weights; filter_labels if a filter list excludes pairs
labels/labels.parquet        uid, text, ..., train_count (queries in the given training split)
soft/train.parquet           query_uid, label_uid, weight, source, step: pairs beside the given ones, if there are any
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, Features, List, Value

from hf_xmc.data.arrow import PARQUET_ROWS, batches, cached_folder, file_key, list_column, map_table, parquet_to_arrow
from hf_xmc.data.files import refuse_pointer
from hf_xmc.data.ingest.build import open_built
from hf_xmc.data.ingest.splits import SPLITS
from hf_xmc.data.soft_positives import SoftPositives
from hf_xmc.data.transaction import OURS, finish, read_whole, transaction
from hf_xmc.data.writing import remove
from hf_xmc.errors import DataError
from hf_xmc.types import Positives

DESCRIPTION = "dataset.json"
LABELS = Path("labels") / "labels.parquet"
SOFT = Path("soft") / "train.parquet"
FORMAT = 1
VERSION = 3  # of the content of the cache


# What an `XMCDataset` takes of `dataset.json` and of the tables; further keys are left alone.
FIELDS = (
    *("name", "licence", "source", "propensity", "num_train_queries", "max_lengths", "reading", "said"),
    *("queries", "labels", "train_label_counts", "filters"),
)


class Tables(NamedTuple):
    """What is written as Parquet; see `XMCDataset` for each."""

    queries: Mapping[str, Dataset]
    labels: Dataset
    train_label_counts: np.ndarray
    filters: Mapping[str, Positives]
    soft: SoftPositives | None = None


def detect(folder: Path) -> bool:
    """Whether `write` made this folder."""
    finish(folder)
    return (folder / DESCRIPTION).is_file() and (folder / LABELS).is_file()


def write(tables: Tables, about: dict[str, Any], folder: Path) -> Path:
    """Write all tables in the place of those of `folder`, as one: until all of it is written the old set stays.

    Args:
        about: what `dataset.json` says.

    Raises:
        DataError: `folder` holds something that is not a prepared data set, which is left alone.
        ModelFolderError: somebody else writes into it.
    """
    if folder.is_dir() and any(not path.name.startswith(OURS) for path in folder.iterdir()) and not detect(folder):
        raise DataError("the folder is not empty and not a prepared data set", folder, hint="give another folder")
    with transaction(folder) as staging:
        for old in staging.iterdir():
            remove(old)
        write_tables(tables, staging)
        text = json.dumps({"format": FORMAT, **about}, indent=2)
        (staging / DESCRIPTION).write_text(text + "\n", encoding="utf-8")
    return folder


def write_tables(tables: Tables, folder: Path) -> None:
    """Write the Parquet files into an empty folder."""
    (folder / "data").mkdir()
    (folder / "labels").mkdir()
    for split, queries in tables.queries.items():
        features, parts = queries.features, batches(queries, rows=PARQUET_ROWS)
        if split in tables.filters:
            features = Features({**features, "filter_labels": List(Value("int32"))})
            parts = with_filters(parts, tables.filters[split])
        write_batches(parts, features, folder / "data" / f"{split}.parquet")
    features = Features({**tables.labels.features, "train_count": Value("int64")})
    counts = tables.train_label_counts
    starts = range(0, len(counts), PARQUET_ROWS)
    parts = (
        batch.append_column("train_count", pa.array(np.array(counts[start : start + len(batch)])))
        for start, batch in zip(starts, batches(tables.labels, rows=PARQUET_ROWS), strict=True)
    )
    write_batches(parts, features, folder / LABELS)
    if tables.soft is not None and len(tables.soft):
        tables.soft.write(folder / SOFT, tables.queries["train"]["uid"][:], tables.labels["uid"][:])


def write_batches(tables: Iterable[pa.Table], features: Features, path: Path) -> None:
    """Write a Parquet file batch by batch."""
    schema = features.arrow_schema
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for table in tables:
            writer.write_table(table.select(schema.names).cast(schema))


def with_filters(tables: Iterable[pa.Table], pairs: Positives) -> Iterable[pa.Table]:
    """Add the filter pairs of each query as a column."""
    row = 0
    for table in tables:
        part = pairs.take(np.arange(row, row + len(table)))
        lists = pa.ListArray.from_arrays(part.indptr.astype(np.int32), part.indices.astype(np.int32))
        yield table.append_column("filter_labels", lists)
        row += len(table)


def read(folder: Path) -> dict[str, Any]:
    """The fields of an `XMCDataset`, memory-mapped; on first use the tables are rewritten as Arrow in the cache.

    Raises:
        DataError: a file is missing or cannot be read, or its label ids are not in the label table.
    """
    paths = [DESCRIPTION, LABELS.as_posix(), SOFT.as_posix(), *(f"data/{name}.parquet" for name in SPLITS)]
    return read_whole(folder, lambda: read_tables(folder), lambda: paths)


def read_tables(folder: Path) -> dict[str, Any]:
    """`read`, of a folder that nobody changes."""
    splits = [name for name in SPLITS if (folder / "data" / f"{name}.parquet").is_file()]
    if "train" not in splits:
        raise DataError("there is no data/train.parquet", folder, hint="run hf-xmc prepare again")
    files = [folder / DESCRIPTION, folder / LABELS, *(folder / "data" / f"{name}.parquet" for name in splits)]
    for path in files:
        refuse_pointer(path)
    try:
        keys = [VERSION, *map(file_key, files)]
        fields = open_built(cached_folder("prepared", keys, lambda target: fill(folder, splits, target)))
        fields = {name: value for name, value in fields.items() if name in FIELDS}
        for split, table in fields["queries"].items():
            fields["queries"][split] = table.remove_columns(
                [name for name in ("filter_labels",) if name in table.column_names]
            )
        fields["labels"] = fields["labels"].remove_columns("train_count")
        if (folder / SOFT).is_file():
            uids = fields["queries"]["train"]["uid"][:], fields["labels"]["uid"][:]
            fields["soft"] = SoftPositives.read(folder / SOFT, *uids)
        return fields
    except (OSError, KeyError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"cannot be read ({error!r:.200})", folder, hint="run hf-xmc prepare again") from error


def fill(folder: Path, splits: list[str], target: Path) -> None:
    """Check the Parquet tables and rewrite them as the Arrow files that `open_built` maps."""
    from hf_xmc.data.documents import read_document
    from hf_xmc.data.schemas import DatasetDocument  # pydantic takes a while to import

    hint = "run hf-xmc prepare again"
    read_document(folder / DESCRIPTION, DatasetDocument, newest=FORMAT, hint=hint, error=DataError)
    parquet_to_arrow(folder / LABELS, target / "labels.arrow")
    labels = map_table(target / "labels.arrow")
    check_columns(labels, {**TEXTS, "train_count": NUMBER}, folder / LABELS)
    for split in splits:
        arrow = target / f"{split}.arrow"
        path = folder / "data" / f"{split}.parquet"
        parquet_to_arrow(path, arrow)
        table = map_table(arrow)
        lists = {name: LIST for name in ("filter_labels",) if name in table.column_names}
        check_columns(table, {**TEXTS, "labels": LIST, **lists}, path)
        weights = list_column(table, "weights", np.float32)[1] if "weights" in table.column_names else None
        check(Positives(*list_column(table, "labels", np.int64), weights), len(labels), path)
        if "filter_labels" in table.column_names:
            indptr, indices = list_column(table, "filter_labels", np.int64)
            check(Positives(indptr, indices), len(labels), path)
            np.save(target / f"filter_indptr_{split}.npy", indptr)
            np.save(target / f"filter_indices_{split}.npy", indices)
    counts = [batch["train_count"].to_numpy() for batch in batches(labels, ["train_count"])]
    np.save(target / "train_counts.npy", np.concatenate(counts))
    shutil.copy(folder / DESCRIPTION, target / DESCRIPTION)


def check_columns(table: Dataset, kinds: Mapping[str, str], path: Path) -> None:
    """Check that a table has columns of these kinds, without cells that have no value.

    Raises:
        DataError: it has not.
    """
    hint = "run hf-xmc prepare again"
    schema = table.features.arrow_schema
    for name, kind in kinds.items():
        if name not in schema.names:
            raise DataError(f"there is no column {name}", path, hint=hint)
        if not IS[kind](schema.field(name).type):
            found = f"the column {name} is of type {schema.field(name).type}, and {kind} were expected"
            raise DataError(found, path, hint=hint)
        if any(batch[name].null_count for batch in batches(table, [name])):
            raise DataError(f"the column {name} has cells without a value", path, hint=hint)


def is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def is_list(kind: pa.DataType) -> bool:
    listed = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    return bool(listed and pa.types.is_integer(kind.value_type))


TEXT, NUMBER, LIST = "texts", "whole numbers", "lists of whole numbers"
TEXTS = {"uid": TEXT, "text": TEXT}
IS: dict[str, Callable[[pa.DataType], bool]] = {TEXT: is_text, NUMBER: pa.types.is_integer, LIST: is_list}


def check(pairs: Positives, num_labels: int, path: Path) -> None:
    """Check label ids: in range, sorted and without repetitions.

    Raises:
        DataError: what `Positives.validate` found.
    """
    try:
        pairs.validate(num_labels)
    except ValueError as error:
        raise DataError(str(error).rstrip("."), path, hint="run hf-xmc prepare again") from error
