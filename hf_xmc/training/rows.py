"""Operations on the rows of large matrices that read and write them as few times as they can.

A step over all labels of a catalogue passes over matrices of tens of megabytes, and takes as long as that does.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

SMALLEST = 1e-12  # as in torch's `normalize`


def unit_rows(one: Tensor, other: Tensor | None = None) -> Tensor:
    """The rows of a matrix, or of the sum of two, scaled to unit length; float32 `[n, D]`. A zero row stays zero, and
    so does its gradient: it has no direction, and divided by its length the gradient would be enormous.

    >>> unit_rows(torch.tensor([[3.0, 0.0], [0.0, 0.0]]), torch.tensor([[0.0, 4.0], [0.0, 0.0]])).tolist()
    [[0.6000000238418579, 0.800000011920929], [0.0, 0.0]]
    """
    return UnitRows.apply(one, other)


class UnitRows(torch.autograd.Function):
    """See `unit_rows`. With y = x / |x| the gradient is (g - y (y . g)) / |x|."""

    @staticmethod
    def forward(ctx: Any, one: Tensor, other: Tensor | None) -> Tensor:
        found = one.float().clone() if other is None else torch.add(one.float(), other.float())
        length = torch.linalg.vector_norm(found, dim=1, keepdim=True).clamp_(min=SMALLEST)  # [n, 1]
        found.div_(length)
        ctx.save_for_backward(found, length)
        ctx.dtypes = one.dtype, None if other is None else other.dtype
        return found

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor | None]:
        unit, length = ctx.saved_tensors
        along = torch.linalg.vecdot(unit, gradient, dim=1)[:, None]  # [n, 1]
        found = torch.addcmul(gradient, unit, along, value=-1).div_(length).mul_(length > SMALLEST)
        first, second = ctx.dtypes
        return found.to(first), None if second is None else found.to(second)
