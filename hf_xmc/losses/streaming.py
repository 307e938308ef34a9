"""The driver of the losses: the [B, C] score matrix passes through one buffer, a block of whole rows at a time.

A loss defines one function: given a tile of whole score rows, the value of each row and the gradient of the tile. As
rows are whole, both are known as soon as the tile is, and the gradients of the embeddings are computed in the forward
pass: three matrix products in total (scores, d queries, d labels). Tiling over the labels would cost four, because
every score would be computed twice. A row of scores takes 1/D of the memory of the labels, so whole rows always fit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from importlib.util import find_spec
from itertools import pairwise
from typing import Any

import torch

from hf_xmc.errors import SettingsError
from hf_xmc.losses.bags import Bagged, Queries, QueryBags, Vectors
from hf_xmc.losses.loss import TEMPERATURE, Loss
from hf_xmc.losses.pairs import Batch, Pairs, read_batch
from hf_xmc.losses.products import add_labels_gradient, score_tile, times_labels
from hf_xmc.losses.sharding import Shard
from hf_xmc.types import Positives

MEMORY_BUDGET = 64 * 2**20  # bytes of scores held at once, at least
SCORES_PER_PART = 2**20  # passes that need extra memory process about this many scores at a time


class StreamingLoss(Loss):
    """A loss that runs on this driver, with the settings that all of them have.

    Args:
        temperature: scores are dot products divided by this.
        chunk_size: hold at most `B * chunk_size` scores at once (but at least one whole row). By default as many as
            fit in a third of the memory of the labels, or in 64 MiB if that is more.
        process_group: if set, `labels` is this rank's part of the label table: rank r holds rows
            `[r * L // W, (r + 1) * L // W)`, or any other split in rank order; ids count through the parts. Each rank
            passes its own queries. Value and gradients are those of a single process with all queries and labels. If
            gradients of shared parameters are averaged over the ranks, as by DDP, multiply by the number of ranks.
    """

    can_shard = True
    takes_bags = True

    def __init__(
        self,
        temperature: float = TEMPERATURE,
        chunk_size: int | None = None,
        process_group: torch.distributed.ProcessGroup | None = None,
    ) -> None:
        super().__init__()
        if not 0 < temperature < float("inf"):
            raise SettingsError(f"temperature is {temperature}; it divides the scores and must be a number above 0")
        if chunk_size is not None and chunk_size < 1:
            raise SettingsError(f"chunk_size is {chunk_size}; it must be at least 1, or None for the default")
        self.temperature = temperature
        self.chunk_size = chunk_size
        self.process_group = process_group

    @classmethod
    def from_arguments(cls, arguments: Any, temperature: float) -> StreamingLoss:
        """See [`Loss`]."""
        return cls(temperature)

    def extra_repr(self) -> str:
        return f"temperature={self.temperature}, chunk_size={self.chunk_size}"

    def read(
        self,
        queries: Queries,
        labels: torch.Tensor,
        positives: Positives,
        sampled: Positives | None,
        ignored: Positives | None,
        drop_unsampled: bool = True,
    ) -> Batch:
        """Check the pairs, and gather those of all ranks."""
        if queries.ndim != 2 or labels.ndim != 2 or queries.shape[1] != labels.shape[1]:
            raise ValueError(
                f"Found queries of shape {list(queries.shape)} and labels of shape {list(labels.shape)}; "
                "they must be [B, D] and [C, D]."
            )
        shard = Shard.of(self.process_group, len(queries), len(labels), queries.device)
        return read_batch(shard, positives, sampled, ignored, drop_unsampled)

    def stream(
        self,
        rows: RowLoss,
        queries: Queries,
        labels: torch.Tensor,
        batch: Batch,
        count: torch.Tensor,
        log_weights: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The sum of a row loss over all queries, divided by `count`; see the function `stream`. `log_weights`,
        `[C]`, are added to the scores of each label."""
        if log_weights is not None:  # within the product, as one more dimension: no pass over the scores for it
            queries = with_ones(queries)
            labels = torch.cat([labels, log_weights[:, None] * self.temperature], 1)
        return stream(rows, queries, labels, batch, count, self.temperature, self.chunk_size)


