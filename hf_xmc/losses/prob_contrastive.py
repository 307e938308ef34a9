"""Probabilistic contrastive loss (NGAME): a logarithm of each score of a shortlist, easy negatives clipped."""

from __future__ import annotations

import math
from typing import Any

import torch

from hf_xmc.errors import SettingsError
from hf_xmc.losses.bags import Queries, dot_products
from hf_xmc.losses.loss import Loss
from hf_xmc.losses.pairs import read_batch, read_local
from hf_xmc.losses.sharding import Shard
from hf_xmc.types import Positives


class ProbContrastiveLoss(Loss):
    """Mean over all pairs of a query and a candidate of  -log P(y | r) / d,  with  P(1 | r) = c exp(d (r - 1))  for
    the raw dot product r of unit vectors.

    From the code of NGAME (Dahiya et al., WSDM 2023), `ProbContrastiveLoss` of its commit 70d98e3, which trains the
    classifiers of all sets but LF-AmazonTitles-131K over a shortlist of 500 labels per query: c = 0.75, d = 3. A
    negative whose term is below `threshold` counts as 0.

    Args:
        threshold: 0.05 in the paper's code.
        c: probability that a label at r = 1 is a positive, between 0 and 1.
        d: how fast the probability falls with r.
    """

    name = "prob_contrastive"
    summary = "NGAME's second stage"
    takes_bags = True

    def __init__(self, threshold: float = 0.05, c: float = 0.75, d: float = 3.0) -> None:
        super().__init__()
        if not 0 < c < 1 or d <= 0:
            raise SettingsError(f"c is {c} and d is {d}; c must be between 0 and 1, and d above 0")
        self.threshold = threshold
        self.c = c
        self.d = d

    @classmethod
    def from_arguments(cls, arguments: Any, temperature: float) -> ProbContrastiveLoss:
        """See [`Loss`]. This loss runs on raw dot products, without a temperature."""
        return cls(arguments.prob_contrastive_threshold)

    def extra_repr(self) -> str:
        return f"threshold={self.threshold}, c={self.c}, d={self.d}"

    def num_terms(self, positives: Positives, num_labels: int, ignored: Positives | None = None) -> torch.Tensor:
        """See [`Loss`]: all B * C entries that are not ignored."""
        return read_local(positives, num_labels, ignored).num_candidates.sum()

    def forward(
        self,
        queries: Queries,
        labels: torch.Tensor,
        positives: Positives,
        sampled: Positives | None = None,
        ignored: Positives | None = None,
    ) -> torch.Tensor:
        """The loss of queries `[B, D]` against labels `[C, D]`, both of unit length, a scalar.

        Args:
            positives: tensors, like the embeddings; ids are rows of `labels`. Weights multiply the terms of the
                positives.
            sampled: use these positives only; the others take no part.
            ignored: pairs that are neither positive nor negative; the mean is over the other entries.

        Raises:
            ValueError: ids outside the labels, a label twice in a row (the message names it), or another number of
                rows than queries.
        """
        shard = Shard.of(None, len(queries), len(labels), queries.device)
        batch = read_batch(shard, positives, sampled, ignored)
        pairs, removed = batch.pairs, batch.removed
        dtype = torch.promote_types(torch.promote_types(queries.dtype, labels.dtype), torch.float32)
        with torch.autocast(queries.device.type, enabled=False):
            scores = dot_products(queries.to(dtype), labels.to(dtype))  # [B, C]
        # Rounding can take a cosine above 1, whose logarithm would still exist as long as c is below 1.
        negative = -torch.log1p(-self.c * torch.exp(self.d * (scores - 1))) / self.d
        easy = negative.detach() < self.threshold
        easy[pairs.rows, pairs.cols] = True
        easy[removed.rows, removed.cols] = True
        positive = (1 - scores[pairs.rows, pairs.cols]) - math.log(self.c) / self.d  # [nnz]
        if pairs.weights is not None:
            positive = positive * pairs.weights.to(positive)
        total = negative.masked_fill(easy, 0.0).sum() + positive.sum()
        return total / batch.num_candidates.sum().clamp(min=1)
