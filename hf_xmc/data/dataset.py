"""A data set for extreme multi-label classification: queries with their positives, and the label table."""

from __future__ import annotations

import json
import logging
import os
import re
import tempfile
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from hashlib import blake2b
from pathlib import Path
from typing import Literal, overload

import numpy as np
from datasets import Dataset, DatasetDict, concatenate_datasets

from hf_xmc.data import parquet_folder
from hf_xmc.data.arrow import cached_folder, file_key, list_column
from hf_xmc.data.formats import hub, open_source
from hf_xmc.data.formats.source import Options, Source
from hf_xmc.data.formats.text_forms import in_form
from hf_xmc.data.hub_access import hub_or_cache
from hf_xmc.data.ingest.build import build, open_built
from hf_xmc.data.ingest.splits import SplitOptions
from hf_xmc.data.public_sets import open_public_set
from hf_xmc.data.reading import Reading
from hf_xmc.data.schemes import union, unknown_pairs
from hf_xmc.data.soft_positives import SoftPositives
from hf_xmc.data.streamed import StreamedDataset, stream
from hf_xmc.errors import DataError, Problems
from hf_xmc.metrics.propensity import DEFAULT_PROPENSITY
from hf_xmc.types import Positives

logger = logging.getLogger(__name__)

VERSION = 4  # of the content of the cache; raised with every change that changes it
HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w.-]+)?")


