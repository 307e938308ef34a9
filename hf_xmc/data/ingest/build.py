"""From a source to a folder of Arrow files: staged, checked, split, and written once."""

from __future__ import annotations

import json
from array import array
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, Features

from hf_xmc.data.arrow import ArrowTableWriter, batches, list_column, map_table
from hf_xmc.data.files import lines
from hf_xmc.data.formats.source import UNREADABLE, Source
from hf_xmc.data.ingest.labels import stage_labels
from hf_xmc.data.ingest.queries import (
    MAX_LABELS,
    OPTIONAL_FEATURES,
    QUERY_FEATURES,
    ROW_NUMBER,
    Staged,
    hashes,
    repeated_in_pool,
    stage_queries,
    with_split_in_uids,
)
from hf_xmc.data.ingest.splits import SplitOptions, held_out_rows, validation_rows
from hf_xmc.errors import DataError, Problems
from hf_xmc.metrics.propensity import DEFAULT_PROPENSITY
from hf_xmc.types import Positives

SPLITS = ("train", "validation", "test")


def build(
    source: Source, name: str, folder: Path, splitting: SplitOptions, problems: Problems, progress: bool = False
) -> None:
    """Write `{train,validation,test,labels}.arrow`, arrays and `dataset.json` into an empty folder.

    Raises:
        DataError: what cannot be mended, and everything that is wrong where problems are not collected.
    """
    labels = None if source.labels_last else stage_labels(source, folder, problems, progress)
    num_labels = MAX_LABELS if labels is None else len(labels)  # ids that the reader gives out itself are in range
    staged, filters = {}, {}
    for split in [split for split in SPLITS if split in source.splits]:
        before = problems.counts[UNREADABLE] + problems.counts["non-text"]
        staged[split] = stage_queries(source, split, num_labels, folder, problems, progress)
        if split in source.filters:
            if problems.counts[UNREADABLE] + problems.counts["non-text"] > before:
                raise DataError(
                    f"rows of {split} were left out, so the rows that filter pairs name are no longer known",
                    source.filters[split],
                    hint="mend the rows, or take the filter file away",
                )
            filters[split] = read_filter(source.filters[split], len(staged[split].table), num_labels)
    if labels is None:
        labels = stage_labels(source, folder, problems, progress)
    if not sum(len(part.table) for part in staged.values()) or not len(staged["train"].table):
        raise DataError("no training queries", staged["train"].path, hint="a data set needs one at least")
    if splitting.strategy != "given" and any(ROW_NUMBER.fullmatch(uid) for uid, _, _ in repeated_in_pool(staged)):
        staged = with_split_in_uids(staged, folder)
    places = assign(staged, labels, splitting, problems)
    write_splits(staged, places, folder)
    given = np.concatenate([places[split] for split in staged])
    positives = Positives(*pooled_labels(staged))
    in_train = np.flatnonzero((given == 0) | (given == 1)) if cuts(source, splitting) else np.flatnonzero(given == 0)
    counts = np.bincount(positives.take(in_train).indices, minlength=len(labels))
    np.save(folder / "train_counts.npy", counts)
    write_filters(staged, places, filters, folder)
    note_findings(staged, places, labels, counts, problems)
    about = source.description
    description = {
        "name": name,
        "licence": str(about.get("licence", "")),
        "source": str(about.get("source", "")),
        "propensity": {**DEFAULT_PROPENSITY, **about.get("propensity", {})},
        "num_train_queries": len(in_train),
        **({"max_lengths": about["max_lengths"]} if "max_lengths" in about else {}),
    }
    (folder / "dataset.json").write_text(json.dumps(description), encoding="utf-8")
    (folder / "staged-labels.arrow").rename(folder / "labels.arrow")
    for split in staged:
        (folder / f"staged-{split}.arrow").unlink()


def cuts(source: Source, splitting: SplitOptions) -> bool:
    """Whether validation is cut from train here, rather than given."""
    return splitting.strategy != "given" or "validation" not in source.splits


