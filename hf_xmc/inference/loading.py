"""What the public functions take: a tagger or its folder, a data set or its name."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, Union

from hf_xmc.data.arrow import read_parquet
from hf_xmc.data.transaction import locked
from hf_xmc.errors import DataError
from hf_xmc.inference.pipeline import XMCPipeline
from hf_xmc.retrieval.folder import no_such_folder
from hf_xmc.retrieval.index import LABELS, LabelIndex

if TYPE_CHECKING:
    from datasets import Dataset

    from hf_xmc.data.dataset import XMCDataset

AnyPath: TypeAlias = str | os.PathLike[str]
AnyTagger: TypeAlias = XMCPipeline | str | os.PathLike[str]
AnyDataset: TypeAlias = Union["XMCDataset", str, os.PathLike[str]]


def as_tagger(tagger: AnyTagger) -> XMCPipeline:
    """A tagger as it is, or loaded from its folder or Hub repository."""
    return tagger if isinstance(tagger, XMCPipeline) else XMCPipeline.from_pretrained(tagger)


def as_dataset(dataset: AnyDataset) -> XMCDataset:
    """A data set as it is, or loaded from its folder or by its name."""
    from hf_xmc.data.dataset import XMCDataset, load_xmc_dataset  # slow to import

    return dataset if isinstance(dataset, XMCDataset) else load_xmc_dataset(os.fspath(dataset))


def folder_to_write(tagger: AnyTagger, output_dir: AnyPath | None = None) -> Path | None:
    """Where a changed tagger is saved: `output_dir`, or else the folder it was given as; None for a tagger in memory.

    Raises:
        ModelFolderError: the tagger was given as a folder that does not exist.
    """
    if output_dir is not None:
        return Path(output_dir)
    if isinstance(tagger, XMCPipeline):
        return None
    if not Path(tagger).is_dir():
        raise no_such_folder(Path(tagger), "train a model with hf-xmc train")
    return Path(tagger)


@contextmanager
def alone_in(folder: Path | None) -> Iterator[None]:
    """Keep other writers out of a folder from when its tagger is read until the changed one is saved there; None for a
    tagger in memory.

    Raises:
        ModelFolderError: somebody else writes into it; see `hf_xmc.data.transaction.locked`.
    """
    with nullcontext() if folder is None else locked(folder):
        yield


def on_catalogue_of(tagger: AnyTagger, data: XMCDataset) -> XMCDataset:
    """The data set over the catalogue of a tagger that has all its labels, but others before or between them, as a
    tagger that was trained on earlier data first; else the data set as it is.

    Args:
        tagger: a tagger, or its folder. Of anything else the data set is returned.
    """
    from hf_xmc.data.growing import grow_catalogue, matched  # slow to import

    labels = catalogue_of(tagger)
    if labels is None or labels["uid"][: data.num_labels] == data.labels["uid"][:]:
        return data
    return data if (matched(labels, data.labels) < 0).any() else grow_catalogue(labels, data)


def catalogue_of(tagger: AnyTagger) -> Dataset | None:
    """The label table of a tagger or its folder; None if there is none on this machine."""
    if isinstance(tagger, XMCPipeline):
        return tagger.index.labels
    path = Path(tagger) / LABELS
    return read_parquet(path) if path.is_file() else None


def check_labels(index: LabelIndex, data: XMCDataset, name: str = "the model") -> None:
    """Raise an error if an index does not start with the labels of a data set. Labels added later may follow.

    Args:
        name: what the index belongs to, for the message.

    Raises:
        DataError: other labels, or another order.
    """
    if not starts_with_labels(index, data):
        raise DataError(
            f"the index of {name} ({len(index.labels):,} labels) has other labels than {data.name} "
            f"({data.num_labels:,} labels), or in another order",
            hint="give the data set that the model was trained on, or build the index of this one with hf-xmc index",
        )


def starts_with_labels(index: LabelIndex, data: XMCDataset) -> bool:
    """Whether the labels of an index begin with those of a data set, in their order."""
    return bool(index.labels["uid"][: data.num_labels] == data.labels["uid"][:])