@dataclass
class XMCDataset:
    """Queries, labels, and everything that belongs to them. Tables are memory-mapped, so their size is not limited by
    RAM.

    Attributes:
        queries: a `DatasetDict` with `train`, `validation` and, if the source has one, `test`; columns `uid`, `text`,
            `labels: List(int32)`, and if the source has them `weights: List(float32)` (the relevance of each
            positive), `time`, and `schemes` (the catalogues that a query was annotated with).
        labels: the label table, a `Dataset` with `uid`, `text`, and any other column of the source (`texts`: other
            names, `description`, `parents`: uids, `weight`, ...). The row number is the label id.
        name: name of the data set.
        train_label_counts: queries per label in the given training split, before validation was cut from it, int64
            `[L]`.
        num_train_queries: queries in the given training split, before validation was cut from it. Propensities use
            these two.
        filters: split -> pairs that a filter list excludes from evaluation, as `Positives` over the rows of the split,
            and in a set of several catalogues what a query was not asked for; they take no part in losses either.
        soft: pairs beside the given positives of the training split, with weight and source; see [`SoftPositives`].
            They train a model, and never count in a metric.
        propensity: the constants `a` and `b` of the propensity model.
        licence, source: as the source states them.
        max_lengths: maximum tokens of a `query` and a `label` in papers on this data set, if known.
        format, reason: the format of the source, and how it was recognised.
        reading: how a row of the source became a text, so that rows of the same shape can be read again; None where
            the source has no columns, or was prepared before this was noted.
        said: what was chosen or left out when the source was read, in sentences for the user.
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
    reading: Reading | None = None
    said: list[str] = field(default_factory=list)
    soft: SoftPositives | None = None

    def __post_init__(self) -> None:
        if isinstance(self.reading, dict):  # as dataset.json has it
            self.reading = Reading.from_json(self.reading)
        if not isinstance(self.queries, DatasetDict):
            self.queries = DatasetDict(self.queries)
        self.filters = {
            split: pairs
            for split in self.queries
            if (pairs := union(self.filters.get(split), self.unknown(split))) is not None
        }

    @property
    def num_labels(self) -> int:
        return len(self.labels)

    def unknown(self, split: str) -> Positives | None:
        """The labels of catalogues that the queries of a split were not annotated with (columns `schemes` of the
        queries and `scheme` of the labels); None for none."""
        return unknown_pairs(self.queries[split], self.labels, self.positives(split))

    def positives(self, split: str) -> Positives:
        """The positives of a split as numpy arrays, one row per query."""
        return positives_of(self.queries[split])

    def soft_positives(self, sources: Sequence[str] | None = None) -> SoftPositives | None:
        """The soft positives of some sources (by default of all); None if there are none.

        Raises:
            DataError: a source that no pair has.
        """
        if self.soft is None or not len(self.soft):
            if sources:
                raise DataError(f"{self.name} has no soft positives of {sources[0]!r}", hint="it has none at all")
            return None
        return self.soft if sources is None else self.soft.only(sources)

    def without_soft(self, source: str) -> XMCDataset:
        """The same data set without the soft positives of a source; `save` it to write that."""
        return self if self.soft is None else replace(self, soft=self.soft.without(source))

    def counts(self) -> dict[str, int]:
        """Rows of each split and of the label table.

        >>> load_xmc_dataset("sample").counts()
        {'train': 3632, 'validation': 368, 'test': 1000, 'labels': 1193}
        """
        return {**{split: len(rows) for split, rows in self.queries.items()}, "labels": len(self.labels)}

    def with_validation_in_training(self) -> XMCDataset:
        """The same data with the validation queries at the end of the training split, and none in validation."""
        train, held = self.queries["train"], self.queries["validation"]
        queries = DatasetDict(
            {**self.queries, "train": concatenate_datasets([train, held]), "validation": held.select([])}
        )
        filters = {split: pairs for split, pairs in self.filters.items() if split not in ("train", "validation")}
        known = [self.filters.get(split) for split in ("train", "validation")]
        if any(pairs is not None for pairs in known):
            sizes = len(train), len(held)
            parts = [Positives.from_lists([[]] * n) if p is None else p for p, n in zip(known, sizes, strict=True)]
            indptr = np.concatenate([parts[0].indptr, parts[1].indptr[1:] + parts[0].indptr[-1]])
            filters["train"] = Positives(indptr, np.concatenate([part.indices for part in parts]))
        return replace(self, queries=queries, filters=filters)

    def fingerprint(self) -> str:
        """A hash of all uids, texts and labels; it does not depend on the machine or the format."""
        digest = blake2b(digest_size=8)
        for _, table in sorted([*self.queries.items(), ("labels", self.labels)]):
            columns = [name for name in ("uid", "text", "labels") if name in table.column_names]
            for batch in table.select_columns(columns).iter(batch_size=10_000):
                digest.update(json.dumps(batch, ensure_ascii=False).encode("utf-8", "surrogatepass"))
        return digest.hexdigest()

    def save(self, folder: str | Path) -> Path:
        """Write a folder that `load_xmc_dataset` reads: Parquet files and `dataset.json`.

        Raises:
            DataError: the folder holds something else, which is left alone.
        """
        about = {
            "name": self.name,
            "licence": self.licence,
            "source": self.source,
            "propensity": self.propensity,
            "num_train_queries": self.num_train_queries,
            "max_lengths": self.max_lengths,
            "counts": self.counts(),
            **({"reading": self.reading.to_json()} if self.reading else {}),
            **({"said": self.said} if self.said else {}),
        }
        filters = {split: pairs.minus(self.unknown(split)) for split, pairs in self.filters.items()}
        filters = {split: pairs for split, pairs in filters.items() if len(pairs.indices)}  # the rest is found again
        tables = parquet_folder.Tables(self.queries, self.labels, self.train_label_counts, filters, self.soft)
        return parquet_folder.write(tables, about, Path(folder))


@overload
def load_xmc_dataset(
    name_or_folder: str | Path,
    options: Options | None = None,
    splitting: SplitOptions | None = None,
    builder: str | None = None,
    streaming: Literal[False] = False,
) -> XMCDataset: ...


@overload
def load_xmc_dataset(name_or_folder: str | Path, *, streaming: Literal[True]) -> StreamedDataset: ...


def load_xmc_dataset(
    name_or_folder: str | Path,
    options: Options | None = None,
    splitting: SplitOptions | None = None,
    builder: str | None = None,
    streaming: bool = False,
) -> XMCDataset | StreamedDataset:
    """Load a data set: `"sample"` (bundled with the package), a folder, file or archive, the name of a folder in
    `$HF_XMC_DATA`, or the id of a data set on the Hub.

    The format is detected (see `hf_xmc.data.formats`). The content is checked, written once to Arrow files in the
    cache of `datasets`, and memory-mapped from there. If the source has no validation split, a tenth of the training
    queries is moved into one, chosen by a hash of the uid; the test split is never touched.

    Args:
        name_or_folder: what to load.
        options: how to read it, where the source does not say so itself.
        splitting: how to split it, if not as given. A prepared folder accepts neither `options` nor `splitting`.
        builder: the name of a public data set (`hf_xmc.data.public_sets`) whose propensity constants, lengths and
            text composition are used.
        streaming: read queries as they arrive, as `datasets.load_dataset` does: of a prepared data set on the Hub,
            nothing but the label table is downloaded first. What is returned is a [`StreamedDataset`], to look at or
            to tag; training and evaluation need the whole data set.

    Raises:
        DataError: there is no such data set, or its content is not valid; the message names the file, the row and
            what to do.

    >>> data = load_xmc_dataset("sample")
    >>> data.queries["train"].column_names, data.labels[0]["uid"]
    (['uid', 'text', 'labels'], 'data_0006')
    """
    options, splitting = options or Options(), splitting or SplitOptions()
    if streaming:
        path = local_path(str(name_or_folder))
        refuse_options(path, options, splitting, builder)
        return stream(str(name_or_folder), path, tried(str(name_or_folder)))

    def built(source: Source, name: str) -> Path:
        settings = json.dumps([asdict(options), asdict(splitting), builder, name], sort_keys=True)
        key = [VERSION, source.format, settings, *map(file_key, files_of(source))]
        return cached_folder("source", key, lambda target: build_and_warn(source, name, target, splitting))

    return open_dataset(str(name_or_folder), options, splitting, builder, built)


def build_and_warn(source: Source, name: str, target: Path, splitting: SplitOptions) -> None:
    """Build a data set, and say how much of its source was left out, which happens without an error only where a
    vocabulary does not have all headings."""
    problems = Problems()
    build(source, name, target, splitting, problems)
    if problems.left_out:
        count = sum(problems.counts[kind] for kind in {problem.kind for problem in problems.left_out})
        example = problems.left_out[0].message
        logger.warning(f"{name}: {count:,} headings were left out, as {example}; hf-xmc prepare lists them.")


def prepare_xmc_dataset(
    name_or_folder: str | Path,
    folder: Path,
    problems: Problems,
    options: Options | None = None,
    splitting: SplitOptions | None = None,
    builder: str | None = None,
    progress: bool = False,
) -> XMCDataset:
    """Load a data set as `load_xmc_dataset` does, but collect what is wrong with it.

    Args:
        folder: where the Arrow files are written, instead of the cache.
        problems: receives the findings; whether the first error is raised is up to it.
        progress: show progress bars.
    """
    options, splitting = options or Options(), splitting or SplitOptions()

    def built(source: Source, name: str) -> Path:
        target = Path(tempfile.mkdtemp(dir=folder))
        build(source, name, target, splitting, problems, progress)
        return target

    return open_dataset(str(name_or_folder), options, splitting, builder, built)


def open_dataset(
    name: str,
    options: Options,
    splitting: SplitOptions,
    builder: str | None,
    built: Callable[[Source, str], Path],
) -> XMCDataset:
    """Find a data set, and map its prepared folder or the folder in which `built` writes its Arrow files."""
    path = local_path(name)
    remote = path is None and HUB_ID.fullmatch(name) is not None
    with hub_or_cache(name, "dataset") if remote else nullcontext():
        if remote:
            path = hub.pull_prepared(name)
        if path is not None and parquet_folder.detect(path):
            return open_prepared(path, options, splitting, builder)
        source, called = source_of(path, name, options, builder)
        return XMCDataset(**open_built(built(source, called)), format=source.format, reason=source.reason)


def open_prepared(path: Path, options: Options, splitting: SplitOptions, builder: str | None) -> XMCDataset:
    """Map a prepared folder."""
    refuse_options(path, options, splitting, builder)
    return XMCDataset(**parquet_folder.read(path))


def refuse_options(path: Path | None, options: Options, splitting: SplitOptions, builder: str | None) -> None:
    """Texts and splits of a prepared data set are already fixed.

    Raises:
        DataError: an option asks for others.
    """
    given = {"builder": builder, **asdict(options), "split": splitting.strategy, "test_share": splitting.test_share}
    usual = {"builder": None, **asdict(Options()), "split": "given", "test_share": SplitOptions().test_share}
    asked = [f"--{name} {value}" for name, value in given.items() if value != usual[name]]
    if asked:
        found = f"a prepared data set cannot be read with {', '.join(asked)}"
        raise DataError(found, path, hint="run hf-xmc prepare with it on the original data")


def local_path(name: str) -> Path | None:
    """The folder or file that a name or path refers to, if it is on this machine."""
    return next((path for path in places(name) if path.exists()), None)


def places(name: str) -> list[Path]:
    """Where a data set is looked up on this machine, in this order."""
    if name == "sample":
        return [Path(__file__).parent / "sample"]
    shelf = os.environ.get("HF_XMC_DATA")
    return [Path(name), *([Path(shelf) / name] if shelf else [])]


def tried(name: str) -> str:
    """Where a data set was looked up in vain, for the error message."""
    here = [str(path.absolute()) for path in places(name)]
    shelf = [] if os.environ.get("HF_XMC_DATA") else ["$HF_XMC_DATA (not set)"]
    found = [*here, *shelf, *(["the Hub"] if HUB_ID.fullmatch(name) else [])]
    return f"looked for {', '.join(found)}; expected 'sample', a folder, a file, or a data set on the Hub"


def source_of(path: Path | None, name: str, options: Options, builder: str | None) -> tuple[Source, str]:
    """The streams of a source, and the name of the data set."""
    if path is None and (builder is not None or not HUB_ID.fullmatch(name)):
        raise DataError(f"no data set {name!r}", hint=tried(name))
    if builder is not None:
        assert path is not None
        source, called = open_public_set(path, builder, options), builder
    else:
        source = hub.open_source(name, options, tried(name)) if path is None else open_source(path, options)
        called = str(source.description.get("name", Path(name).resolve().name if path is not None else name))
    return source if options.text_form is None else in_form(source, options.text_form), called


def files_of(source: Source) -> list[Path]:
    """All files that the result depends on."""
    folder = source.label_path.parent
    about = [path for name in ("dataset.json", "stats.json") if (path := folder / name).is_file()]
    return [*source.files, *about]


def positives_of(queries: Dataset) -> Positives:
    """The `labels` column of a query table as CSR, with its `weights` if it has them."""
    indptr, indices = list_column(queries, "labels", np.int64)
    weights = list_column(queries, "weights", np.float32)[1] if "weights" in queries.column_names else None
    return Positives(indptr, indices, weights)
