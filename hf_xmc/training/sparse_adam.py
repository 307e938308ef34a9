"""Adam for a table of which each step touches few rows, as the code of NGAME trains its classifiers."""

from __future__ import annotations

import torch
from torch import Tensor

from hf_xmc.training.row_adagrad import ROWS, rounded_at_random

BETAS = 0.9, 0.999
EPSILON = 1e-8


def update_rows_by_adam(
    table: Tensor,
    means: Tensor,
    squares: Tensor,
    ids: Tensor,
    gradients: Tensor,
    learning_rate: float,
    count: int,
    seed: int = 0,
    scale: float = 1.0,
) -> None:
    """One step of `torch.optim.SparseAdam`, in place: only the rows `ids` move, and only their moments decay.

    Half-precision rows are rounded up or down at random, as in `row_adagrad`.

    Args:
        table: `[l, D]`, float32, float16 or bfloat16; changed.
        means, squares: float32 `[l, D]`, the moments; changed. Zeros to begin with.
        ids: int64 `[c]`, each row once.
        gradients: `[c, D]`.
        count: number of this step, from 1, for the correction of the moments' bias.
        seed: of the rounding; another one at each step.
        scale: what the gradients are divided by first, as a scaled loss needs it.

    >>> table, means, squares = torch.zeros(3, 2), torch.zeros(3, 2), torch.zeros(3, 2)
    >>> update_rows_by_adam(table, means, squares, torch.tensor([1]), torch.tensor([[3.0, -1.0]]), 0.1, count=1)
    >>> table.round(decimals=4).tolist()
    [[0.0, 0.0], [-0.10000000149011612, 0.10000000149011612], [0.0, 0.0]]
    """
    generator = torch.Generator(device=table.device).manual_seed(seed)
    first, second = BETAS
    rate = learning_rate * (1 - second**count) ** 0.5 / (1 - first**count)
    for rows, gradient in zip(ids.split(ROWS), gradients.split(ROWS), strict=True):
        gradient = gradient.to(table.device, torch.float32) / scale
        mean = means[rows].lerp_(gradient, 1 - first)
        square = squares[rows].lerp_(gradient.square(), 1 - second)
        means[rows], squares[rows] = mean, square
        step = mean / (square.sqrt() + EPSILON) * -rate
        if table.dtype == torch.float32:
            table.index_add_(0, rows, step)
        else:
            table[rows] = rounded_at_random(table[rows].float() + step, table.dtype, generator)
