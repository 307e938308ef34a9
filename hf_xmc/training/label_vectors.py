"""Per-label vectors while they are trained: a shard on each process, of which a step touches few rows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from hf_xmc.errors import SettingsError
from hf_xmc.losses.sharding import Shard
from hf_xmc.modeling.label_head_xmc import LabelHead
from hf_xmc.training.arguments import XMCTrainingArguments
from hf_xmc.training.distributed import part
from hf_xmc.training.row_adagrad import ROWS, update_rows
from hf_xmc.training.rows import unit_rows
from hf_xmc.training.sparse_adam import update_rows_by_adam

STATE = "label_head_optimizer.safetensors"


class LabelVectors:
    """The vectors of a [`LabelHead`], and what the losses see of them.

    Rank r holds the vectors of labels [r*L/W, (r+1)*L/W) and their optimizer state, one number each (with
    `label_head_optimizer sparse_adam` two of each dimension); it is the one that compares these labels with the
    queries, so that neither vectors nor gradients travel. Only the rows of a step's candidates are read and written.

    The loss of a step is `label_head_loss_weight` times that over the head's label embeddings plus the rest times that
    over the embeddings of the texts alone, on the same candidates: the text embeddings keep working without the
    head, as new labels need it, while vectors learn what texts do not say. With a classifier this is UniDEC's joint
    training (Kharbanda et al. 2024: one loss shared by encoder and classifier), and with a weight of 1 NGAME's second
    stage. `docs/experiments.md` has the measurements.

    Args:
        kind: `"residual"` or `"classifier"`.
        num_labels, dim: L and D.
        unit: whether label embeddings have unit length (`config.normalize`).
        args: `label_head_loss_weight`, `label_head_dtype`, `label_head_learning_rate`, `label_head_optimizer`, `seed`.
        ranks: the processes of the run.
        label_counts: training positives of each label, `[L]`.
        catalogue: fingerprint of the label table.
    """

    def __init__(
        self,
        kind: str,
        num_labels: int,
        dim: int,
        unit: bool,
        args: XMCTrainingArguments,
        ranks: Shard,
        label_counts: Tensor,
        catalogue: str,
    ) -> None:
        self.kind = kind
        self.unit = unit
        self.args = args
        self.ranks = ranks
        self.label_counts = label_counts
        self.catalogue = catalogue
        self.own = part(num_labels, ranks)  # label ids of this rank
        size, dtype = self.own.stop - self.own.start, getattr(torch, args.label_head_dtype)
        self.rows = torch.zeros(size, dim, dtype=dtype, device=args.device)
        self.by_adam = args.label_head_optimizer == "sparse_adam"
        self.squares = torch.zeros(*((size, dim) if self.by_adam else (size,)), device=args.device)
        self.means = torch.zeros(size if self.by_adam else 0, dim, device=args.device)
        self.touched: tuple[Tensor, Tensor] | None = None  # rows of this step [c], and their leaf [c, D]

    @property
    def weights(self) -> list[float]:
        """Weight in the loss of each matrix that `views` puts side by side: the head's, then that of the texts."""
        share = self.args.label_head_loss_weight
        return [weight for weight in (share, 1 - share) if weight > 0]

    @property
    def needs_texts(self) -> bool:
        """Whether a step has to encode label texts."""
        return self.kind == "residual" or self.args.label_head_loss_weight < 1

    def part(self, ids: Tensor | None) -> slice:
        """Which of these sorted label ids (of all for `None`) are this rank's."""
        if ids is None:
            return self.own
        bounds = torch.tensor([self.own.start, self.own.stop], device=ids.device)
        start, stop = torch.searchsorted(ids, bounds).tolist()
        return slice(start, stop)

    def views(self, texts: Tensor | None, ids: Tensor | None) -> Tensor:
        """What the loss compares queries with, side by side, `[c, D]` or `[c, 2 D]`, with gradients.

        Args:
            texts: embeddings of the label texts, `[c, D]`; None where they are not needed.
            ids: labels of this rank, each once, `[c]`; all of this rank's for `None`.
        """
        rows = self.local(ids)
        # All of them without a copy: nothing moves them before the step is over.
        own = self.rows.detach() if ids is None else self.rows[rows]
        leaf = own.float().requires_grad_(torch.is_grad_enabled())  # [c, D]
        if torch.is_grad_enabled():
            self.touched = rows, leaf
        found = [self.embed(texts, leaf)] if self.args.label_head_loss_weight > 0 else []
        if self.args.label_head_loss_weight < 1:
            assert texts is not None
            found.append(texts.float())
        return found[0] if len(found) == 1 else torch.cat(found, 1)

    def embed(self, texts: Tensor | None, vectors: Tensor) -> Tensor:
        """The embeddings that the head is trained by, `[c, D]`: of a classifier the vectors alone."""
        other = texts if self.kind == "residual" else None
        assert self.kind == "classifier" or other is not None
        if self.unit:
            return unit_rows(vectors, other)
        return vectors if other is None else other.float() + vectors

    def local(self, ids: Tensor | None) -> Tensor:
        """Rows of the shard, `[c]`."""
        if ids is None:
            return torch.arange(len(self.rows), device=self.rows.device)
        return ids.to(self.rows.device) - self.own.start

    def update(self, factor: float, step: int, scale: float = 1.0) -> None:
        """Move the vectors of this step's candidates; all ranks call it.

        Args:
            factor: of the learning rate, as the schedule has it.
            step: its number, for the rounding.
            scale: what the loss was multiplied by (fp16); a step whose gradients overflowed changes nothing.
        """
        touched, self.touched = self.touched, None
        gradients = None if touched is None or touched[1].grad is None else touched[1].grad
        overflowed = gradients is not None and not bool(torch.isfinite(gradients.sum()))
        if self.ranks.max_(torch.tensor([overflowed], dtype=torch.int32, device=self.rows.device)).any():
            return
        if touched is not None and gradients is not None:
            rate = factor * self.args.label_head_learning_rate
            seed = self.args.seed + 1_000_003 * step
            if self.by_adam:
                state = self.rows, self.means, self.squares
                update_rows_by_adam(*state, touched[0], gradients, rate, step + 1, seed, scale)
            else:
                update_rows(self.rows, self.squares, touched[0], gradients, rate, seed, scale)

    @torch.no_grad()
    def start(self, texts: Callable[[Tensor], Tensor], before: LabelHead | None = None) -> None:
        """Start at zero, so that label embeddings are those of their texts (residual), or at the text embeddings
        (classifier). Labels that have a vector in a head of this kind, trained before over the first rows of the same
        label table, keep it.

        Args:
            texts: label ids of this rank to the embeddings of their texts.
        """
        self.squares.zero_()
        self.means.zero_()
        self.touched = None
        known = 0 if before is None else min(max(len(before) - self.own.start, 0), len(self.rows))
        ids = torch.arange(self.own.start + known, self.own.stop, device=self.rows.device)
        if self.kind == "residual":
            self.rows[known:] = 0  # the others stay: `before` may be a view of them, of an earlier training
        elif len(ids):
            for some in ids.split(ROWS):
                self.rows[self.local(some)] = texts(some).to(self.rows)
        if before is not None:
            self.rows[:known] = before.vectors[self.own][:known].to(self.rows)

    def head(self) -> LabelHead:
        """All vectors, brought together from all ranks, on the CPU; all ranks call it."""
        vectors = self.ranks.gather(self.rows).cpu()
        return LabelHead(self.kind, vectors, self.label_counts, self.catalogue, normalize=self.unit)

    def save_state(self, folder: Path, writes: bool) -> None:
        """Write the optimizer state of all ranks into a checkpoint; the vectors are saved with the model."""
        state = {"squares": self.ranks.gather(self.squares).cpu()}
        if self.by_adam:
            state["means"] = self.ranks.gather(self.means).cpu()
        if writes:
            save_file(state, folder / STATE)

    def load(self, folder: Path) -> None:
        """Read vectors and state of a checkpoint; one that was written with `save_only_model` has no state.

        Raises:
            SettingsError: the vectors are of another kind, or of another number of labels.
        """
        head = LabelHead.load(folder)
        if (head.kind, len(head)) != (self.kind, len(self.label_counts)):
            raise SettingsError(
                f"{folder} holds a {head.kind} head of {len(head):,} labels, but this run has a {self.kind} head of "
                f"{len(self.label_counts):,}; resume with the label table and the label_head of the run that wrote it."
            )
        self.rows.copy_(head.vectors[self.own])
        self.squares.zero_()
        self.means.zero_()
        if not (folder / STATE).is_file():
            return
        state = load_file(folder / STATE)
        if ("means" in state) != self.by_adam:
            raise SettingsError(
                f"{folder} was written with another label_head_optimizer than {self.args.label_head_optimizer}",
                hint="resume with the one of the run that wrote it",
            )
        self.squares.copy_(state["squares"][self.own])
        if self.by_adam:
            self.means.copy_(state["means"][self.own])
