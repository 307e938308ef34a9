"""How much a batch would move each label of the catalogue: the norms of the gradients, computed from a label bank."""

from __future__ import annotations

import torch
from torch import Tensor

from hf_xmc.losses.bags import Queries, QueryBags
from hf_xmc.losses.loss import Loss
from hf_xmc.losses.sharding import Shard
from hf_xmc.types import Positives

LABELS_PER_TILE = 2**14


def label_gradient_norms(
    loss: Loss, queries: Queries, labels: Tensor, positives: Positives, ignored: Positives | None = None
) -> Tensor:
    """Norm of d loss / d label for each label, `[C]`, float32.

    With G = d loss / d scores `[B, C]`, the gradient of a label is the sum over b of G_bl q_b. Losses take embeddings,
    so G is computed by passing the scores as label embeddings, and unit vectors as queries. Memory holds `[C, B]`
    twice, and one tile of the gradient `[C, D]` at a time.

    Args:
        loss: with a `process_group` each rank passes its own queries and its part of
            the labels, and gets the norms of that part.
        queries: `[B, D]`.
        labels: `[C, D]` in any dtype, on any device.
        positives, ignored: ids are rows of the labels (of all ranks).

    >>> from hf_xmc.losses import SoftmaxLoss
    >>> queries, labels = torch.eye(2, 3), torch.eye(3, requires_grad=True)
    >>> positives = Positives.from_lists([[0], [0, 1]]).torch()
    >>> found = label_gradient_norms(SoftmaxLoss(), queries, labels.detach(), positives)
    >>> SoftmaxLoss()(queries, labels, positives).backward()
    >>> torch.allclose(found, labels.grad.norm(dim=1))
    True
    """
    if isinstance(queries, QueryBags):
        return norms_for_bags(loss, queries, labels, positives, ignored)
    ranks = Shard.of(loss.process_group, len(queries), len(labels), queries.device)
    with torch.autocast(queries.device.type, enabled=False):
        queries = ranks.gather_queries(queries.detach().float())  # [B of all ranks, D]
        scores = torch.empty(len(labels), len(queries), device=queries.device)
        for tile, out in zip(labels.split(LABELS_PER_TILE), scores.split(LABELS_PER_TILE), strict=True):
            torch.mm(tile.to(queries), queries.T, out=out)
        units = ranks.own_queries(torch.eye(len(queries), device=queries.device))
        with torch.enable_grad():
            value = loss(units, scores.requires_grad_(), positives, ignored=ignored)
            (gradient,) = torch.autograd.grad(value, scores)  # [C, B]
        return torch.cat([(tile @ queries).norm(dim=1) for tile in gradient.split(LABELS_PER_TILE)])


def norms_for_bags(
    loss: Loss, queries: QueryBags, labels: Tensor, positives: Positives, ignored: Positives | None
) -> Tensor:
    """`label_gradient_norms` for queries of several passages. Memory holds the gradient of all labels, `[C, D]`."""
    with torch.autocast(queries.device.type, enabled=False), torch.enable_grad():
        vectors = labels.to(queries.device, torch.float32).detach().requires_grad_()
        value = loss(queries.detach().to(torch.float32), vectors, positives, ignored=ignored)
        (gradient,) = torch.autograd.grad(value, vectors)
    return gradient.norm(dim=1)