def pooled_labels(staged: dict[str, Staged]) -> tuple[np.ndarray, np.ndarray]:
    """The positives of all splits, one after the other, as CSR."""
    parts = [list_column(part.table, "labels", np.int64) for part in staged.values()]
    lengths = np.concatenate([np.diff(indptr) for indptr, _ in parts])
    return np.concatenate([[0], np.cumsum(lengths)]), np.concatenate([values for _, values in parts])


def assign(
    staged: dict[str, Staged], labels: Dataset, splitting: SplitOptions, problems: Problems
) -> dict[str, np.ndarray]:
    """For each row of each staged split the index in `SPLITS` of where it goes, or -1 for nowhere."""
    places = {split: np.full(len(part.table), SPLITS.index(split), dtype=np.int8) for split, part in staged.items()}
    pools = [{split: part} for split, part in staged.items()] if splitting.strategy == "given" else [staged]
    for pool in pools:
        leave_out_repeated(pool, places, problems)
    ends = np.cumsum([len(part.table) for part in staged.values()])
    pooled = np.concatenate(list(places.values()))
    positives = Positives(*pooled_labels(staged))
    uid_hashes = np.concatenate([part.uid_hash for part in staged.values()])
    if splitting.strategy != "given":
        kept = np.flatnonzero(pooled >= 0)
        label_hashes = np.concatenate([hashes(batch["uid"].to_pylist()) for batch in batches(labels, ["uid"])])
        times = pooled_times(staged, kept)
        test = held_out_rows(splitting, uid_hashes[kept], label_hashes, positives.take(kept), times)
        if test.all():
            raise DataError("all queries fell into the test split", hint="give a smaller --test_share")
        pooled[kept] = np.where(test, SPLITS.index("test"), SPLITS.index("train"))
    if splitting.strategy != "given" or "validation" not in staged:
        train = np.flatnonzero(pooled == 0)
        pooled[train[validation_rows(uid_hashes[train], positives.take(train))]] = SPLITS.index("validation")
    return dict(zip(staged, np.split(pooled, ends[:-1]), strict=True))


def leave_out_repeated(pool: dict[str, Staged], places: dict[str, np.ndarray], problems: Problems) -> None:
    """The later of two rows with one uid, in splits that may be mixed, is an error and goes nowhere."""
    for uid, (one, i), (other, j) in repeated_in_pool(pool):
        rows = f"rows {i} and {j}" if one == other else f"row {i} of {one} and row {j} of {other}"
        error = DataError(
            f"uid {uid!r} stands in {rows}", pool[other].path, int(pool[other].lines[j]), "each must be unique"
        )
        problems.error("uids twice", error, "the later row was left out")
        places[other][j] = -1


def pooled_times(staged: dict[str, Staged], kept: np.ndarray) -> list[str | None] | None:
    if not all("time" in part.table.column_names for part in staged.values()):
        return None
    times = [time for part in staged.values() for time in part.table["time"][:]]
    return [times[row] for row in kept]


def write_splits(staged: dict[str, Staged], places: dict[str, np.ndarray], folder: Path) -> None:
    """Each row to the file of its split, in the order of the source."""
    features = Features(QUERY_FEATURES)
    if any(part.weighted for part in staged.values()):
        features["weights"] = OPTIONAL_FEATURES["weights"]
    if any("time" in part.table.column_names for part in staged.values()):
        features["time"] = OPTIONAL_FEATURES["time"]
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
    """Add what another row or split of the set has: weights of one, no time."""
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
    return table


