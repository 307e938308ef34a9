"""Triplet margin (NGAME): the paired positive must beat the hardest negatives of the batch by a margin."""

from __future__ import annotations

from typing import Any

import torch

from hf_xmc.errors import SettingsError
from hf_xmc.losses.bags import Queries, dot_products
from hf_xmc.losses.loss import Loss
from hf_xmc.losses.pairs import read_batch
from hf_xmc.losses.sharding import Shard
from hf_xmc.types import Positives


class TripletMarginLoss(Loss):
    """Mean over queries and their hardest negatives of  w_n max(0, r_bn - r_bp + margin),  r the raw dot products.

    From NGAME, "Negative Mining-aware Mini-batching for Extreme Classification" (Dahiya et al., WSDM 2023), as its
    code computes it: w is a softmax over the negatives of r_bn / weight_temperature, in which a negative outside the
    margin has the logit 0, and the gradient includes that of w.

    A label that is positive for a query is never its negative, whichever query added it to the batch. Rows with fewer
    negatives than `num_negatives` use those that they have, but still divide by `num_negatives`.

    Args:
        margin: 0.3 in the paper's code.
        num_negatives: number of hardest negatives per query; 10 in the paper's code.
        weight_temperature: 0.1 in the paper's code; None gives all negatives the weight 1.
        detach_weights: stop gradients at the weights.
    """

    name = "triplet_margin"
    summary = "NGAME"
    takes_bags = True

    def __init__(
        self,
        margin: float = 0.3,
        num_negatives: int = 10,
        weight_temperature: float | None = 0.1,
        detach_weights: bool = False,
    ) -> None:
        super().__init__()
        if num_negatives < 1:
            raise SettingsError(f"num_negatives is {num_negatives}; it must be at least 1")
        self.margin = margin
        self.num_negatives = num_negatives
        self.weight_temperature = weight_temperature
        self.detach_weights = detach_weights

    @classmethod
    def from_arguments(cls, arguments: Any, temperature: float) -> TripletMarginLoss:
        """See [`Loss`]. This loss runs on raw dot products, without a temperature."""
        return cls(arguments.triplet_margin, arguments.num_hard_negatives, arguments.triplet_temperature or None)

    def extra_repr(self) -> str:
        return (
            f"margin={self.margin}, num_negatives={self.num_negatives}, weight_temperature={self.weight_temperature}"
        )

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
            positives: tensors, like the embeddings; ids are rows of `labels`, all rows of `labels` with
                the same label must be included. With weights, the mean over the paired positives of a query is the
                weighted one.
            sampled: the positives that are paired; by default all of them. A query with several gets the mean over
                them, and one with none adds nothing.
            ignored: pairs that are neither positive nor negative.

        Raises:
            ValueError: ids outside the labels, a label twice in a row (the message names it), or another number of
                rows than queries.
        """
        shard = Shard.of(None, len(queries), len(labels), queries.device)
        batch = read_batch(shard, positives, sampled, ignored)
        pairs, removed = batch.pairs, batch.removed
        dtype = torch.promote_types(torch.promote_types(queries.dtype, labels.dtype), torch.float32)
        with torch.autocast(queries.device.type, enabled=False):  # a small matrix: full precision costs little
            scores = dot_products(queries.to(dtype), labels.to(dtype))  # [B, C]

        masked = scores.detach().clone()
        masked[pairs.rows, pairs.cols] = -torch.inf
        masked[removed.rows, removed.cols] = -torch.inf
        hardest = masked.topk(min(self.num_negatives, len(labels)), dim=1).indices  # [B, K]
        real = (masked.gather(1, hardest) > -torch.inf)[pairs.rows]  # [nnz, K]
        negative = scores.gather(1, hardest)[pairs.rows]  # [nnz, K]
        positive = scores[pairs.rows, pairs.cols]  # [nnz]

        hinge = (negative - positive[:, None] + self.margin).clamp(min=0) * real
        terms = (self._weights(negative, hinge, real) * hinge).sum(1) / self.num_negatives  # [nnz]
        weights = terms.new_ones(len(terms)) if pairs.weights is None else pairs.weights.to(terms)
        total = batch.total_weight.to(terms)[pairs.rows]
        return torch.where(total > 0, weights * terms / total, 0.0).sum() / batch.num_queries_with_positives

    def _weights(self, negative: torch.Tensor, hinge: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        """Weight of each negative, `[nnz, K]`; `real` is False where a row has fewer."""
        if self.weight_temperature is None:
            return torch.ones_like(hinge)
        logits = torch.where(hinge > 0, negative / self.weight_temperature, 0.0)
        lowest = torch.finfo(logits.dtype).min  # a row without negatives must not become nan
        weights = logits.masked_fill(~real, lowest).softmax(1)
        return weights.detach() if self.detach_weights else weights
