"""The table of a static tower while it is trained: each step moves the few rows that it touched."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from hf_xmc.losses.sharding import Shard
from hf_xmc.modeling.modeling_xmc import Side
from hf_xmc.modeling.ngrams_xmc import Features, Taken
from hf_xmc.modeling.static_tower_xmc import StaticTower, sums
from hf_xmc.sampling.draws import LAST, random_keys
from hf_xmc.training.arguments import XMCTrainingArguments
from hf_xmc.training.row_adagrad import update_rows
from hf_xmc.training.rows import unit_rows

STATE = "static_tower_optimizer.safetensors"
PART = 2**12  # rows whose gradients are summed at a time, so that those of all rows never lie in memory
SALT = {"query": 0, "label": 0x5EED}  # so that a query and a label of the same number lose different features


class StaticTraining:
    """Trains a [`StaticTower`] alongside the weights of the Trainer, whose optimizer has no part in it.

    A step moves the rows of the features that its texts have by row-wise Adagrad at `static_learning_rate`, with the
    Trainer's schedule. No gradient of the whole table is ever made: texts remember what they are made of, and the
    gradients of rows are summed from those of the texts when the step is over. All processes hold the whole table, and
    move it alike.

    In training each text loses some of its features (`static_dropout`), by a hash of seed, step, text and feature; so
    that micro-batches, processes and a restart change nothing.

    Args:
        tower: the tower, whose table is changed in place.
        args: `static_learning_rate`, `static_dropout`, `disable_dropout`, `seed`.
        ranks: the processes of the run.
        trained: False leaves the tower as it is.
    """

    def __init__(self, tower: StaticTower, args: XMCTrainingArguments, ranks: Shard, trained: bool = True) -> None:
        self.tower = tower
        self.args = args
        self.ranks = ranks
        self.trained = trained and args.static_learning_rate > 0
        self.squares = torch.zeros(len(tower), device=args.device)
        self.number = 0  # of the step that is under way
        self.touched: list[Touched] = []

    def begin(self) -> None:
        """Start from the table as it is."""
        self.squares.zero_()
        self.touched = []

    def embed(self, features: Features, rows: np.ndarray, side: Side) -> Tensor:
        """Vectors of texts, float32 `[n, S]`. Where gradients are enabled, the features that were not dropped are
        moved at the end of the step.

        Args:
            features: of a table of texts.
            rows: of the texts in it, int `[n]`.
            side: of the table.
        """
        if not (self.trained and torch.is_grad_enabled()):
            return self.tower.embed(features, rows)
        taken = features.take(rows)
        bag = self.tower.bag(taken, self.kept(taken, side))
        return unit_rows(Sum.apply(torch.ones((), requires_grad=True), self, *bag))

    def kept(self, taken: Taken, side: Side) -> np.ndarray | None:
        """Which features of texts stay in this step, `[m]`."""
        if self.args.static_dropout == 0 or self.args.disable_dropout:
            return None
        text = torch.from_numpy(np.repeat(taken.texts, np.diff(taken.indptr)))  # [m]
        keys = random_keys(text, torch.from_numpy(taken.ids), self.args.seed + SALT[side], self.number)
        return (keys >= int(self.args.static_dropout * LAST)).numpy()

    def step(self, optimizer: Any, number: int, scale: float) -> None:
        """Move the rows of this step, when the optimizer moves the weights; all ranks call it.

        Args:
            optimizer: says where the schedule stands.
            number: of the step, for the rounding of a table in half precision.
            scale: what the loss was multiplied by (fp16); a step whose gradients overflowed changes nothing.
        """
        if not self.trained:
            return
        overflowed = any(not bool(torch.isfinite(part.gradients.sum())) for part in self.touched)
        device = self.tower.table.device
        if self.ranks.max_(torch.tensor([overflowed], dtype=torch.int32, device=device)).any():
            self.touched = []
            return
        touched, self.touched = self.touched, []
        parts = row_gradients(touched, self.tower.table)
        if self.ranks.group is not None:
            found = [torch.cat(part) for part in zip(*parts, strict=True)]
            rows, gradients = (self.ranks.gather(part) for part in found)
            parts = summed(rows, gradients, torch.arange(len(rows), device=rows.device), None)
        group = optimizer.param_groups[0]
        factor = group["lr"] / group["initial_lr"] if group.get("initial_lr") else 1.0
        rate, seed = factor * self.args.static_learning_rate, self.args.seed + 1_000_003 * number
        for rows, gradients in parts:
            update_rows(self.tower.table.data, self.squares, rows, gradients, rate, seed, scale)

    def end(self, best: str | None) -> None:
        """Training is over, with the weights of the best checkpoint if there is one: drop what came after it, and
        round the table to what is saved."""
        if best is not None:
            self.load(Path(best))
        self.touched = []
        self.tower.round_to_half()

    def save_state(self, folder: Path) -> None:
        """Write the table, which the model's own file holds in half precision, and the optimizer state."""
        found = {"squares": self.squares, "table": self.tower.table}
        save_file({name: x.detach().cpu().contiguous() for name, x in found.items()}, folder / STATE)

    def load(self, folder: Path) -> None:
        """Read what `save_state` wrote; a checkpoint that was written with `save_only_model` has the weights alone."""
        self.begin()
        if (folder / STATE).is_file():
            found = load_file(folder / STATE)
            self.squares.copy_(found["squares"])
            self.tower.table.data.copy_(found["table"])


