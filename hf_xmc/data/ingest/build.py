"""From a source to a folder of Arrow files: read, checked, split and written once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, Features

from hf_xmc.data.arrow import ArrowTableWriter, batches, list_column, map_table
from hf_xmc.data.formats.source import UNREADABLE, Source
from hf_xmc.data.ingest.filters import read_filter, write_filters
from hf_xmc.data.ingest.findings import leave_out_repeated, note_findings, note_moved_examples, sayings
from hf_xmc.data.ingest.labels import stage_labels
from hf_xmc.data.ingest.queries import (
    MAX_LABELS,
    NOT_TEXT,
    OPTIONAL_FEATURES,
    QUERY_FEATURES,
    ROW_NUMBER,
    Staged,
    hashes,
    repeated_in_pool,
    stage_queries,
    with_split_in_uids,
)
from hf_xmc.data.ingest.splits import SPLITS, SplitOptions, held_out_rows, suited_rows, validation_rows
from hf_xmc.errors import DataError, Problems
from hf_xmc.metrics.propensity import DEFAULT_PROPENSITY
from hf_xmc.types import Positives


def build(
    source: Source, name: str, folder: Path, splitting: SplitOptions, problems: Problems, progress: bool = False
) -> None:
    """Write `{train,validation,test,labels}.arrow`, arrays and `dataset.json` into an empty folder.

    Raises:
        DataError: an error that cannot be handled, or the first error if problems are not collected.
    """
    labels = None if source.labels_last else stage_labels(source, folder, problems, progress)
    num_labels = MAX_LABELS if labels is None else len(labels)  # ids that the reader assigns itself are in range
    staged, filters = {}, {}
    for split in [split for split in SPLITS if split in source.splits]:
        before = problems.counts[UNREADABLE] + problems.counts[NOT_TEXT]
        staged[split] = stage_queries(source, split, num_labels, folder, problems, progress)
        if split in source.filters:
            if problems.counts[UNREADABLE] + problems.counts[NOT_TEXT] > before:
                raise DataError(
                    f"rows of {split} were left out, so the rows that filter pairs name are no longer known",
                    source.filters[split],
                    hint="correct the rows, or remove the filter file",
                )
            filters[split] = read_filter(source.filters[split], len(staged[split].table), num_labels)
    if labels is None:
        labels = stage_labels(source, folder, problems, progress)
    if not sum(len(part.table) for part in staged.values()) or not len(staged["train"].table):
        hint = problems.why("a data set needs at least one")
        raise DataError("no training queries", staged["train"].path, hint=hint)
    if splitting.strategy != "given" and any(ROW_NUMBER.fullmatch(uid) for uid, _, _ in repeated_in_pool(staged)):
        staged = with_split_in_uids(staged, folder)
    positives = pooled_positives(staged)
    places = assign(staged, positives, labels, splitting, problems)
    write_splits(staged, places, folder)
    given = np.concatenate([places[split] for split in staged])
    in_train = np.flatnonzero((given == 0) | (given == 1)) if cuts(source, splitting) else np.flatnonzero(given == 0)
    counts = np.bincount(positives.take(in_train).indices, minlength=len(labels))
    np.save(folder / "train_counts.npy", counts)
    write_filters(staged, places, filters, folder)
    note_findings(staged, places, labels, counts, problems)
    note_moved_examples(positives, given, labels, problems)
    about, said = source.description, [*source.choices.said, *sayings(labels, problems)]
    description = {
        "name": name,
        "licence": str(about.get("licence", "")),
        "source": str(about.get("source", "")),
        "propensity": {**DEFAULT_PROPENSITY, **about.get("propensity", {})},
        "num_train_queries": len(in_train),
        **({"max_lengths": about["max_lengths"]} if "max_lengths" in about else {}),
        **({"reading": source.choices.reading.to_json()} if source.choices.reading else {}),
        **({"said": said} if said else {}),
    }
    (folder / "dataset.json").write_text(json.dumps(description), encoding="utf-8")
    (folder / "staged-labels.arrow").rename(folder / "labels.arrow")
    for split in staged:
        (folder / f"staged-{split}.arrow").unlink()


def cuts(source: Source, splitting: SplitOptions) -> bool:
    """Whether the validation split is cut from the training split, rather than given."""
    return splitting.strategy != "given" or "validation" not in source.splits


def pooled_positives(staged: dict[str, Staged]) -> Positives:
    """The positives of all splits, one after the other."""
    parts = [list_column(part.table, "labels", np.int64) for part in staged.values()]
    lengths = np.concatenate([np.diff(indptr) for indptr, _ in parts])
    return Positives(np.concatenate([[0], np.cumsum(lengths)]), np.concatenate([values for _, values in parts]))


def assign(
    staged: dict[str, Staged], positives: Positives, labels: Dataset, splitting: SplitOptions, problems: Problems
) -> dict[str, np.ndarray]:
    """For each row of each staged split the index in `SPLITS` of its final split, or -1 if it is left out."""
    places = {split: np.full(len(part.table), SPLITS.index(split), dtype=np.int8) for split, part in staged.items()}
    pools = [{split: part} for split, part in staged.items()] if splitting.strategy == "given" else [staged]
    for pool in pools:
        leave_out_repeated(pool, places, problems)
    ends = np.cumsum([len(part.table) for part in staged.values()])
    pooled = np.concatenate(list(places.values()))
    uid_hashes = np.concatenate([part.uid_hash for part in staged.values()])
    if splitting.strategy != "given":
        kept = np.flatnonzero(pooled >= 0)
        label_hashes = np.concatenate([hashes(batch["uid"].to_pylist()) for batch in batches(labels, ["uid"])])
        times = pooled_times(staged, kept)
        test = held_out_rows(splitting, uid_hashes[kept], label_hashes, positives.take(kept), times)
        if test.all():
            raise DataError("all queries are in the test split", hint="give a smaller --test_share")
        pooled[kept] = np.where(test, SPLITS.index("test"), SPLITS.index("train"))
    if splitting.strategy != "given" or "validation" not in staged:
        train = np.flatnonzero(pooled == 0)
        rows = suited_rows if splitting.validation == "suited" else validation_rows
        pooled[train[rows(uid_hashes[train], positives.take(train))]] = SPLITS.index("validation")
    return dict(zip(staged, np.split(pooled, ends[:-1]), strict=True))


def pooled_times(staged: dict[str, Staged], kept: np.ndarray) -> list[str | None] | None:
    """The time of each kept row; None if a split has no times."""
    if not all("time" in part.table.column_names for part in staged.values()):
        return None
    times = [time for part in staged.values() for time in part.table["time"][:]]
    return [times[row] for row in kept]


def write_splits(staged: dict[str, Staged], places: dict[str, np.ndarray], folder: Path) -> None:
    """Write each row to the file of its final split, in the order of the source."""
    features = Features(QUERY_FEATURES)
    if any(part.weighted for part in staged.values()):
        features["weights"] = OPTIONAL_FEATURES["weights"]
    if any("time" in part.table.column_names for part in staged.values()):
        features["time"] = OPTIONAL_FEATURES["time"]
    if any("schemes" in part.table.column_names for part in staged.values()):
        features["schemes"] = OPTIONAL_FEATURES["schemes"]
    present = {*np.unique(np.concatenate(list(places.values()))).tolist(), 0, 1} - {-1}
    present |= {SPLITS.index(split) for split in staged}
    for place in sorted(present):
        with ArrowTableWriter(folder / f"{SPLITS[place]}.arrow", features) as writer:
            for split, part in staged.items():
                start = 0
                for batch in batches(part.table):
                    mask = places[split][start : start + len(batch)] == place
                    start += len(batch)
                    if mask.any():
                        chosen = batch if mask.all() else batch.filter(pa.array(mask))
                        writer.write_table(with_columns(chosen, features))


def with_columns(table: pa.Table, features: Features) -> pa.Table:
    """Add the columns that other rows or splits have: weights of 1, a missing time, and no schemes."""
    if "weights" in features and ("weights" not in table.column_names or table["weights"].null_count):
        kind = features.arrow_schema.field("weights").type
        ones = pa.array([[1.0] * n for n in pc.list_value_length(table["labels"]).to_pylist()], type=kind)
        if "weights" not in table.column_names:
            table = table.append_column("weights", ones)
        else:
            given = table["weights"].combine_chunks()
            filled = pc.if_else(given.is_valid(), given, ones)
            table = table.set_column(table.column_names.index("weights"), "weights", filled)
    if "time" in features and "time" not in table.column_names:
        table = table.append_column("time", pa.nulls(len(table), pa.string()))
    if "schemes" in features and "schemes" not in table.column_names:
        kind = features.arrow_schema.field("schemes").type
        table = table.append_column("schemes", pa.nulls(len(table), kind))
    return table


def open_built(folder: Path) -> dict[str, Any]:
    """The fields of an `XMCDataset` that `build` wrote, memory-mapped."""
    about = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
    mapped = lambda name: np.load(folder / name, mmap_mode="r", allow_pickle=False)  # noqa: E731
    splits = [split for split in SPLITS if (folder / f"{split}.arrow").is_file()]
    filtered = [split for split in splits if (folder / f"filter_indptr_{split}.npy").is_file()]
    return {
        **about,
        "queries": {split: map_table(folder / f"{split}.arrow") for split in splits},
        "labels": map_table(folder / "labels.arrow"),
        "train_label_counts": mapped("train_counts.npy"),
        "filters": {
            split: Positives(mapped(f"filter_indptr_{split}.npy"), mapped(f"filter_indices_{split}.npy"))
            for split in filtered
        },
    }
