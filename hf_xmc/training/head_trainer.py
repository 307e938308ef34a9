"""The part of the trainer that looks after a label head: made, moved, saved and brought back with the model."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hf_xmc.data.files import replacing
from hf_xmc.modeling import XMCDualEncoderModel
from hf_xmc.modeling.label_head_xmc import LABEL_HEAD, LabelHead, catalogue_fingerprint
from hf_xmc.training.adapters import has_adapters
from hf_xmc.training.label_vectors import LabelVectors
from hf_xmc.training.ranking import RankingTrainer


class LabelHeadTrainer(RankingTrainer):
    """Trains the vectors of a model with `config.label_head` beside its weights.

    The optimizer of the Trainer has no part in them: a step moves the few rows that it touched
    ([`LabelVectors`], at `label_head_learning_rate`, with the Trainer's schedule). While training runs they belong to
    the trainer, a shard on each process; afterwards, and in each checkpoint, the model has them as `label_head`.
    """

    train_dataset: Any
    vectors: LabelVectors | None = None
    label_uids: Any = None  # of the label table
    vectors_move = False  # training is under way, and the model's own head is behind

    def make_vectors(self, model: XMCDualEncoderModel) -> LabelVectors | None:
        """Room for the vectors, if the model is to have some.

        Raises:
            ValueError: the model has a head over another label table.
        """
        self.remove_callback(MoveVectors)  # of the model before
        head = plain_model(model).label_head
        if head is not None and self.label_uids is not None:
            head.check_catalogue(self.label_uids[:])
        if model.config.label_head is None or self.train_dataset is None:
            return None
        self.add_callback(MoveVectors(self))
        num_labels = len(self.label_tokens)
        return LabelVectors(
            model.config.label_head,
            num_labels,
            model.width("label"),
            model.config.normalize,
            self.args,
            self.ranks,
            torch.from_numpy(self.train_dataset.positives.label_counts(num_labels)).to(torch.int32),
            "" if self.label_uids is None else catalogue_fingerprint(self.label_uids[:]),
        )

    def create_accelerator_and_postprocess(self) -> None:
        super().create_accelerator_and_postprocess()
        prepare_model = self.accelerator.prepare_model

        def prepare(model: Any, device_placement: bool | None = None, evaluation_mode: bool = False) -> Any:
            # Where a classifier alone is trained: on CPUs accelerate wraps it for gradients all the same, which fails.
            untrained = not any(parameter.requires_grad for parameter in model.parameters())
            return prepare_model(model, device_placement, evaluation_mode or untrained)

        self.accelerator.prepare_model = prepare

    def train(self, *args: Any, **kwargs: Any) -> Any:
        done = False
        try:
            output = super().train(*args, **kwargs)
            done = True
            return output
        finally:
            if done or self.ranks.group is None:  # the other processes may be anywhere, and would not answer
                self.give_head()
            self.vectors_move = False

    def give_head(self) -> None:
        """Give the model its head as it is now."""
        if self.vectors is not None and self.vectors_move:
            plain_model(self.model).label_head = self.vectors.head()

    def label_embeddings(self) -> Tensor:
        """What queries are ranked by, float32 on the CPU, `[L, D]`: with a head its embeddings, as in an index."""
        self.give_head()
        head, texts = plain_model(self.model).label_head, super().label_embeddings()
        return texts if head is None else head.embed(texts, torch.arange(len(texts)))

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        self.give_head()
        super().save_model(output_dir, _internal_call)
        head = plain_model(self.model).label_head
        if head is not None and has_adapters(self.model) and self.args.should_save:
            head.save(output_dir or str(self.args.output_dir))  # beside adapters, which are saved alone

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        head = Path(checkpoint_folder, LABEL_HEAD)
        if self.unfinished is None and self.args.should_save and head.is_file():
            with replacing(Path(str(self.args.output_dir), LABEL_HEAD)) as temporary:
                shutil.copy(head, temporary)  # the Trainer takes weights and configuration alone
        super()._push_from_checkpoint(checkpoint_folder)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        if self.vectors is not None:
            self.vectors.save_state(Path(output_dir), self.args.should_save)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if self.vectors is not None and checkpoint is not None:
            self.vectors.load(Path(checkpoint))
            self.vectors_move = True

    def begin_vectors(self) -> None:
        """Vectors to begin with, unless a checkpoint brought them."""
        if self.vectors is not None and not self.vectors_move:
            self.vectors.start(self.encoder.texts_without_gradients, self.head_before())
            self.vectors_move = True

    def head_before(self) -> LabelHead | None:
        """The head that the model came with, to go on from.

        Raises:
            ValueError: it is of another kind than the model is to have.
        """
        head, kind = plain_model(self.model).label_head, self.model.config.label_head
        if head is not None and head.kind != kind:
            raise ValueError(
                f"The model has a {head.kind} head and is to be trained with a {kind} one; load it with "
                f"from_pretrained(..., label_head={kind!r}), which begins anew, or leave label_head as it is."
            )
        return head

    def _load_best_model(self) -> None:
        super()._load_best_model()
        best = self.state.best_model_checkpoint
        if self.vectors is not None and best is not None:
            self.vectors_move = False  # what was learned after the best checkpoint is dropped
            plain_model(self.model).label_head = LabelHead.load(Path(best))


class MoveVectors(TrainerCallback):
    """Moves the vectors when the optimizer moves the weights."""

    def __init__(self, trainer: LabelHeadTrainer) -> None:
        self.trainer = trainer

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.trainer.begin_vectors()

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        trainer: Any = self.trainer
        group = trainer.optimizer.param_groups[0]
        factor = group["lr"] / group["initial_lr"] if group.get("initial_lr") else 1.0  # where the schedule stands
        scaler = getattr(trainer.accelerator, "scaler", None)
        trainer.vectors.update(factor, state.global_step, 1.0 if scaler is None else scaler.get_scale())


def plain_model(model: Any) -> XMCDualEncoderModel:
    """The dual encoder itself, also where adapters are around it."""
    return model.get_base_model() if has_adapters(model) else model
