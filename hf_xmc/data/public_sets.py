"""Builders of the public data sets from a local copy, with the settings that each needs to be measured as in the
papers.

    builder = PublicSet(config_name="LF-AmazonTitles-131K", data_dir="LF-AmazonTitles-131K.zip")
    builder.download_and_prepare()
    queries = builder.as_dataset()  # train, test; the configuration LF-AmazonTitles-131K-labels has the labels

`hf-xmc prepare FOLDER --builder LF-AmazonTitles-131K` does the same and cuts a validation split. The user names the
data set; it is never guessed from the name of a folder.

Propensity constants (a, b): EURLex-4K, Wiki10-31K and AmazonCat-13K as in pyxclib's example and napkinXC (sources
disagree: DEXML's code gives Wiki10-31K the constants of Wikipedia and AmazonCat-13K those of Amazon; CascadeXML's
code gives EURLex-4K those of Amazon); the LF sets as in NGAME's configurations. Lengths in tokens: DEXML's
`tf_max_len` for EURLex-4K, LF-AmazonTitles and LF-Wikipedia-500K, NGAME's `max_length` for LF-Amazon-131K and
LF-WikiSeeAlso-320K; those of the other data sets are our own choice.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import datasets
from datasets import Features, List, Value

from hf_xmc.data.formats import open_source
from hf_xmc.data.formats.source import Options, Records, Source
from hf_xmc.data.ingest.filters import read_filter
from hf_xmc.data.ingest.labels import LABEL_FEATURES
from hf_xmc.data.ingest.queries import QUERY_FEATURES, sorted_labels
from hf_xmc.data.ingest.splits import SPLITS
from hf_xmc.errors import DataError, Problems
from hf_xmc.metrics.propensity import AMAZON_PROPENSITY, DEFAULT_PROPENSITY, WIKIPEDIA_PROPENSITY

XC_REPOSITORY = "http://manikvarma.org/downloads/XC/XMLRepository.html"
WEIGHTS = {"weights": List(Value("float32"))}  # None if the files have no relevance
LABEL_COLUMNS = {name: LABEL_FEATURES[name] for name in ("texts", "description", "parents")}


@dataclass
class PublicSetConfig(datasets.BuilderConfig):
    """The settings of one public data set.

    Args:
        table: its queries, or its labels (the configuration whose name ends in `-labels`).
        propensity: the constants `a` and `b`.
        max_lengths: maximum tokens of a `query` and of a `label`.
        filters: whether it has filter lists, without which its metrics are not those of the papers.
        query_template, label_template: how texts are composed of the fields of the files.
        licence, origin: as the source states them.
    """

    table: Literal["queries", "labels"] = "queries"
    propensity: dict[str, float] = field(default_factory=lambda: dict(DEFAULT_PROPENSITY))
    max_lengths: dict[str, int] = field(default_factory=dict)
    filters: bool = False
    query_template: str | None = None
    label_template: str | None = None
    licence: str = ""
    origin: str = XC_REPOSITORY


def declared(
    name: str, propensity: dict[str, float], query: int, label: int, *, filters: bool = False, **more: Any
) -> PublicSetConfig:
    """A configuration with the maximum lengths of queries and labels."""
    return PublicSetConfig(
        name=name, propensity=propensity, max_lengths={"query": query, "label": label}, filters=filters, **more
    )


TITLES: dict[str, Any] = {"query_template": "{title}{text}", "label_template": "{title}{text}"}
FULL: dict[str, Any] = {"query_template": "{title}{text} {content}", "label_template": "{title}{text}"}
SETS = (
    declared("EURLex-4K", DEFAULT_PROPENSITY, 128, 128),
    declared("Wiki10-31K", DEFAULT_PROPENSITY, 256, 32),
    declared("AmazonCat-13K", DEFAULT_PROPENSITY, 256, 32),
    declared("LF-AmazonTitles-131K", AMAZON_PROPENSITY, 32, 32, filters=True, **TITLES),
    declared("LF-Amazon-131K", AMAZON_PROPENSITY, 128, 128, filters=True, **FULL),
    declared("LF-WikiSeeAlso-320K", DEFAULT_PROPENSITY, 128, 128, filters=True, **FULL),
    declared("LF-Wikipedia-500K", WIKIPEDIA_PROPENSITY, 128, 128, **FULL),
    declared("LF-AmazonTitles-1.3M", AMAZON_PROPENSITY, 32, 32, filters=True, **TITLES),
    declared(
        "EURLEX57K",
        DEFAULT_PROPENSITY,
        512,
        32,
        licence="EU law texts (c) European Union, reuse allowed with attribution",
        origin="Chalkidis et al. 2019, Large-Scale Multi-Label Text Classification on EU Legislation",
    ),
    declared(
        "biotools_edam",
        DEFAULT_PROPENSITY,
        128,
        64,
        licence="bio.tools CC BY 4.0; EDAM CC BY-SA 4.0",
        origin="bio.tools",
    ),
    declared(
        "yso_finna_en",
        DEFAULT_PROPENSITY,
        64,
        32,
        licence="CC0",
        origin="Annif corpora of the National Library of Finland",
    ),
    declared(
        "bible_xref",
        DEFAULT_PROPENSITY,
        64,
        64,
        filters=True,
        licence="cross references CC BY openbible.info; KJV text public domain",
        origin="openbible.info",
    ),
    declared(
        "eurlex57k_256w",
        DEFAULT_PROPENSITY,
        384,
        32,
        licence="EU law texts (c) European Union, reuse allowed with attribution",
        origin="EURLEX57K (Chalkidis et al. 2019), first 256 words",
    ),
)
BY_NAME = {config.name.lower(): config for config in SETS}


def labels_of(config: PublicSetConfig) -> PublicSetConfig:
    """The configuration of the label table of a data set."""
    other = replace(config, table="labels")
    other.name = f"{config.name}-labels"
    return other


class PublicSet(datasets.GeneratorBasedBuilder):
    """The public data sets as a builder of `datasets`; `data_dir` is the folder or archive of the local copy."""

    VERSION = datasets.Version("1.0.0")
    BUILDER_CONFIG_CLASS = PublicSetConfig
    BUILDER_CONFIGS = [  # noqa: RUF012  # as datasets declares it
        *SETS,
        *map(labels_of, SETS),
    ]

    def _info(self) -> datasets.DatasetInfo:
        features = Features({**QUERY_FEATURES, **WEIGHTS})
        if self.config.table == "queries" and self.config.filters:
            features = Features({**features, "filter_labels": List(Value("int32"))})
        if self.config.table == "labels":
            features = Features({"uid": Value("string"), "text": Value("string"), **LABEL_COLUMNS})
        return datasets.DatasetInfo(
            description=f"{self.config.name}, for extreme multi-label classification.",
            features=features,
            homepage=self.config.origin,
            license=self.config.licence,
        )

    def _split_generators(self, dl_manager: Any) -> list[datasets.SplitGenerator]:
        if not self.config.data_dir:
            raise DataError(f"{self.config.name} needs its local copy", hint="pass data_dir, its folder or archive")
        name = self.config.name.removesuffix("-labels")
        source = open_public_set(Path(self.config.data_dir), name, Options())
        splits = ["train"] if self.config.table == "labels" else list(source.splits)
        return [datasets.SplitGenerator(name=s, gen_kwargs={"source": source, "split": s}) for s in splits]

    def _generate_examples(self, source: Source, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
        labels = known_labels(source)
        if self.config.table == "labels":
            for row, (_, label) in enumerate(labels):
                yield row, {name: label.get(name) for name in ("uid", "text", *LABEL_COLUMNS)}
            return
        count = sum(1 for _ in labels)
        path = source.splits[split].label_path or source.splits[split].path
        filters = read_filter(source.filters[split], None, count) if split in source.filters else None
        for row, (line, query) in enumerate(source.splits[split].rows(Problems())):
            ids, weights = sorted_labels([line], [query], count, path, row, Problems())
            example = {"uid": query["uid"], "text": query["text"], "labels": ids[0]}
            example["weights"] = weights[0] if "weights" in query else None
            if self.config.filters:
                known = filters is not None and row < len(filters)
                example["filter_labels"] = filters.row(row).tolist() if known else []  # type: ignore[union-attr]
            yield row, example


def known_labels(source: Source) -> Records:
    """The labels. If only the queries name them, all queries are read first, in the order in which `build` reads them:
    the id of a label is then the same whichever split or table is generated."""
    if source.labels_last:
        for split in (split for split in SPLITS if split in source.splits):
            for _ in source.splits[split].rows(Problems()):
                pass
    return source.labels(Problems())


def open_public_set(path: Path, name: str, options: Options) -> Source:
    """The streams of a local copy, with the settings of the data set; given options take precedence.

    Raises:
        DataError: there is no public data set of that name, or its files or filter lists are missing.
    """
    config = BY_NAME.get(name.lower())
    if config is None:
        raise DataError(f"no public set {name!r}", hint=f"expected one of {', '.join(c.name for c in SETS)}")
    composed = replace(
        options,
        query_template=options.query_template or config.query_template,
        label_template=options.label_template or config.label_template,
    )
    source = open_source(path, composed)
    if config.filters and "test" in source.splits and "test" not in source.filters:
        hint = "add filter_labels_test.txt; without it the metrics are not those of the papers"
        raise DataError(f"{config.name} has filter lists, and this copy has none", path, hint=hint)
    source.description |= {
        "name": config.name,
        "propensity": config.propensity,
        "max_lengths": config.max_lengths,
        "licence": config.licence or source.description.get("licence", ""),
        "source": source.description.get("source") or config.origin,
    }
    return source
