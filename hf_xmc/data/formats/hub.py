"""A data set of the Hub, or a folder that `datasets.load_dataset` reads: queries in the default configuration, labels
in one called `labels` where there is one, as `hf-xmc prepare --push_to_hub` writes them.

A set without label table may have `ClassLabel`s, or names of labels as strings.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import datasets
from datasets import ClassLabel, Dataset, Value
from huggingface_hub import hf_hub_download, snapshot_download
from huggingface_hub.errors import HfHubHTTPError

from hf_xmc.data.arrow import batches
from hf_xmc.data.formats.jsonl import checked_weights
from hf_xmc.data.formats.source import (
    LABEL_TEXT_FIELDS,
    LEFT_OUT,
    TEXT_FIELDS,
    UNREADABLE,
    LabelNames,
    Options,
    Record,
    Records,
    Source,
    Split,
    template,
    text_of,
)
from hf_xmc.data.formats.table import LABEL_COLUMNS, SPLIT_NAMES, UID_COLUMNS, names_in, one_of
from hf_xmc.errors import DataError, Problems

LABELS = "labels"
IGNORED = ("uid", "text", "train_count")


def detect(path: Path) -> str | None:
    """The reason why the folder is a local copy of a data set of the Hub: Parquet files named as there."""
    found = [p for pattern in ("data/train*.parquet", "train-*-of-*.parquet") for p in sorted(path.glob(pattern))]
    return f"has {found[0].relative_to(path).as_posix()}" if found else None


def open_source(name: str | Path, options: Options) -> Source:
    """Load a data set by name, or from its folder, and stream from its Arrow files.

    Raises:
        DataError: there is none of that name, it has no training split, or columns cannot be found.
    """
    called, name = Path(name).name if isinstance(name, Path) else name, str(name)
    configs = quietly(datasets.get_dataset_config_names, name, name=name)
    config = options.config or next((c for c in configs if c != LABELS), None)
    loaded = quietly(datasets.load_dataset, name, config, name=name)
    tables = {s: loaded[n] for s, names in SPLIT_NAMES.items() for n in names if n in loaded}
    if "train" not in tables:
        raise DataError(f"splits {', '.join(loaded)}", name, hint="expected one called train")
    train = tables["train"]
    label_column = one_of(train.column_names, Path(name), options.label_column, LABEL_COLUMNS, "--label_column")
    kind = inner(train.features[label_column])
    label_table = None
    if LABELS in configs:
        found = quietly(datasets.load_dataset, name, LABELS, name=name)
        label_table = found[next(iter(found))]
    names = LabelNames(closed=label_table is not None)
    stream: Any = lambda problems: names.records()  # noqa: E731
    if label_table is not None:
        stream = partial(labels, label_table, names, name, options)
    elif isinstance(kind, ClassLabel):
        stream = partial(class_labels, kind.names)
    numbers = isinstance(kind, ClassLabel) or (isinstance(kind, Value) and kind.dtype.startswith(("int", "uint")))
    if numbers and label_table is None and not isinstance(kind, ClassLabel):
        raise DataError(f"{label_column!r} holds ids, but there is no configuration {LABELS!r}", name, hint="add one")
    splits = {
        split: Split(Path(name), partial(queries, table, label_column, None if numbers else names, name, options))
        for split, table in tables.items()
    }
    files = [Path(entry["filename"]) for table in tables.values() for entry in table.cache_files]
    return Source(
        format="hub",
        reason=f"a data set that datasets loads, configuration {config!r}, labels in {label_column!r}",
        splits=splits,
        labels=stream,
        label_path=Path(name),
        labels_last=label_table is None and not isinstance(kind, ClassLabel),
        description={"name": called, "licence": train.info.license or "", "source": train.info.homepage or ""},
        files=files,
    )


def pull_prepared(name: str) -> Path | None:
    """The files of a data set on the Hub that `hf-xmc prepare --push_to_hub` wrote; of other names nothing.

    They are read as the folder that was pushed: with filter pairs, propensity constants and the given counts.
    """
    try:
        hf_hub_download(name, "dataset.json", repo_type="dataset")
        patterns = ["dataset.json", "data/*.parquet", "labels/labels.parquet"]
        return Path(snapshot_download(name, repo_type="dataset", allow_patterns=patterns))
    except (OSError, ValueError, HfHubHTTPError):  # no such name, no such file, no network
        return None


def quietly(function: Any, *args: Any, name: str) -> Any:
    """Call `datasets`; whatever stops it is an error about the name. Code of a repository is never run."""
    try:
        return function(*args)
    except Exception as error:  # of the network, the Hub, the files, or the builder
        hint = "give 'sample', a folder, a file, the name of a folder in $HF_XMC_DATA, or of a data set on the Hub"
        raise DataError(
            f"no data set {name!r} ({str(error).splitlines()[0] if str(error) else error!r:.120})", hint=hint
        ) from error


def inner(feature: Any) -> Any:
    """The kind of what a list holds."""
    return inner(feature.feature) if hasattr(feature, "feature") else feature


def queries(
    table: Dataset, label_column: str, names: LabelNames | None, name: str, options: Options, problems: Problems
) -> Records:
    """The rows of a split; labels are ids (`names` is None) or names."""
    path, by_template = Path(name), template(options.query_template)
    uid = one_of(table.column_names, path, options.uid_column, UID_COLUMNS, None)
    fields = (options.text_column,) if options.text_column else TEXT_FIELDS
    for i, record in enumerate(record for batch in batches(table) for record in batch.to_pylist()):
        try:
            found: Record = {
                "uid": f"row-{i}" if not uid or record[uid] is None else str(record[uid]),
                "text": text_of(record, by_template, fields, path, i + 1),
            }
            cell = record[label_column]
            if names is not None:
                found["labels"] = names.ids(
                    names_in(cell, options.label_delimiter, path, i + 1), path, i + 1, problems
                )
            else:
                cell = cell if isinstance(cell, list) else [] if cell is None else [cell]
                found["labels"] = [id_ for id_ in cell if id_ is not None and id_ != -1]  # -1: ClassLabel's "unknown"
            if record.get("weights") is not None:
                found["weights"] = checked_weights(record["weights"], len(found["labels"]), "weights", path, i + 1)
            if options.time_column:
                found["time"] = record.get(options.time_column)
        except DataError as error:
            problems.error(UNREADABLE, error, LEFT_OUT)
        else:
            yield i + 1, found


def labels(table: Dataset, names: LabelNames, name: str, options: Options, problems: Problems) -> Records:
    """The rows of the label table."""
    path, by_template = Path(name), template(options.label_template)
    uid = one_of(table.column_names, path, None, UID_COLUMNS, None)
    for i, record in enumerate(record for batch in batches(table) for record in batch.to_pylist()):
        text = text_of(record, by_template, LABEL_TEXT_FIELDS, path, i + 1)
        rest = {key: value for key, value in record.items() if key not in (*IGNORED, uid)}
        label = {"uid": str(record[uid]) if uid else text, "text": text, **rest}
        names.add(label["uid"], i, text.strip())
        yield i + 1, label


def class_labels(class_names: list[str], problems: Problems) -> Records:
    """The names of a `ClassLabel`."""
    for i, name in enumerate(class_names):
        yield i + 1, {"uid": name, "text": name}