def read_filter(path: Path, num_rows: int | None, num_labels: int) -> Positives:
    """The pairs of a filter file (`row label` a line), over the rows of a split (`None`: up to the last one named).

    Raises:
        DataError: a line is not two whole numbers, or they are out of range.
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
    """Filter pairs follow their query."""
    for place, name in enumerate(SPLITS):
        parts = []
        for split, part in staged.items():
            pairs = filters.get(split, Positives(np.zeros(len(part.table) + 1, np.int64), np.zeros(0, np.int64)))
            parts.append(pairs.take(np.flatnonzero(places[split] == place)))
        if any(len(part.indices) for part in parts):
            counts = np.concatenate([part.counts for part in parts])
            np.save(folder / f"filter_indptr_{name}.npy", np.concatenate([[0], np.cumsum(counts)]))
            np.save(folder / f"filter_indices_{name}.npy", np.concatenate([part.indices for part in parts]))


def note_findings(
    staged: dict[str, Staged], places: dict[str, np.ndarray], labels: Dataset, counts: np.ndarray, problems: Problems
) -> None:
    """What is allowed but worth knowing: empty and repeated texts, leakage, labels without a training query."""
    empty = np.uint64(hashes([""])[0])
    train = np.concatenate([part.text_hash[places[split] < 2] for split, part in staged.items()])
    for split, part in staged.items():
        rows = np.flatnonzero(part.text_hash == empty)
        note_rows(problems, "empty texts", part, rows, "kept: nothing but its labels can be learned from it")
        _, first, times = np.unique(part.text_hash, return_index=True, return_counts=True)
        again = np.sort(first[(times > 1) & (part.text_hash[first] != empty)])
        note_rows(problems, "repeated texts", part, again, "kept: the text is tokenised once")
        tests = np.flatnonzero((places[split] == 2) & (part.text_hash != empty))
        leaked = tests[np.isin(part.text_hash[tests], train)]
        note_rows(problems, "test texts that training has", part, leaked, "kept: scores on them say little")
    for row in np.flatnonzero(counts == 0)[: problems.shown]:
        label = labels[int(row)]
        message = f"label {row} ({label['uid']!r}, {label['text']!r:.60})"
        problems.note("labels that training never has", message, "kept: predicted from its text alone", 0)
    problems.counts["labels that training never has"] += int((counts == 0).sum())
    note_shared_label_texts(labels, problems)
    parents_unknown(labels, problems)
    problems.counts += type(problems.counts)()  # drops kinds that were never found


def note_rows(problems: Problems, kind: str, part: Staged, rows: np.ndarray, handled: str) -> None:
    for row in rows[: problems.shown].tolist():
        record = part.table[row]
        problems.note(
            kind, f"{part.path}, line {part.lines[row]}: {record['uid']!r}, {record['text']!r:.60}", handled, 0
        )
    problems.counts[kind] += len(rows)


def note_shared_label_texts(labels: Dataset, problems: Problems) -> None:
    """Labels that no text can tell apart."""
    digests = np.concatenate([hashes(batch["text"].to_pylist()) for batch in batches(labels, ["text"])])
    _, first = np.unique(digests, return_index=True)
    later = np.setdiff1d(np.arange(len(digests)), first)
    for row in later[: problems.shown].tolist():
        message = f"label {row} ({labels[row]['uid']!r}, {labels[row]['text']!r:.60})"
        problems.note("labels with the text of another", message, "kept: an encoder gives both one score", 0)
    problems.counts["labels with the text of another"] += len(later)


def parents_unknown(labels: Dataset, problems: Problems) -> None:
    """Parents that the catalogue does not have, such as the top of a cut hierarchy."""
    if "parents" not in labels.column_names:
        return
    uids = {uid for batch in batches(labels, ["uid"]) for uid in batch["uid"].to_pylist()}
    for batch in batches(labels, ["uid", "parents"]):
        for uid, parents in zip(batch["uid"].to_pylist(), batch["parents"].to_pylist(), strict=True):
            for parent in parents or []:
                if parent not in uids:
                    problems.note("parents outside the catalogue", f"{uid!r} has the parent {parent!r}", "kept")


def open_built(folder: Path) -> dict[str, Any]:
    """What `build` wrote, memory-mapped: the fields of an `XMCDataset`."""
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
