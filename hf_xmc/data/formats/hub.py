"""A data set on the Hub, or a folder that `datasets.load_dataset` reads.

Queries are in the default configuration, labels in a configuration called `labels` if there is one, as in data sets
that `hf-xmc prepare --push_to_hub` wrote. A data set without a label table has `ClassLabel`s, or label names as
strings.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import datasets
from datasets import ClassLabel, Dataset, Value
from huggingface_hub import hf_hub_download, snapshot_download
from huggingface_hub.errors import HfHubHTTPError

from hf_xmc.data.arrow import batches
from hf_xmc.data.formats.fields import (
    LABEL_COLUMNS,
    SPLIT_NAMES,
    TERM_TEXTS,
    TERM_UIDS,
    TEXT_FIELDS,
    UID_COLUMNS,
    checked_schemes,
    checked_weights,
    find_column,
    template,
    text_columns,
    text_of,
)
from hf_xmc.data.formats.label_cells import as_text, names_in
from hf_xmc.data.formats.separators import delimiter_of
from hf_xmc.data.formats.source import (
    LEFT_OUT,
    UNREADABLE,
    Choices,
    LabelNames,
    Options,
    Reader,
    Record,
    Records,
    Source,
    Split,
)
from hf_xmc.data.reading import Reading, parse_columns
from hf_xmc.errors import DataError, Problems

LABELS = "labels"
SAVED = "dataset_dict.json"  # what `DatasetDict.save_to_disk` writes
SAMPLE = 1000  # rows that say whether a text begins with its title
IGNORED = ("uid", "text", "train_count")


def detect(path: Path) -> str | None:
    """The reason why the folder is a local copy of a data set on the Hub: Parquet files with the names used there."""
    found = [p for pattern in ("data/train*.parquet", "train-*-of-*.parquet") for p in sorted(path.glob(pattern))]
    if (path / SAVED).is_file():
        return f"has {SAVED}"
    return f"has {found[0].relative_to(path).as_posix()}" if found else None


def open_source(name: str | Path, options: Options, tried: str = "") -> Source:
    """Load a data set by name, or from its folder, and stream from its Arrow files.

    Args:
        tried: where else the name was looked up, for the error message.

    Raises:
        DataError: there is no data set of that name, it has no training split, or a column is missing.
    """
    called, name = Path(name).name if isinstance(name, Path) else name, str(name)

    def load(function: Callable[..., Any], *args: Any) -> Any:
        """Call a function of `datasets`, which never runs code of a repository; whatever it raises is a DataError."""
        try:
            return function(*args)
        except Exception as error:  # from the network, the Hub, the files, or the builder
            reason = f"{str(error).splitlines()[0] if str(error) else error!r:.120}"
            raise DataError(f"no data set {name!r} ({reason})", hint=tried or "is the folder complete?") from error

    saved = (Path(name) / SAVED).is_file()
    configs = [] if saved else load(datasets.get_dataset_config_names, name)
    config = options.config or next((c for c in configs if c != LABELS), None)
    loaded = load(datasets.load_from_disk, name) if saved else load(datasets.load_dataset, name, config)
    tables = {s: loaded[n] for s, names in SPLIT_NAMES.items() for n in names if n in loaded}
    if "train" not in tables:
        raise DataError(f"splits {', '.join(loaded)}", name, hint="expected one called train")
    train = tables["train"]
    label_column = find_column(train.column_names, Path(name), options.label_column, LABEL_COLUMNS, "--label_column")
    kind = inner(train.features[label_column])
    label_table = None
    if LABELS in configs:
        found = load(datasets.load_dataset, name, LABELS)
        label_table = found[next(iter(found))]
    names = LabelNames(closed=label_table is not None)
    stream: Any = names.records
    if label_table is not None:
        stream = partial(labels, label_table, names, name, options)
    elif isinstance(kind, ClassLabel):
        stream = partial(class_labels, kind.names)
    delimiter = options.label_delimiter
    if isinstance(kind, Value) and isinstance(train.features[label_column], Value) and not delimiter:
        some = train.select_columns([label_column]).take(min(len(train), SAMPLE))[label_column]
        delimiter = delimiter_of(str(cell) for cell in some if cell is not None)
    columns = [name for name in train.column_names if name != label_column]
    texts = text_columns(columns, list(train.take(min(len(train), SAMPLE))))
    reading = None
    if texts and not options.query_template and not options.text_column:
        reading = Reading(tuple(texts), labels=(label_column,))
    given, words = parse_columns(options.text_column or "", columns)
    if words or len(given) > 1:
        reading = Reading(tuple(given), labels=(label_column,), words=words)
    numbers = isinstance(kind, ClassLabel) or (isinstance(kind, Value) and kind.dtype.startswith(("int", "uint")))
    if numbers and label_table is None and not isinstance(kind, ClassLabel):
        found = f"{label_column!r} holds ids, but there is no configuration {LABELS!r}"
        raise DataError(found, name, hint="add one with the columns uid and text")
    splits = {
        split: Split(
            Path(name),
            partial(queries, table, label_column, None if numbers else names, name, options, delimiter, reading),
        )
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
        ids_given=numbers,
        description={"name": called, "licence": train.info.license or "", "source": train.info.homepage or ""},
        files=files,
        choices=Choices(reading),
    )


READER = Reader(
    expected="a local copy of a data set on the Hub (data/train-*.parquet)",
    detect=detect,
    open_source=open_source,
    order=50,
)


def pull_prepared(name: str, queries: bool = True) -> Path | None:
    """Download a data set that `hf-xmc prepare --push_to_hub` wrote, or return None if the name is not one.

    It is then read like the folder that was pushed, with filter pairs, propensity constants and label counts.

    Args:
        queries: whether to download the queries, and not the label table alone.
    """
    try:
        hf_hub_download(name, "dataset.json", repo_type="dataset")
        patterns = ["dataset.json", "labels/labels.parquet"]
        patterns += ["data/*.parquet", "soft/train.parquet"] if queries else []
        return Path(snapshot_download(name, repo_type="dataset", allow_patterns=patterns))
    except (OSError, ValueError, HfHubHTTPError):  # no such name, no such file, no network
        return None


def inner(feature: Any) -> Any:
    """The feature of the items of a list, however deeply nested."""
    return inner(feature.feature) if hasattr(feature, "feature") else feature


def queries(
    table: Dataset,
    label_column: str,
    names: LabelNames | None,
    name: str,
    options: Options,
    delimiter: str | None,
    reading: Reading | None,
    problems: Problems,
) -> Records:
    """The rows of a split; labels are names, or ids if `names` is None."""
    path, by_template = Path(name), template(options.query_template)
    uid = find_column(table.column_names, path, options.uid_column, UID_COLUMNS, None)
    fields = (options.text_column,) if options.text_column else TEXT_FIELDS
    for i, record in enumerate(record for batch in batches(table) for record in batch.to_pylist()):
        try:
            found: Record = {
                "uid": f"row-{i}" if not uid or record[uid] is None else str(as_text(record[uid])),
                "text": text_of(record, by_template, fields, path, i + 1)
                if reading is None
                else reading.text_of(record, path, i + 1),
            }
            cell = record[label_column]
            if names is not None:
                found["labels"] = names.ids(names_in(cell, delimiter, path, i + 1), path, i + 1, problems)
            else:
                cell = cell if isinstance(cell, list) else [] if cell is None else [cell]
                found["labels"] = [id_ for id_ in cell if id_ is not None and id_ != -1]  # -1: ClassLabel's "unknown"
            if record.get("weights") is not None:
                found["weights"] = checked_weights(record["weights"], len(found["labels"]), "weights", path, i + 1)
            if record.get("schemes") is not None:
                found["schemes"] = checked_schemes(record["schemes"], path, i + 1)
            if options.time_column:
                found["time"] = record.get(options.time_column)
        except DataError as error:
            problems.error(UNREADABLE, error, LEFT_OUT)
        else:
            yield i + 1, found


def labels(table: Dataset, names: LabelNames, name: str, options: Options, problems: Problems) -> Records:
    """The rows of the label table."""
    path, by_template = Path(name), template(options.label_template)
    uid = find_column(table.column_names, path, None, TERM_UIDS, None)
    free = [name for name in table.column_names if name != uid]
    field = find_column(free, path, None, TERM_TEXTS, "--label_template" if by_template is None else None)
    for i, record in enumerate(record for batch in batches(table) for record in batch.to_pylist()):
        text = text_of(record, by_template, (field,), path, i + 1)
        rest = {key: value for key, value in record.items() if key not in (*IGNORED, uid, field)}
        label = {"uid": str(as_text(record[uid])) if uid else text, "text": text, **rest}
        names.add(label["uid"], i, text.strip())
        yield i + 1, label


def class_labels(class_names: list[str], problems: Problems) -> Records:
    """The names of a `ClassLabel`."""
    for i, name in enumerate(class_names):
        yield i + 1, {"uid": name, "text": name}
