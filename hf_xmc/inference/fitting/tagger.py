"""Training a tagger: from a data set and an encoder to a complete folder."""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from transformers import AutoConfig, set_seed

from hf_xmc.data.arrow import read_parquet
from hf_xmc.data.dataset import XMCDataset
from hf_xmc.data.growing import grow_catalogue
from hf_xmc.data.transaction import transaction
from hf_xmc.errors import SettingsError
from hf_xmc.hub.folder import load_model, pipeline_parts, save_parts
from hf_xmc.hub.run import RUN, describe_run, read_json
from hf_xmc.inference.evaluation.evaluate import metrics_document, predict_split, score
from hf_xmc.inference.loading import AnyDataset, AnyPath, as_dataset
from hf_xmc.inference.pipeline import XMCPipeline
from hf_xmc.modeling import XMCDualEncoderConfig, XMCDualEncoderModel
from hf_xmc.modeling.configuration_xmc import SETTINGS
from hf_xmc.modeling.modeling_xmc import HUB_OPTIONS
from hf_xmc.retrieval.folder import loading_encoder
from hf_xmc.retrieval.index import ABOUT, LABELS
from hf_xmc.retrieval.knowledge import KNOWLEDGE, Knowledge
from hf_xmc.training.arguments import XMCTrainingArguments
from hf_xmc.training.checkpoints import last_checkpoint
from hf_xmc.training.trainer import XMCTrainer

logger = logging.getLogger(__name__)

K = 5
VALIDATIONS = ("held_out", "none")
NO_ENCODER = "none"  # in place of an encoder's name: the model has a static tower alone
LOADING = ("attn_implementation", "label_encoder", *HUB_OPTIONS)  # of a model, in addition to its settings


def train_tagger(
    dataset: AnyDataset,
    model_name_or_path: str,
    output_dir: AnyPath | None = None,
    args: XMCTrainingArguments | None = None,
    seed: int | None = None,
    callbacks: Sequence[Any] = (),
    peft_config: Any = None,
    validation: str = "held_out",
    enrich: AnyPath | None = None,
    **model_settings: Any,
) -> XMCPipeline | None:
    """Train a tagger and write its folder: model, label index, `run.json`, metrics on validation and model card.

    This is what `hf-xmc train` runs. Every random choice follows from the seed, the initialisation of new weights
    included.

    Args:
        dataset: a data set, its folder, or its name.
        model_name_or_path: an encoder (any that `AutoModel` loads), or a trained folder to train further. Of a folder
            the catalogue is kept, with the labels that are new in the data after it.
        output_dir: the folder to write; by default that of `args`, or `outputs/run`.
        args: settings of the training. They are not changed.
        seed: overrides `args.seed`.
        callbacks: further callbacks for the trainer.
        peft_config: adapters to train in place of the whole encoder (peft's `LoraConfig`); they are merged when saved.
        validation: `"none"` to train on the validation queries as well. The last weights are then kept, nothing is
            measured, and the card says so.
        enrich: a table of strings and texts ([`Knowledge.read`]): the texts of the strings that stand in a query are
            read behind it. It is stored with the model. A folder that is trained further keeps its own.
        **model_settings: fields of [`XMCDualEncoderConfig`], such as `projection_dim=256`, and `attn_implementation`.

    Raises:
        SettingsError: an unknown setting.
        ModelFolderError: no such encoder, or one that transformers cannot load.

    Returns:
        The trained tagger; None on all processes but the first, if there are several.

    Example:

        args = XMCTrainingArguments("outputs/run", label_strategy="in_batch", learning_rate=3e-4, num_train_epochs=2)
        tagger = train_tagger("sample", "sentence-transformers/all-MiniLM-L6-v2", args=args)
        tagger("Aligns short reads to a reference genome")
    """
    args = XMCTrainingArguments(str(output_dir or "outputs/run")) if args is None else copy.copy(args)
    args.output_dir = str(output_dir or args.output_dir or "outputs/run")
    args.seed = args.seed if seed is None else seed
    folder = Path(args.output_dir)
    data, kept = over_earlier_labels(as_dataset(dataset), model_name_or_path)
    if args.soft_positives == "none":
        data = replace(data, soft=None)
    elif args.soft_positives != "all":
        sources = [name.strip() for name in args.soft_positives.split(",")]
        data = replace(data, soft=data.soft_positives(sources))
    if validation not in VALIDATIONS:
        raise SettingsError(f"validation is {validation!r}; expected one of {', '.join(VALIDATIONS)}")
    if validation == "none":
        data = data.with_validation_in_training()
    model = new_model(model_name_or_path, data.max_lengths, args.seed, **model_settings)
    model.knowledge = knowledge = knowledge_for(enrich, model_name_or_path)
    trainer = XMCTrainer(
        model=model,
        args=args,
        train_dataset=data.queries["train"],
        eval_dataset=data.queries["validation"],
        label_dataset=data.labels,
        train_ignored=data.filters.get("train"),
        train_soft=data.soft,
        eval_ignored=data.filters.get("validation"),
        peft_config=peft_config,
        callbacks=[*callbacks],
    )
    seconds = trainer.train(resume_from_checkpoint=checkpoint_of(args, folder)).metrics["train_runtime"]
    pushes, trainer.args.push_to_hub = args.push_to_hub, False  # the complete folder is pushed below
    if not trainer.is_world_process_zero():
        trainer.save_model(str(folder))  # takes part in what the first process saves
        return None
    with transaction(folder) as staging:  # the model and what belongs to it
        trainer.save_model(str(folder))
        if peft_config is not None:  # the index belongs to the weights that were saved, adapters merged into them
            saved: Any = load_model(staging, dtype="float32")
            model = saved.to(args.device)
            model.knowledge = knowledge
        tagger = XMCPipeline.build(model, data.labels)
        tagger.passages = trainer.passages
        if kept is not None:
            tagger.remove_labels(still_removed(data, Path(model_name_or_path)))
        # A model that was trained further keeps the name of its encoder and the settings of its first stage.
        before = read_json(Path(model_name_or_path) / RUN)
        earlier = {"first_stage": before["arguments"]} if before.get("arguments") else {}
        if "none" in (validation, before.get("validation")):
            earlier["validation"] = "none"
        if kept is not None and kept < data.num_labels:
            earlier["catalogue"] = {"kept": kept, "new": data.num_labels - kept}
        source = before.get("encoder") or model_name_or_path
        tagger.run = describe_run(data, args, source, seconds, **earlier)
        save_trained(tagger, folder, measure_validation(tagger, data, args.seed, seconds))
    if pushes:
        trainer.push_folder(folder)
    return tagger


