"""The driver of losses that compare the queries of a label: the [B, C] scores, a block of whole columns at a time.

As the rows in `streaming`, whole columns give value and gradient at once: three matrix products. Ranks hold different
labels and the queries of all ranks, so that a column is never split.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from hf_xmc.losses.pairs import Batch, Pairs
from hf_xmc.losses.products import score_tile, times_labels
from hf_xmc.losses.streaming import MEMORY_BUDGET


@dataclass
class Block:
    """Whole columns of the score matrix, `[B, c]`, and the pairs in them, whose columns count from its first one.

    The loss leaves the gradient of the scores in `scores`.
    """

    scores: torch.Tensor
    pairs: Pairs  # positives
    removed: Pairs  # pairs that take no part


# Takes a block and returns the loss of each column, `[c]`, with its gradient in `block.scores`.
ColumnLoss = Callable[[Block], torch.Tensor]


def stream_columns(
    columns: ColumnLoss,
    queries: torch.Tensor,
    labels: torch.Tensor,
    batch: Batch,
    count: torch.Tensor,
    temperature: float,
    chunk_size: int | None = None,
) -> torch.Tensor:
    """Sum of a column loss over the labels of all ranks, divided by `count`; types as in `streaming.stream`.

    Args:
        chunk_size: number of labels in a block; by default as many as give 64 MiB of scores.
    """
    device = queries.device.type
    dtype = torch.promote_types(queries.dtype, labels.dtype)
    if torch.is_autocast_enabled(device) and dtype != torch.float64:
        dtype = torch.get_autocast_dtype(device)
    with torch.autocast(device, enabled=False):
        settings = temperature, chunk_size, dtype, torch.is_grad_enabled()
        return _Columns.apply(queries, labels, columns, batch, count, *settings)


def blocks(batch: Batch, step: int) -> Iterator[tuple[slice, Pairs, Pairs]]:
    """The columns of each block, and the pairs and removed pairs in it."""
    sorted_pairs = []
    for pairs in (batch.pairs, batch.removed):
        sorted_pairs.append(pairs.select(pairs.cols.argsort(stable=True)))
    width = batch.shard.own_num_labels
    for start in range(0, width, step):
        stop = min(start + step, width)
        bounds = torch.tensor([start, stop], device=batch.pairs.cols.device)
        inside = []
        for pairs in sorted_pairs:
            first, last = torch.searchsorted(pairs.cols, bounds).tolist()
            inside.append(pairs.select(slice(first, last)).shift(cols=-start, num_labels=stop - start))
        yield slice(start, stop), inside[0], inside[1]


class _Columns(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        queries: torch.Tensor,
        labels: torch.Tensor,
        columns: ColumnLoss,
        batch: Batch,
        count: torch.Tensor,
        temperature: float,
        chunk_size: int | None,
        dtype: torch.dtype,
        grad_enabled: bool,
    ) -> torch.Tensor:
        shard, exact = batch.shard, torch.float64 if dtype == torch.float64 else torch.float32
        wanted = [grad_enabled and needed for needed in ctx.needs_input_grad[:2]]
        x, y = shard.gather_queries(queries.to(dtype)), labels.to(dtype)  # [B of all ranks, D], [C, D]
        grad_x = torch.zeros(x.shape, dtype=exact, device=x.device) if wanted[0] else None
        grad_y = torch.zeros(y.shape, dtype=exact, device=y.device) if wanted[1] else None
        loss = torch.zeros((), dtype=exact, device=x.device)
        scale = 1 / (count.to(exact) * temperature)
        step = chunk_size or max(1, MEMORY_BUDGET // exact.itemsize // max(len(x), 1))
        for cols, pairs, removed in blocks(batch, step if len(x) else max(len(y), 1)):
            part = y[cols]
            scores = torch.empty(len(x), len(part), dtype=exact, device=x.device)  # [B, c]
            block = Block(score_tile(x, part, temperature, scores), pairs, removed)
            loss += columns(block).sum()
            if grad_x is not None:
                grad_x += times_labels(block.scores, part)
            if grad_y is not None:
                grad_y[cols] = times_labels(block.scores.T, x).mul_(scale)
        loss = shard.sum_(loss) / count
        if grad_x is not None:
            grad_x = shard.own_queries(shard.sum_(grad_x.mul_(scale))).to(queries.dtype)
        ctx.save_for_backward(grad_x, None if grad_y is None else grad_y.to(labels.dtype))
        return loss

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_loss: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        gradients = (None if gradient is None else gradient * grad_loss for gradient in ctx.saved_tensors)
        return (*gradients, None, None, None, None, None, None, None)
