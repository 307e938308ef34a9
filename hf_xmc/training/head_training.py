"""A label head while a model is trained: started, moved, saved, and handed back to the model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hf_xmc.errors import SettingsError
from hf_xmc.losses.sharding import Shard
from hf_xmc.modeling import XMCDualEncoderModel
from hf_xmc.modeling.label_head_xmc import LabelHead, catalogue_fingerprint
from hf_xmc.training.adapters import plain_model
from hf_xmc.training.arguments import XMCTrainingArguments
from hf_xmc.training.label_vectors import LabelVectors


class HeadTraining:
    """Trains the per-label vectors of a model with `config.label_head` alongside its weights.

    The optimizer of the Trainer has no part in them: a step moves the few rows that it touched ([`LabelVectors`], at
    `label_head_learning_rate`, with the Trainer's schedule). While training runs they belong to this object, a shard
    on each process; afterwards, and in each checkpoint, the model has them as `label_head`.

    Args:
        model: the model, perhaps with adapters around it.
        args: `label_head_*`.
        ranks: the processes of the run.
        label_counts: training positives of each label, `[L]`; None where nothing is trained.
        label_uids: of the label table, if it has any.

    Raises:
        ModelFolderError: the model has a head over another label table.
    """

    def __init__(
        self,
        model: XMCDualEncoderModel,
        args: XMCTrainingArguments,
        ranks: Shard,
        label_counts: Tensor | None,
        label_uids: list[str] | None,
    ) -> None:
        self.model = plain_model(model)
        self.args = args
        self.vectors: LabelVectors | None = None
        self.moving = False  # training is under way, and the model's own head is behind
        head = self.model.label_head
        if head is not None and label_uids is not None:
            head.check_catalogue(label_uids)
        if self.model.config.label_head is not None and label_counts is not None:
            self.vectors = LabelVectors(
                self.model.config.label_head,
                len(label_counts),
                model.width("label"),
                model.config.normalize,
                args,
                ranks,
                label_counts,
                "" if label_uids is None else catalogue_fingerprint(label_uids),
            )

    def begin(self, texts: Callable[[Tensor], Tensor]) -> None:
        """Start the vectors, from the head that the model came with if there is one.

        Args:
            texts: label ids to the embeddings of their texts, without gradients.

        Raises:
            SettingsError: that head is of another kind than the model is to have.
        """
        if self.vectors is None:
            return
        head, kind = self.model.label_head, self.model.config.label_head
        if head is not None and head.kind != kind:
            raise SettingsError(
                f"The model has a {head.kind} head and is to be trained with a {kind} one",
                hint=f"load it with from_pretrained(..., label_head={kind!r}), which starts a new head, or leave "
                "label_head as it is",
            )
        self.vectors.start(texts, head)
        self.moving = True

    def step(self, optimizer: Any, number: int, scale: float) -> None:
        """Move the vectors, when the optimizer moves the weights.

        Args:
            optimizer: says where the schedule stands.
            number: of the step.
            scale: what the loss was multiplied by.
        """
        if self.vectors is None:
            return
        group = optimizer.param_groups[0]
        factor = group["lr"] / group["initial_lr"] if group.get("initial_lr") else 1.0
        self.vectors.update(factor, number, scale)

    def gradients(self) -> list[Tensor]:
        """The gradients of the vectors that this step touched, `[c, D]`."""
        touched = None if self.vectors is None else self.vectors.touched
        return [] if touched is None or touched[1].grad is None else [touched[1].grad]

    def give(self) -> None:
        """Give the model its head as it is now; all ranks call it."""
        if self.vectors is not None and self.moving:
            self.model.label_head = self.vectors.head()

    def end(self, best: str | None) -> None:
        """Training is over, with the weights of the best checkpoint if there is one: drop what came after it."""
        if self.vectors is not None and best is not None:
            self.moving = False
            self.model.label_head = LabelHead.load(Path(best))

    def embed(self, texts: Tensor) -> Tensor:
        """What queries are ranked by, `[L, D]`: the embeddings of the head if there is one, as in an index."""
        self.give()
        head = self.model.label_head
        return texts if head is None else head.embed(texts, torch.arange(len(texts)))

    def save_state(self, folder: Path, writes: bool) -> None:
        """Write the optimizer state into a checkpoint; all ranks call it."""
        if self.vectors is not None:
            self.vectors.save_state(folder, writes)

    def load(self, folder: Path) -> None:
        """Go on with the vectors and the state of a checkpoint."""
        if self.vectors is not None:
            self.vectors.load(folder)
            self.moving = True
