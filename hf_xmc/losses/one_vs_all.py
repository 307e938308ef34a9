"""One-vs-all: binary cross entropy of every query with every label."""

from __future__ import annotations

import torch
from torch.nn.functional import softplus

from hf_xmc.losses.bags import Queries
from hf_xmc.losses.pairs import read_local
from hf_xmc.losses.streaming import StreamingLoss, Tile
from hf_xmc.types import Positives


class OneVsAllLoss(StreamingLoss):
    """Mean over all B * C entries of  log(1 + exp(-s_bp)) at positives and log(1 + exp(s_bn)) elsewhere.

    See `StreamingLoss` for the arguments.
    """

    name = "one_vs_all"
    summary = "binary cross entropy"

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
        """The loss of queries `[B, D]` against labels `[C, D]`, a scalar.

        Args:
            positives: tensors, like the embeddings; ids are rows of `labels`. Weights multiply the terms of the
                positives; the divisor of the mean does not depend on them.
            sampled: use these positives only; the others take no part, as if they were ignored. (The code of DEXML
                counts them as negatives.)
            ignored: pairs that are neither positive nor negative; the mean is over the other entries.

        Raises:
            ValueError: ids outside the labels, a label twice in a row (the message names it),
                shapes that do not fit.
        """
        batch = self.read(queries, labels, positives, sampled, ignored)
        return self.stream(one_vs_all_rows, queries, labels, batch, batch.num_candidates.sum().clamp(min=1))


def one_vs_all_rows(tile: Tile) -> tuple[torch.Tensor, torch.Tensor]:
    """Binary cross entropy of whole rows; see `streaming.RowLoss`."""
    weights, score = tile.weights(), tile.take()  # [nnz]
    tile.put(tile.pairs, -torch.inf)
    tile.put(tile.removed, -torch.inf)
    value = tile.sum_pairs(weights * exact_softplus(-score))
    for rows, part in tile.parts():
        value[rows] += exact_softplus(part).sum(1)
    tile.scores.sigmoid_()
    tile.put(tile.pairs, -weights * (-score).sigmoid())
    return value, torch.ones_like(value)


def exact_softplus(x: torch.Tensor) -> torch.Tensor:
    """log(1 + exp(x)). By default torch returns x from 20 on, with an error of 2e-9; exp does not overflow there."""
    return softplus(x, threshold=700.0 if x.dtype == torch.float64 else 80.0)