class Touched(NamedTuple):
    """What n texts of a step are made of, see `StaticTower.bag`, and the gradients of their sums, `[n, S]`."""

    rows: Tensor
    weights: Tensor
    indptr: Tensor
    gradients: Tensor


class Sum(torch.autograd.Function):
    """The weighted sum of the rows of each text, `[n, S]`; in the backward pass its gradient is put aside."""

    @staticmethod
    def forward(
        ctx: Any, one: Tensor, training: StaticTraining, rows: Tensor, weights: Tensor, indptr: Tensor
    ) -> Tensor:
        ctx.training, ctx.bag = training, (rows, weights, indptr)
        return sums(training.tower.table, rows, weights, indptr)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, ...]:
        rows, weights, indptr = ctx.bag
        ctx.training.touched.append(Touched(rows, weights, indptr, gradients[0]))
        return (None,) * 5


def row_gradients(touched: list[Touched], table: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """The gradients of the rows that a step touched; see `summed`."""
    device = table.device
    empty, start = (torch.zeros(n, dtype=torch.int64, device=device) for n in (0, 1))
    none = Touched(empty, empty, start, table.new_zeros(0, table.shape[1]))
    touched = touched or [none]
    gradients = torch.cat([part.gradients for part in touched]).float()  # [texts, S]
    lengths = torch.cat([part.indptr.diff() for part in touched])  # [texts]
    text = torch.arange(len(lengths), device=device).repeat_interleave(lengths)  # [m]
    rows = torch.cat([part.rows for part in touched])
    return summed(rows, gradients, text, torch.cat([part.weights for part in touched]).float())


def summed(rows: Tensor, gradients: Tensor, source: Tensor, weights: Tensor | None) -> Iterator[tuple[Tensor, Tensor]]:
    """The sum of the gradients of each row, in a fixed order, a few thousand rows at a time: rows, each once and
    ascending, `[c]`, and their sums, `[c, S]`. At least one part, which may be empty.

    Args:
        rows: int64 `[m]`, not sorted.
        gradients: `[n, S]`.
        source: which gradient belongs to each of `rows`, int64 `[m]`.
        weights: of it, `[m]`; None for ones.

    >>> rows, sums = next(summed(torch.tensor([7, 3, 7]), torch.eye(2), torch.tensor([0, 0, 1]), None))
    >>> rows.tolist(), sums.tolist()
    ([3, 7], [[1.0, 0.0], [1.0, 1.0]])
    """
    found, order = rows.to(torch.int32).sort(stable=True)
    unique, counts = found.unique_consecutive(return_counts=True)
    ends = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    source = source[order]
    weights = gradients.new_ones(len(rows)) if weights is None else weights[order]
    for start in range(0, max(len(unique), 1), PART):
        bounds = ends[start : start + PART + 1]
        inside = slice(int(bounds[0]), int(bounds[-1]))
        some = sums(gradients, source[inside], weights[inside], bounds - bounds[0])
        yield unique[start : start + PART].long(), some