@dataclass
class Tile:
    """Whole rows of the score matrix, and the pairs in them.

    The loss may write to `scores` `[b, C]`: it leaves the gradient there, up to a factor per row. In a sharded run C
    are the labels of this rank, and the pairs are those among them; counts per row are over all ranks.
    """

    scores: torch.Tensor
    pairs: Pairs  # positives that the loss runs over; rows count from the start of the tile
    removed: Pairs  # pairs that are in no denominator
    num_positives: torch.Tensor  # [b], over all ranks, including those that were not sampled
    total_weight: torch.Tensor  # [b], sum of the weights of the pairs, over all ranks
    num_candidates: torch.Tensor  # [b], number of labels that are not removed, over all ranks
    shard: Shard

    def weights(self) -> torch.Tensor:
        """Weight of each pair, `[nnz]`."""
        given = self.pairs.weights
        return self.scores.new_ones(len(self.pairs)) if given is None else given.to(self.scores)

    def mean_weights(self) -> torch.Tensor:
        """Weight of each pair such that those of a row sum to one (or are all zero), `[nnz]`."""
        total = self.total_weight[self.pairs.rows]
        return torch.where(total > 0, self.weights() / total, 0.0)

    def take(self) -> torch.Tensor:
        """Scores of the pairs, `[nnz]`."""
        return self.scores[self.pairs.rows, self.pairs.cols]

    def put(self, pairs: Pairs, values: torch.Tensor | float) -> None:
        """Write one value per pair."""
        values = torch.as_tensor(values, dtype=self.scores.dtype, device=self.scores.device)
        self.scores.index_put_((pairs.rows, pairs.cols), values)

    def sum_pairs(self, values: torch.Tensor, everywhere: bool = False) -> torch.Tensor:
        """Sum of one value per pair over each row, `[b]`; over the pairs of this rank, or of all ranks."""
        total = values.new_zeros(len(self.scores)).index_add_(0, self.pairs.rows, values)
        return self.shard.sum_(total) if everywhere else total

    def parts(self) -> Iterator[tuple[slice, torch.Tensor]]:
        """The scores, a few rows at a time, so that intermediate results take little memory."""
        step = max(1, SCORES_PER_PART // max(1, self.scores.shape[1]))
        for start in range(0, len(self.scores), step):
            rows = slice(start, start + step)
            yield rows, self.scores[rows]

    def range(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Lowest and highest score of each row, over all ranks, `[b]` each."""
        if self.scores.shape[1]:
            low, high = self.scores.aminmax(dim=1)
        else:
            low, high = (self.scores.new_full((len(self.scores),), bound) for bound in (torch.inf, -torch.inf))
        return -self.shard.max_(-low), self.shard.max_(high)

    def exponentials_(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Replace the scores by exp(s - top). Returns top `[b]`, their maximum or 0, and the sums `[b]`."""
        scores = self.scores
        top = scores.amax(1) if scores.shape[1] else scores.new_full((len(scores),), -torch.inf)
        top = self.shard.max_(top)
        top.masked_fill_(top == -torch.inf, 0.0)
        if has_kernels(scores):
            from hf_xmc.losses import row_kernels

            return top, self.shard.sum_(row_kernels.exponentials_(scores, top))
        if len(top) and top.abs().amax() < 30:  # no overflow: saves one pass
            top.zero_()
        else:
            scores.sub_(top[:, None])
        return top, self.shard.sum_(scores.exp_().sum(1))


# Takes a tile and returns the loss of each row (this rank's part of it) and a factor per row, both [b]. The gradient
# of the loss with respect to scores [b, C] is the factor times what the function leaves in tile.scores.
RowLoss = Callable[[Tile], tuple[torch.Tensor, torch.Tensor]]


def with_ones(queries: Queries) -> Queries:
    """The queries with one more dimension, which is 1 everywhere."""
    vectors = queries.vectors if isinstance(queries, QueryBags) else queries
    vectors = torch.cat([vectors, torch.ones_like(vectors[:, :1])], 1)
    return replace(queries, vectors=vectors) if isinstance(queries, QueryBags) else vectors


def stream(
    rows: RowLoss,
    queries: Queries,
    labels: torch.Tensor,
    batch: Batch,
    count: torch.Tensor,
    temperature: float = TEMPERATURE,
    chunk_size: int | None = None,
) -> torch.Tensor:
    """Sum of a row loss over the queries of all ranks, divided by the number `count`.

    Differentiable in queries `[B, D]` and labels `[C, D]`. Of [`QueryBags`] the pooled scores are used.

    Products are computed in the dtype of the embeddings, or in that of autocast if it is on, and summed in float32
    (float64 if the embeddings are float64), the dtype of the scores and of the result.
    """
    device = queries.device.type
    dtype = torch.promote_types(queries.dtype, labels.dtype)
    if torch.is_autocast_enabled(device) and dtype != torch.float64:
        dtype = torch.get_autocast_dtype(device)
    with torch.autocast(device, enabled=False):
        bags = queries if isinstance(queries, QueryBags) else None
        settings = temperature, chunk_size, dtype, torch.is_grad_enabled(), None if bags is None else bags.detach()
        return _Stream.apply(queries if bags is None else bags.vectors, labels, rows, batch, count, *settings)


def has_kernels(scores: torch.Tensor) -> bool:
    """Whether these scores are processed by Triton kernels: on a GPU, if Triton is installed."""
    return scores.is_cuda and find_spec("triton") is not None


def rows_per_tile(num_queries: int, num_labels: int, dim: int, chunk_size: int | None, itemsize: int = 4) -> int:
    """Number of whole rows of scores to hold at once, so that tiles are about equal.

    >>> rows_per_tile(512, 131_072, 384, None), rows_per_tile(512, 131_072, 384, 1024), rows_per_tile(8, 100, 4, 1)
    (128, 4, 1)
    """
    if chunk_size is None:
        held = max(MEMORY_BUDGET, num_labels * dim * itemsize // 3) // itemsize
    else:
        held = num_queries * chunk_size
    most = max(1, held // max(num_labels, 1))
    tiles = max(1, -(-num_queries // most))
    return max(1, -(-num_queries // tiles))


class _Stream(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        queries: torch.Tensor,
        labels: torch.Tensor,
        rows: RowLoss,
        batch: Batch,
        count: torch.Tensor,
        temperature: float,
        chunk_size: int | None,
        dtype: torch.dtype,
        grad_enabled: bool,
        bags: QueryBags | None,
    ) -> torch.Tensor:
        shard, exact = batch.shard, torch.float64 if dtype == torch.float64 else torch.float32
        count = count.to(exact)
        wanted = [grad_enabled and needed for needed in ctx.needs_input_grad[:2]]
        layout = Vectors(shard) if bags is None else Bagged(shard, bags, temperature)
        x, y = layout.gather(queries.to(dtype)), labels.to(dtype)  # [V of all ranks, D], [C, D]
        grad_x = torch.zeros(x.shape, dtype=exact, device=x.device) if wanted[0] else None
        grad_y = torch.empty(y.shape, dtype=exact, device=y.device) if wanted[1] else None

        bounds = layout.bounds(rows_per_tile(len(x), shard.widest, x.shape[1], chunk_size, exact.itemsize))
        slices = [layout.vectors(start, stop) for start, stop in pairwise(bounds)]
        tallest = max((rows.stop - rows.start for rows in slices), default=0)
        buffer = torch.empty(tallest, len(y), dtype=exact, device=x.device)  # [v, C]
        loss = torch.zeros((), dtype=exact, device=x.device)
        for own, (start, stop, pairs, removed) in zip(slices, batch.tiles(bounds), strict=True):
            scores = score_tile(x[own], y, temperature, buffer[: own.stop - own.start])
            tile = Tile(
                layout.pool_(scores, start, stop),
                pairs,
                removed,
                batch.num_positives[start:stop],
                batch.total_weight[start:stop].to(exact),
                batch.num_candidates[start:stop],
                shard,
            )
            value, factor = rows(tile)
            loss += value.sum()
            if grad_x is None and grad_y is None:
                continue
            factor = layout.repeat(factor[:, None] / (count * temperature), start, stop)  # [v, 1]
            gradient = layout.spread_(tile.scores, scores, start, stop)  # [v, C]
            if grad_x is not None:
                torch.mul(times_labels(gradient, y), factor, out=grad_x[own])
            if grad_y is not None:
                add_labels_gradient(grad_y, gradient, x[own].to(exact) * factor, dtype, beta=int(start > 0))
        if grad_y is not None and not len(x):
            grad_y.zero_()
        loss = shard.sum_(loss) / count
        if grad_x is not None:
            grad_x = layout.own(shard.sum_(grad_x)).to(queries.dtype)
        ctx.save_for_backward(grad_x, None if grad_y is None else grad_y.to(labels.dtype))
        return loss

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_loss: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        gradients = list(ctx.saved_tensors)
        if grad_loss.device.type != "cpu" or grad_loss != 1:
            # In place if they are used only once, because a second [C, D] may not fit into memory.
            in_place = not torch._C._autograd._get_current_graph_task_keep_graph()
            for i, gradient in enumerate(gradients):
                if gradient is not None:
                    gradients[i] = gradient.mul_(grad_loss) if in_place else gradient * grad_loss
        return (*gradients, None, None, None, None, None, None, None, None)
