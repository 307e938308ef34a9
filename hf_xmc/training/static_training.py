"""The table of a static tower while it is trained: each step moves the few rows that it touched."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import normalize

from hf_xmc.losses.sharding import Shard
from hf_xmc.modeling.modeling_xmc import Side
from hf_xmc.modeling.ngrams_xmc import Features, Taken
from hf_xmc.modeling.static_tower_xmc import StaticTower, sums
from hf_xmc.sampling.draws import LAST, random_keys
from hf_xmc.training.arguments import XMCTrainingArguments
from hf_xmc.training.row_adagrad import update_rows

STATE = "static_tower_optimizer.safetensors"
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
        return normalize(Sum.apply(torch.ones((), requires_grad=True), self, *bag).float(), dim=-1)

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
        touched, self.touched = self.touched, []
        rows, gradients = of_rows(touched, self.tower.table)
        if self.ranks.group is not None:
            rows, gradients = summed(self.ranks.gather(rows), self.ranks.gather(gradients))
        if not bool(torch.isfinite(gradients).all()):
            return
        group = optimizer.param_groups[0]
        factor = group["lr"] / group["initial_lr"] if group.get("initial_lr") else 1.0
        rate, seed = factor * self.args.static_learning_rate, self.args.seed + 1_000_003 * number
        update_rows(self.tower.table.data, self.squares, rows, gradients / scale, rate, seed)

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
        ctx.training.touched.append(Touched(*ctx.bag, gradients[0]))
        return (None,) * 5


def of_rows(touched: list[Touched], table: Tensor) -> tuple[Tensor, Tensor]:
    """The rows that a step touched, each once, int64 `[c]`, and their gradients, `[c, S]`."""
    if not touched:
        return torch.zeros(0, dtype=torch.int64, device=table.device), table.new_zeros(0, table.shape[1]).float()
    gradients = torch.cat([part.gradients for part in touched]).float()  # [texts, S]
    lengths = torch.cat([part.indptr.diff() for part in touched])  # [texts]
    text = torch.arange(len(lengths), device=table.device).repeat_interleave(lengths)  # [m]
    rows = torch.cat([part.rows for part in touched])
    return summed(rows, gradients, text, torch.cat([part.weights for part in touched]).float())


def summed(
    rows: Tensor, gradients: Tensor, source: Tensor | None = None, weights: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The sum of the gradients of each row, in a fixed order: the rows, ascending, `[c]`, and the sums, `[c, S]`.

    Args:
        rows: int64 `[m]`, not sorted.
        gradients: `[n, S]`.
        source: which gradient belongs to each of `rows`, int64 `[m]`; by default one after the other.
        weights: of it, `[m]`; by default ones.

    >>> rows, sums = summed(torch.tensor([7, 3, 7]), torch.eye(2), torch.tensor([0, 0, 1]), torch.ones(3))
    >>> rows.tolist(), sums.tolist()
    ([3, 7], [[1.0, 0.0], [1.0, 1.0]])
    """
    found, order = rows.to(torch.int32).sort(stable=True)
    unique, counts = found.unique_consecutive(return_counts=True)
    indptr = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    source = order if source is None else source[order]
    weights = gradients.new_ones(len(rows)) if weights is None else weights[order]
    return unique.long(), sums(gradients, source, weights, indptr)
