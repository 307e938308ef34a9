"""Adagrad for a table of which each step touches few rows: one number of state per row, rows in half precision."""

from __future__ import annotations

import torch
from torch import Tensor

ROWS = 2**14  # rows updated at a time, so that no float32 copy of many is made
CACHED_ROWS = 2**11  # the same for float32 tables; so few stay in the cache of a processor while they are worked on
EPSILON = 1e-10


def update_rows(
    table: Tensor,
    squares: Tensor,
    ids: Tensor,
    gradients: Tensor,
    learning_rate: float,
    seed: int = 0,
    scale: float = 1.0,
) -> None:
    """One step of row-wise Adagrad, in place, for the rows `ids` alone.

    A row keeps the sum over its steps of the mean square of its gradient; it moves against its gradient, divided by
    the root of that sum. So a row is moved less the more often it was, and one that is touched for the first time
    moves by about `learning_rate` per dimension. This is Adagrad (Duchi, Hazan, Singer 2011) with a state for each row
    in place of each number, as recommenders train their embedding tables: 4 bytes per row, where Adam keeps 8 D.

    Half-precision rows are rounded up or down at random, with chances that keep the mean, so that steps smaller than
    the spacing of their numbers are not lost.

    Args:
        table: `[l, D]`, float32, float16 or bfloat16; changed.
        squares: float32 `[l]`; changed. Zeros to begin with.
        ids: int64 `[c]`, each row once.
        gradients: `[c, D]`. A row whose gradient is zero stays as it is.
        learning_rate: 0.03 suits vectors of unit length.
        seed: of the rounding; another one at each step.
        scale: what the gradients are divided by first, as a scaled loss needs it.

    >>> table, squares = torch.zeros(3, 2), torch.zeros(3)
    >>> update_rows(table, squares, torch.tensor([1]), torch.tensor([[3.0, -3.0]]), learning_rate=0.1)
    >>> table.tolist()[1], squares.tolist()
    ([-0.10000000149011612, 0.10000000149011612], [0.0, 9.0, 0.0])
    """
    generator = torch.Generator(device=table.device).manual_seed(seed)
    exact = table.dtype == torch.float32
    size = CACHED_ROWS if exact else ROWS
    for rows, gradient in zip(ids.split(size), gradients.split(size), strict=True):
        gradient = gradient.to(table.device, torch.float32)
        gradient = gradient if scale == 1 else gradient / scale
        total = squares[rows] + gradient.square().mean(1)  # [c]
        squares[rows] = total
        step = (gradient / (total.sqrt() + EPSILON)[:, None]).mul_(-learning_rate)
        if exact:
            table.index_add_(0, rows, step)
        else:
            table[rows] = rounded_at_random(table[rows].float() + step, table.dtype, generator)


def rounded_at_random(values: Tensor, dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    """Numbers in half precision: one of the two neighbours of each, the nearer one more likely, so that the mean is
    the number itself.

    >>> values = torch.full((10_000,), 1 + 2**-9)  # bfloat16 has 1 and 1 + 2**-7 there
    >>> found = rounded_at_random(values, torch.bfloat16, torch.Generator().manual_seed(0))
    >>> found.unique().tolist(), round(found.float().mean().item(), 3)
    ([1.0, 1.0078125], 1.002)
    """
    nearest = values.to(dtype)
    beyond = values - nearest.float()  # what rounding to the nearest loses
    # Of sign and magnitude, as floats are stored, the next bit pattern is the next number away from zero.
    away = beyond.sign() * nearest.float().sign()
    other = (nearest.view(torch.int16) + away.to(torch.int16)).view(dtype)
    gap = (other.float() - nearest.float()).abs()
    chance = torch.where((gap > 0) & (nearest != 0), beyond.abs() / gap, 0.0)
    draw = torch.rand(values.shape, generator=generator, device=values.device)
    return torch.where(draw < chance, other, nearest)
