"""What several processes have to agree on."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn

from hf_xmc.data.collator import unpack
from hf_xmc.losses.sharding import Shard
from hf_xmc.types import Positives


def all_processes(device: torch.device) -> Shard:
    """The processes of this run, which gather arrays from each other; a single process sends nothing."""
    group = dist.group.WORLD if dist.is_initialized() and dist.get_world_size() > 1 else None
    return Shard.of(group, 0, 0, device)


def part(total: int, ranks: Shard) -> slice:
    """The rows of this rank, half open: rank r of W holds [r * total // W, (r + 1) * total // W).

    >>> [part(5, Shard(None, rank, [0, 0], [0, 0])) for rank in (0, 1)]
    [slice(0, 2, None), slice(2, 5, None)]
    """
    world = len(ranks.query_counts)
    return slice(ranks.rank * total // world, (ranks.rank + 1) * total // world)


def concatenate(batches: list[Positives]) -> Positives:
    """The pairs of several batches as those of one."""
    ends = [0]
    for batch in batches:
        ends.append(ends[-1] + len(batch.indices))
    indptr = torch.cat([b.indptr[:-1] + end for b, end in zip(batches, ends, strict=False)])
    weighted = [b.weights for b in batches if b.weights is not None]
    weights = torch.cat(weighted) if weighted else None
    total = indptr.new_tensor([ends[-1]])
    return Positives(torch.cat([indptr, total]), torch.cat([b.indices for b in batches]), weights)


def gather(pairs: Positives, ranks: Shard) -> Positives:
    """The pairs of the queries of all ranks, in the order of ranks."""
    if ranks.group is None:
        return pairs
    counts = ranks.gather(pairs.counts)
    indptr = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    weights = None if pairs.weights is None else ranks.gather(pairs.weights)
    return Positives(indptr, ranks.gather(pairs.indices), weights)


def without_repeats(batch: dict[str, Tensor], total: int, size: int, ranks: Shard) -> dict[str, Tensor]:
    """This process's part of the last micro-batch of an epoch, without queries that are in it only to fill it.

    Accelerate gives each process as many queries as the others, taken from the start of the epoch again.

    Args:
        batch: the last micro-batch.
        total: queries of an epoch.
        size: queries a process and micro-batch.
    """
    real = total % (size * len(ranks.query_counts)) or size * len(ranks.query_counts)
    keep = min(max(real - ranks.rank * size, 0), size)
    pairs = {key.removesuffix("_indptr") for key in batch if key.endswith("_indptr")}
    kept = {key: x[:keep] for key, x in batch.items() if not key.startswith(tuple(pairs))}
    for name in pairs:
        csr = unpack(batch, name)
        assert csr is not None
        last = int(csr.indptr[keep])
        kept |= {f"{name}_indptr": csr.indptr[: keep + 1], f"{name}_indices": csr.indices[:last]}
        if csr.weights is not None:
            kept[f"{name}_weights"] = csr.weights[:last]
    return kept


def sum_gradients(model: nn.Module, ranks: Shard) -> None:
    """Sum the gradients over all processes, in one reduction.

    A parameter that has a gradient anywhere gets one everywhere; one that has none stays without, so that weight decay
    leaves it alone.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    if not parameters:  # a label head alone is trained
        return
    used = torch.tensor([p.grad is not None for p in parameters], dtype=torch.int32, device=parameters[0].device)
    parameters = [p for p, is_used in zip(parameters, ranks.max_(used).tolist(), strict=True) if is_used]
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    gradients = [p.grad for p in parameters if p.grad is not None]
    if not gradients:
        return
    flat = ranks.sum_(torch.cat([gradient.flatten() for gradient in gradients]))
    for gradient, summed in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(summed.view_as(gradient))


class GatherLabels(torch.autograd.Function):
    """The label embeddings of all ranks, `[C, D]`, from each rank's part; backward sums the ranks' gradients.

    For losses that cannot run on parts of the labels.
    """

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, labels: Tensor, ranks: Shard, own: slice) -> Tensor:
        ctx.ranks, ctx.own = ranks, own  # type: ignore[attr-defined]
        return ranks.gather(labels)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *gradients: Tensor) -> tuple[Tensor, None, None]:
        total = ctx.ranks.sum_(gradients[0].clone())  # type: ignore[attr-defined]
        return total[ctx.own], None, None  # type: ignore[attr-defined]