def knowledge_for(enrich: AnyPath | None, earlier: str | Path | None) -> Knowledge | None:
    """The knowledge of a table, or of a trained folder; None if there is neither."""
    if enrich is not None:
        return Knowledge.read(enrich)
    found = earlier is not None and (Path(earlier) / KNOWLEDGE).is_file()
    return Knowledge.from_pretrained(str(earlier)) if found else None


def over_earlier_labels(data: XMCDataset, model_name_or_path: str) -> tuple[XMCDataset, int | None]:
    """The data set over the catalogue of the trained folder that training starts from, followed by its new labels, so
    that no label is lost; and how many labels the folder has, None if it is not one."""
    path = Path(model_name_or_path) / LABELS
    if not path.is_file():
        return data, None
    grown = grow_catalogue(old := read_parquet(path), data)
    if grown is not data:
        logger.warning(
            f"{len(old):,} labels of {model_name_or_path} kept, {grown.num_labels - len(old):,} new; "
            f"{data.num_labels:,} of them are in {data.name}"
        )
    return grown, len(old)


def still_removed(data: XMCDataset, folder: Path) -> list[int]:
    """Labels that were removed from the catalogue of a trained folder, and that no query of the new data has."""
    ids = np.asarray(read_json(folder / ABOUT).get("removed", []), dtype=np.int64)
    used = np.zeros(data.num_labels, dtype=bool)
    for split in data.queries:
        used[data.positives(split).indices] = True
    return ids[~used[ids]].tolist()


def save_trained(tagger: XMCPipeline, folder: Path, metrics: dict[str, Any] | None) -> None:
    """Write everything but the model, which the trainer wrote, and remove what belonged to an earlier model."""
    parts = pipeline_parts(tagger)
    del parts["model"]
    save_parts(folder, {**parts, "metrics": metrics})


def measure_validation(
    tagger: XMCPipeline, data: XMCDataset, seed: int | None, train_seconds: float | None, batch_size: int = 64
) -> dict[str, Any] | None:
    """The content of `metrics.json` on the validation split; None if it has no queries."""
    if not len(data.queries["validation"]):
        return None
    found = score(predict_split(tagger, data, "validation", K, batch_size), data, "validation")
    return metrics_document(found, data, "validation", K, seed=seed, train_seconds=train_seconds)


def new_model(model_name_or_path: str, max_lengths: dict[str, int], seed: int, **settings: Any) -> XMCDualEncoderModel:
    """A trained dual encoder to train further, or a new one from an encoder.

    Args:
        model_name_or_path: `"none"` for a static tower alone.
        max_lengths: tokens of queries and labels that papers on the data set use, for a new model.
        seed: of weights that the checkpoint does not have.
        **settings: fields of [`XMCDualEncoderConfig`], and how to load the encoder (`attn_implementation`, ...).

    Raises:
        SettingsError: an unknown setting.
        ModelFolderError: no such encoder, or one that transformers cannot load.
    """
    known = (*SETTINGS, *LOADING)
    if unknown := sorted({*settings} - {*known}):
        raise SettingsError(f"unknown setting {unknown[0]!r}", hint=f"there are {', '.join(known)}")
    set_seed(seed)  # new weights follow from it, in whichever way the model is made
    usual = {f"max_{side}_length": length for side, length in max_lengths.items()}
    if model_name_or_path == NO_ENCODER:
        return XMCDualEncoderModel.from_encoder(None, **settings)
    with loading_encoder(model_name_or_path):
        if isinstance(AutoConfig.from_pretrained(model_name_or_path), XMCDualEncoderConfig):
            return XMCDualEncoderModel.from_pretrained(model_name_or_path, dtype="float32", **settings)
        return XMCDualEncoderModel.from_encoder(model_name_or_path, **{**usual, **settings})


def checkpoint_of(args: XMCTrainingArguments, folder: Path) -> str | bool | None:
    """What `resume_from_checkpoint` asks for, as the Trainer takes it: a folder; `true` for the last checkpoint of the
    run; or `auto` for the last one if there is any, so that the same command starts and resumes a run."""
    given = str(args.resume_from_checkpoint).lower()
    if given == "auto":
        return last_checkpoint(folder)
    return {"true": True, "false": False}.get(given, args.resume_from_checkpoint)
