"""Triplet margin over the hardest positives (NGAME's second stage): the worst-scoring positives must beat the hardest
negatives."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import relu

from hf_xmc.errors import SettingsError
from hf_xmc.losses.bags import Queries, dot_products
from hf_xmc.losses.loss import Loss
from hf_xmc.losses.pairs import read_batch
from hf_xmc.losses.sharding import Shard
from hf_xmc.types import Positives


class HardestPositivesTripletLoss(Loss):
    """Mean over queries, their `num_positives` worst positives and their hardest negatives of  w h,
    h = max(0, r_bn - r_bp + margin),  r the raw dot products and w a softmax over the negatives of h itself.

    From the code of NGAME (Dahiya et al., WSDM 2023), `TripletMarginLossOHNMMulti` of its commit 5af3826, which trains
    the classifiers of LF-AmazonTitles-131K: margin 0.2, 3 positives, 5 negatives. Negatives within the margin of
    nothing (h = 0) have no weight, and the gradient includes that of w.

    A query with fewer positives or negatives uses those that it has, but the mean still divides by `num_positives`
    times `num_negatives`. In the code of NGAME the number of candidates must be at least that of negatives; here a
    missing one adds nothing.

    Args:
        margin: 0.2 in the paper's code.
        num_positives: of the lowest-scoring positives of each query that are compared.
        num_negatives: of the highest-scoring negatives.
    """

    name = "triplet_hardest"
    summary = "NGAME's second stage"
    takes_bags = True

    def __init__(self, margin: float = 0.2, num_positives: int = 3, num_negatives: int = 5) -> None:
        super().__init__()
        if min(num_positives, num_negatives) < 1:
            raise SettingsError(
                f"num_positives is {num_positives} and num_negatives {num_negatives}; both must be at least 1"
            )
        self.margin = margin
        self.num_positives = num_positives
        self.num_negatives = num_negatives

    @classmethod
    def from_arguments(cls, arguments: Any, temperature: float) -> HardestPositivesTripletLoss:
        """See [`Loss`]. This loss runs on raw dot products, without a temperature."""
        return cls(arguments.triplet_margin, arguments.triplet_hardest_positives, arguments.num_hard_negatives)

    def extra_repr(self) -> str:
        return f"margin={self.margin}, num_positives={self.num_positives}, num_negatives={self.num_negatives}"

    def forward(
        self,
        queries: Queries,
        labels: torch.Tensor,
        positives: Positives,
        sampled: Positives | None = None,
        ignored: Positives | None = None,
    ) -> torch.Tensor:
        """The loss of queries `[B, D]` against labels `[C, D]`, a scalar.

        Args:
            positives: tensors, like the embeddings; ids are rows of `labels`. Queries with none add nothing. Weights
                are not used.
            sampled: use these positives only; the others are no negatives either.
            ignored: pairs that are neither positive nor negative.

        Raises:
            ValueError: ids outside the labels, a label twice in a row (the message names it), or another number of
                rows than queries.
        """
        shard = Shard.of(None, len(queries), len(labels), queries.device)
        batch = read_batch(shard, positives, sampled, ignored)
        dtype = torch.promote_types(torch.promote_types(queries.dtype, labels.dtype), torch.float32)
        with torch.autocast(queries.device.type, enabled=False):  # a small matrix: full precision costs little
            scores = dot_products(queries.to(dtype), labels.to(dtype))  # [B, C]
        fixed = scores.detach()
        true, free = torch.full_like(fixed, torch.inf), fixed.clone()
        true[batch.pairs.rows, batch.pairs.cols] = fixed[batch.pairs.rows, batch.pairs.cols]
        for pairs in (batch.pairs, batch.removed):
            free[pairs.rows, pairs.cols] = -torch.inf
        worst, worst_ids = true.topk(min(self.num_positives, len(labels)), largest=False, dim=1)  # [B, P]
        best, best_ids = free.topk(min(self.num_negatives, len(labels)), dim=1)  # [B, N]
        real = (worst < torch.inf)[:, :, None] & (best > -torch.inf)[:, None]  # [B, P, N]
        gap = scores.gather(1, best_ids)[:, None] - scores.gather(1, worst_ids)[:, :, None]
        hinge = relu(gap + self.margin) * real
        weights = hinge.masked_fill(hinge == 0, torch.finfo(dtype).min).softmax(2)
        total = (weights * hinge).sum() / (self.num_positives * self.num_negatives)
        return total / batch.num_queries_with_positives
