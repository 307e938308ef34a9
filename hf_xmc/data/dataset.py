"""A data set for extreme multi-label classification: queries with their positives, and the label table."""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import asdict, dataclass, field
from hashlib import blake2b
from pathlib import Path

import numpy as np
from datasets import Dataset, DatasetDict

from hf_xmc.data import parquet_folder
from hf_xmc.data.arrow import cached_folder, file_key, list_column
from hf_xmc.data.formats import hub, open_source
from hf_xmc.data.formats.source import Options, Source
from hf_xmc.data.ingest.build import build, open_built
from hf_xmc.data.ingest.splits import SplitOptions
from hf_xmc.errors import DataError, Problems
from hf_xmc.metrics.propensity import DEFAULT_PROPENSITY
from hf_xmc.types import Positives

VERSION = 2  # of what the cache holds; raised when a change here changes it


@dataclass
class XMCDataset:
    """Queries, labels, and what belongs to them. Tables are memory-mapped: their size is no matter of memory.

    Attributes:
        queries: a `DatasetDict` with `train`, `validation` and, where the source has one, `test`; columns `uid`,
            `text`, `labels: List(int32)`, and where the source has them `weights: List(float32)` (the relevance of
            each positive) and `time`.
        labels: the label table, a `Dataset` with `uid`, `text`, and what else the source has (`texts`: other names,
            `description`, `parents`: uids, `weight`, ...); row number = label id.
        name: what the set is called.
        train_label_counts: queries a label in the given training split, before validation was cut, int64 `[L]`.
        num_train_queries: queries in the given training split, before validation was cut. Propensities use these two.
        filters: split -> pairs that a filter list excludes, as `Positives` over the rows of the split.
        propensity: the constants `a` and `b` of the propensity model.
        licence, source: as the source states them.
        max_lengths: tokens of a `query` and a `label` that papers on this set use, where it says so.
        format, reason: what the source was read as, and how that was seen.
    """

    queries: DatasetDict
    labels: Dataset
    name: str
    train_label_counts: np.ndarray
    num_train_queries: int
    filters: dict[str, Positives] = field(default_factory=dict)
    propensity: dict[str, float] = field(default_factory=lambda: dict(DEFAULT_PROPENSITY))
    licence: str = ""
    source: str = ""
    max_lengths: dict[str, int] = field(default_factory=dict)
    format: str = "prepared"
    reason: str = "has dataset.json and labels/labels.parquet"

    def __post_init__(self) -> None:
        if not isinstance(self.queries, DatasetDict):
            self.queries = DatasetDict(self.queries)

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
        return parquet_folder.write(self, Path(folder))


def load_xmc_dataset(
    name_or_folder: str | Path,
    options: Options | None = None,
    splitting: SplitOptions | None = None,
    builder: str | None = None,
) -> XMCDataset:
    """Load a data set: `"sample"` (bundled), a folder, file or archive, the name of a folder in `$HF_XMC_DATA`, or of
    a data set on the Hub.

    The format is found out (see `hf_xmc.data.formats`). What a source holds is checked and written once to Arrow files
    in the cache of `datasets`, and mapped from there. Where a source has no validation split, a tenth of train is cut
    by a hash of the uid; the test split is never touched.

    Args:
        name_or_folder: what to load.
        options: how to read it, where it does not say so itself.
        splitting: other splits than the given ones; a prepared folder takes neither.
        builder: the name of a public set (`hf_xmc.data.public_sets`) whose constants and text composition to use.

    Raises:
        DataError: there is no such source, or its content is not valid; the message names file, row and hint.

    >>> data = load_xmc_dataset("sample")
    >>> data.queries["train"].column_names, data.labels[0]["uid"]
    (['uid', 'text', 'labels'], 'data_0006')
    """
    options, splitting = options or Options(), splitting or SplitOptions()
    path = find(name_or_folder)
    path = path or hub.pull_prepared(str(name_or_folder))
    if path is not None and parquet_folder.detect(path):
        return open_prepared(path, options, splitting, builder)
    source, name = source_of(path, str(name_or_folder), options, builder)
    settings = json.dumps([asdict(options), asdict(splitting), builder, name], sort_keys=True)
    key = [VERSION, source.format, settings, *map(file_key, description_files(source))]
    folder = cached_folder("source", key, lambda target: build(source, name, target, splitting, Problems()))
    return XMCDataset(**open_built(folder), format=source.format, reason=source.reason)


def prepare_xmc_dataset(
    name_or_folder: str | Path,
    folder: Path,
    problems: Problems,
    options: Options | None = None,
    splitting: SplitOptions | None = None,
    builder: str | None = None,
    progress: bool = False,
) -> XMCDataset:
    """As `load_xmc_dataset`, with findings collected in `problems`; Arrow files go into `folder`, not the cache."""
    options, splitting = options or Options(), splitting or SplitOptions()
    path = find(name_or_folder)
    path = path or hub.pull_prepared(str(name_or_folder))
    if path is not None and parquet_folder.detect(path):
        return open_prepared(path, options, splitting, builder)
    source, name = source_of(path, str(name_or_folder), options, builder)
    target = Path(tempfile.mkdtemp(dir=folder))
    build(source, name, target, splitting, problems, progress)
    return XMCDataset(**open_built(target), format=source.format, reason=source.reason)


def open_prepared(path: Path, options: Options, splitting: SplitOptions, builder: str | None) -> XMCDataset:
    """A prepared folder is as it was prepared: its texts and splits are not made anew.

    Raises:
        DataError: an option asks for that.
    """
    given = {"builder": builder, **asdict(options), "split": splitting.strategy, "test_share": splitting.test_share}
    usual = {"builder": None, **asdict(Options()), "split": "given", "test_share": SplitOptions().test_share}
    asked = [f"--{name} {value}" for name, value in given.items() if value != usual[name]]
    if asked:
        found = f"a prepared data set cannot be read with {', '.join(asked)}"
        raise DataError(found, path, hint="run hf-xmc prepare with it on what the set was made from")
    return XMCDataset(**parquet_folder.read(path))


def find(name_or_folder: str | Path) -> Path | None:
    """The folder or file that a name or path stands for, if it is on this machine."""
    if str(name_or_folder) == "sample":
        return Path(__file__).parent / "sample"
    shelf = Path(os.environ.get("HF_XMC_DATA", "../shared/data"))
    return next((path for path in (Path(name_or_folder), shelf / str(name_or_folder)) if path.exists()), None)


def source_of(path: Path | None, name: str, options: Options, builder: str | None) -> tuple[Source, str]:
    """The streams of a source, and what it is called."""
    if builder is not None:
        from hf_xmc.data.public_sets import open_public_set

        if path is None:
            raise DataError(f"no folder or archive {name!r}", hint=f"give the local copy of {builder}")
        return open_public_set(path, builder, options), builder
    source = hub.open_source(name, options) if path is None else open_source(path, options)
    called = Path(name).resolve().name if path is not None else name
    return source, str(source.description.get("name", called))


def description_files(source: Source) -> list[Path]:
    """All files that the result depends on."""
    folder = source.label_path.parent
    about = [path for name in ("dataset.json", "stats.json") if (path := folder / name).is_file()]
    return [*source.files, *about]


def positives_of(queries: Dataset) -> Positives:
    """The `labels` column of a query table as CSR, with its `weights` where there are any."""
    indptr, indices = list_column(queries, "labels", np.int64)
    weights = list_column(queries, "weights", np.float32)[1] if "weights" in queries.column_names else None
    return Positives(indptr, indices, weights)
