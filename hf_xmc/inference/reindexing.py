"""Changing the labels of a trained folder: building its index again, and adding, changing or removing labels."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_xmc.data.arrow import read_parquet
from hf_xmc.errors import DataError, ModelFolderError, SettingsError
from hf_xmc.hub.folder import load_model, pipeline_parts, save_parts
from hf_xmc.hub.plain_encoder import fetch_encoder, is_plain_encoder
from hf_xmc.inference.fitting.rich_labels import rich_index
from hf_xmc.inference.labels import named_labels
from hf_xmc.inference.loading import AnyDataset, AnyPath, alone_in, as_dataset
from hf_xmc.inference.pipeline import XMCPipeline
from hf_xmc.retrieval.channels import CHANNELS
from hf_xmc.retrieval.engines.index import EngineIndex
from hf_xmc.retrieval.factories import FACTORIES
from hf_xmc.retrieval.folder import no_such_folder
from hf_xmc.retrieval.index import ABOUT, LABELS, TEXTS, LabelIndex, read_about
from hf_xmc.retrieval.pooling import POOLS

if TYPE_CHECKING:
    from datasets import Dataset

    from hf_xmc.data.dataset import XMCDataset
    from hf_xmc.modeling import XMCDualEncoderModel


@dataclass(frozen=True)
class Reindexed:
    """A folder whose labels were changed.

    Args:
        index: the new index.
        removed: files of the folder that were removed, because they belonged to the index before.
        added: labels that were added.
        folder: the trained folder that was made of a plain encoder.
        added_uids, removed_uids: uids of the labels that were added and removed.
        where: the folder, or the address of the engine, in which labels were changed.
        tried: poolings of label texts that were compared on validation, if they were.
    """

    index: LabelIndex
    removed: list[str]
    added: int = 0
    added_uids: list[str] = field(default_factory=list)
    removed_uids: list[str] = field(default_factory=list)
    folder: Path | None = None
    where: str = ""
    tried: list[dict[str, Any]] = field(default_factory=list)


def build_folder_index(
    folder: AnyPath,
    dataset: AnyDataset | None = None,
    factory: str = "flat",
    texts: str = "alone",
    recall_target: float = 0.95,
    batch_size: int = 64,
    output_dir: AnyPath | None = None,
    pool: str = "auto",
) -> Reindexed:
    """Encode a label table with the model of a trained folder, and write the index into the folder.

    This is what `hf-xmc index` runs. What was fitted to the index before is removed; a reranker stays.

    Args:
        folder: a trained folder; or a plain encoder, its folder or Hub id, which becomes a dual encoder.
        dataset: whose labels to index; by default those of the folder, of which removed ones stay removed.
        factory: kind of index; `"auto"` chooses by the size of the catalogue.
        texts: which texts of labels with alternative names (column `texts`) are indexed: `"alone"`, `"best"` or
            `"mean"`; or `"rich"`: also definitions, parents' names and other kinds, with a weight for each kind, which
            the validation queries of the data set teach.
        recall_target: share of the true ten best labels that an approximate index must find.
        batch_size: texts encoded at a time.
        output_dir: where a plain encoder is written as a trained folder; by default `outputs/` and its name. A trained
            folder is changed in its place.
        pool: how the scores of `"rich"` texts become that of a label: `"max"`, `"mean"` or `"logsumexp"`; `"auto"` is
            what is best on validation, or the mean of all kinds without a data set.
    """
    for name, given, known in (
        ("factory", factory, (*FACTORIES, "auto")),
        ("texts", texts, ("alone", *TEXTS)),
        ("pool", pool, ("auto", *POOLS)),
    ):
        if given not in known:  # before anything is encoded
            raise SettingsError(f"{name} is {given!r}; expected one of {', '.join(known)}")
    if (encoder := plain_encoder_of(folder)) is not None:
        if dataset is None:
            raise SettingsError(f"{folder} is a plain encoder without labels", hint="name a data set with --dataset")
        target = Path(output_dir or Path("outputs", os.path.basename(os.path.abspath(folder))))
        data, model = as_dataset(dataset), load_model(encoder)
        made, tried = tagger_of(model, data.labels, data, factory, batch_size, texts, pool, recall_target)
        made.run = {} if Path(folder).is_dir() else {"encoder": os.fspath(folder)}
        return Reindexed(made.index, save_parts(target, pipeline_parts(made)), folder=target, tried=tried)
    if output_dir is not None:
        raise SettingsError("output_dir is for a plain encoder; the index of a trained folder is written into it")
    folder = Path(folder)
    if not folder.is_dir():
        raise no_such_folder(folder, "train a model with hf-xmc train")
    with alone_in(folder):
        if dataset is None and not (folder / LABELS).is_file():
            raise ModelFolderError(
                f"no {LABELS}", folder, hint="name the data set whose labels to index with --dataset"
            )
        given_data = None if dataset is None else as_dataset(dataset)
        labels = read_parquet(folder / LABELS) if given_data is None else given_data.labels
        removed: set[int] = set()
        if dataset is None and (folder / ABOUT).is_file():
            removed = {*read_about(folder, "name the data set to index with --dataset")["removed"]}
        tagger, tried = tagger_of(
            load_model(folder), labels, given_data, factory, batch_size, texts, pool, recall_target
        )
        if removed:
            tagger.index.remove(sorted(removed))
        fitted = {**{channel.name: None for channel in CHANNELS}, "fusion": None, "confidence": None}
        return Reindexed(tagger.index, save_parts(folder, {"index": tagger.index, **fitted}), tried=tried)


def tagger_of(
    model: XMCDualEncoderModel,
    labels: Dataset,
    data: XMCDataset | None,
    factory: str,
    batch_size: int,
    texts: str,
    pool: str,
    recall_target: float,
) -> tuple[XMCPipeline, list[dict[str, Any]]]:
    """A tagger over a label table, and the poolings of label texts that were compared.

    Args:
        data: the data set that the labels belong to, whose validation queries teach the pooling of `"rich"` texts.
    """
    if texts != "rich":
        return XMCPipeline.build(model, labels, factory, batch_size, texts, recall_target=recall_target), []
    index, fitted = rich_index(model, labels, data, factory, pool, batch_size, recall_target)
    return XMCPipeline(model, index), fitted.tried


def plain_encoder_of(folder: AnyPath) -> Path | None:
    """The folder of a plain encoder, downloaded if it is a Hub repository; None for a trained folder."""
    path = Path(folder)
    if not path.is_dir():
        if len(path.parts) != 2 or path.parent.is_dir():  # no name on the Hub, or a folder that is misspelled
            return None
        path = fetch_encoder(folder)
    return path if is_plain_encoder(path) else None


def change_labels(
    folder: AnyPath,
    add: Sequence[Mapping[str, Any]] = (),
    update: Mapping[str, str] | None = None,
    remove: Sequence[str] = (),
    engine: str | None = None,
) -> Reindexed:
    """Remove, change and add labels of a trained folder, in this order, without training.

    This is what `hf-xmc labels` runs. Channels and probabilities stay; metrics of the labels before are removed.

    Args:
        folder: a trained folder.
        add: new labels, with `text` and optionally `uid` and other columns of the label table.
        update: uid -> new text.
        remove: uids or texts.
        engine: address of a database that has the labels; they are changed there, and the folder stays as it is.

    Raises:
        DataError: a label that is not there, or is there already; nothing is changed then.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise no_such_folder(folder, "give a trained folder; for a Hub repository change a copy and push it")
    with alone_in(folder if engine is None else None):
        tagger = XMCPipeline.from_pretrained(folder, engine=engine)
        added: Any = []
        gone_labels: list[str] = []
        try:
            if remove:
                gone_labels = named_labels(tagger.index, remove)
                tagger.remove_labels(gone_labels)
            if update:
                tagger.update_labels(update)
            if add:
                added = tagger.add_labels(add)
        except KeyError as error:
            raise DataError(str(error.args[0]), folder, hint="nothing was changed") from error
        uids = [tagger.index.labels[int(row)]["uid"] for row in added]
        if isinstance(tagger.index, EngineIndex):
            where, gone = str(tagger.index.engine.address), []
        else:
            where, gone = str(folder), save_parts(folder, {"index": tagger.index}, edited=("index", "labels"))
    return Reindexed(tagger.index, gone, len(added), uids, gone_labels, where=where)


def change_label_texts(folder: AnyPath, texts: Mapping[str, Mapping[str, str | Sequence[str]]]) -> Reindexed:
    """Give labels of a trained folder other texts of some kinds, without training; see
    [`XMCPipeline.set_label_texts`].

    This is what `hf-xmc describe` runs. Channels and probabilities stay; metrics of the labels before are removed.

    Args:
        folder: a trained folder.
        texts: uid -> kind -> texts.

    Raises:
        DataError: a label that is not there, an unknown kind or an empty text; nothing is changed then.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise no_such_folder(folder, "give a trained folder; for a Hub repository change a copy and push it")
    with alone_in(folder):
        tagger = XMCPipeline.from_pretrained(folder)
        try:
            tagger.set_label_texts(texts)
        except KeyError as error:
            raise DataError(str(error.args[0]), folder, hint="nothing was changed") from error
        gone = save_parts(folder, {"index": tagger.index}, edited=("index", "labels"))
    return Reindexed(tagger.index, gone, where=str(folder))
