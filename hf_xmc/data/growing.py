"""Catalogues that grow: a data set over an earlier label table, followed by the labels that are new in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, DatasetDict, Features, concatenate_datasets
from datasets.table import InMemoryTable

from hf_xmc.data.arrow import ArrowTableWriter, batches, cached_folder, map_table
from hf_xmc.data.dataset import XMCDataset
from hf_xmc.types import Positives

VERSION = 1  # of the content of the cache


def grow_catalogue(old_labels: Dataset, data: XMCDataset) -> XMCDataset:
    """A data set whose label table is an earlier one, with its rows where they were, followed by the labels that are
    new: what a model was trained on before keeps its label ids.

    Labels are the same if they have the same uid. A label without a uid of its own (the uid is its text) is also the
    earlier one with that text, if there is exactly one. An earlier label keeps its text and its other columns.

    Args:
        old_labels: the earlier label table, columns `uid`, `text` and others, `[L_old]` rows.
        data: the new data set, which is not changed. If it has the same labels in the same order it is returned.

    Returns:
        The data set over `L_old` plus the new labels. `train_label_counts` are those of the new data, so 0 for an
        earlier label that does not occur in it.

    >>> from hf_xmc.data.dataset import load_xmc_dataset
    >>> data = load_xmc_dataset("sample")
    >>> grown = grow_catalogue(data.labels.select(range(1000)).select(range(999, -1, -1)), data)
    >>> grown.num_labels, grown.labels[1000]["uid"] == data.labels[1000]["uid"]
    (1193, True)
    """
    new_ids = matched(old_labels, data.labels)
    if len(old_labels) == len(data.labels) and np.array_equal(new_ids, np.arange(len(old_labels))):
        return data
    added = np.flatnonzero(new_ids < 0)
    new_ids[added] = np.arange(len(old_labels), len(old_labels) + len(added))
    labels = with_rows(old_labels, data.labels.select(added))
    counts = np.zeros(len(labels), dtype=np.int64)
    np.add.at(counts, new_ids, np.asarray(data.train_label_counts, dtype=np.int64))
    return replace(
        data,
        queries=renumbered(data.queries, new_ids),
        labels=labels,
        train_label_counts=counts,
        filters={split: unique_pairs(pairs, new_ids) for split, pairs in data.filters.items()},
        soft=None if data.soft is None else replace(data.soft, labels=new_ids[data.soft.labels]),
    )


def matched(old: Dataset, new: Dataset) -> np.ndarray:
    """The row of the earlier table for each label of the new one, -1 for none, int64 `[L]`."""
    by_uid = {uid: i for i, uid in enumerate(old["uid"][:])}
    by_text: dict[str, int] = {}
    for i, text in enumerate(old["text"][:]):
        by_text[text] = -1 if text in by_text else i
    ids = np.full(len(new), -1, dtype=np.int64)
    for i, (uid, text) in enumerate(zip(new["uid"], new["text"], strict=True)):
        ids[i] = by_uid.get(uid, by_text.get(text, -1) if uid == text else -1)
    return ids


def with_rows(old: Dataset, added: Dataset) -> Dataset:
    """A label table with further rows. A column that either lacks is empty there; one of another type is converted,
    or empty where that is not possible."""
    features = Features({**added.features, **old.features})
    tables = [aligned(table, features) for table in (old, added) if len(table)]
    return concatenate_datasets(tables) if tables else old


def aligned(table: Dataset, features: Features) -> Dataset:
    """A table with these columns, in memory."""
    found = table.with_format("arrow")[:]
    columns = []
    for field in features.arrow_schema:
        column = found[field.name] if field.name in found.column_names else pa.nulls(len(found), field.type)
        try:
            columns.append(column.cast(field.type))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            columns.append(pa.nulls(len(found), field.type))
    rows = pa.Table.from_arrays(columns, schema=features.arrow_schema)
    return Dataset(InMemoryTable(rows))


def renumbered(queries: Mapping[str, Dataset], new_ids: np.ndarray) -> DatasetDict:
    """The queries with other label ids, written to the cache of `datasets` and mapped from there."""
    digest = blake2b(new_ids.tobytes(), digest_size=8).hexdigest()
    keys = [VERSION, digest, *(f"{split} {table._fingerprint}" for split, table in queries.items())]

    def fill(folder: Path) -> None:
        for split, table in queries.items():
            with ArrowTableWriter(folder / f"{split}.arrow", table.features) as writer:
                for batch in batches(table):
                    writer.write_table(with_ids(batch, new_ids))

    folder = cached_folder("grown", keys, fill)
    return DatasetDict({split: map_table(folder / f"{split}.arrow") for split in queries})


def with_ids(batch: pa.Table, new_ids: np.ndarray) -> pa.Table:
    """A batch of queries with other label ids, sorted again, and the weights in the same order."""
    lists = {name: batch[name].combine_chunks() for name in ("labels", "weights") if name in batch.column_names}
    lengths = np.asarray(pc.list_value_length(lists["labels"]).fill_null(0), dtype=np.int64)
    values: Any = {name: np.asarray(column.flatten()) for name, column in lists.items()}
    pairs = Positives(np.concatenate([[0], np.cumsum(lengths)]), values["labels"], values.get("weights"))
    changed = unique_pairs(pairs, new_ids)
    for name, column in (("labels", changed.indices), ("weights", changed.weights)):
        if name in lists:
            array = pa.ListArray.from_arrays(pa.array(changed.indptr, pa.int32()), pa.array(column))
            place = batch.column_names.index(name)
            batch = batch.set_column(place, name, array.cast(batch.schema.field(name).type))
    return batch


def unique_pairs(pairs: Positives, new_ids: np.ndarray) -> Positives:
    """The pairs with other label ids, sorted in each row; of pairs that fall together the largest weight counts."""
    source = pairs.numpy()
    rows, ids = np.asarray(source.rows), new_ids[source.indices]
    weights = source.weights
    order = np.lexsort((ids, rows) if weights is None else (-weights, ids, rows))
    rows, ids = rows[order], ids[order]
    first = np.ones(len(ids), dtype=bool)
    first[1:] = (rows[1:] != rows[:-1]) | (ids[1:] != ids[:-1])
    counts = np.bincount(rows[first], minlength=len(source))
    kept = None if weights is None else weights[order][first]
    return Positives(np.concatenate([[0], np.cumsum(counts)]), ids[first], kept)
