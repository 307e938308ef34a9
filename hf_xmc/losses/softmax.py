"""Softmax over all labels (InfoNCE with several positives), as the DEXML code computes it."""

from __future__ import annotations

import torch

from hf_xmc.losses.bags import Queries
from hf_xmc.losses.streaming import StreamingLoss, Tile
from hf_xmc.types import Positives


class SoftmaxLoss(StreamingLoss):
    """Mean over queries of the sum over p in P_b of  -log( exp(s_bp) / sum_l exp(s_bl) ), l over all labels.

    The formula of the code of DEXML (Gupta et al., ICLR 2024): the sum is not divided by the number of positives, and
    positives compete with each other; `DecoupledSoftmaxLoss` avoids the latter. Their configurations draw one positive
    of each query in each step (`loss_sample`), so their loss is on average the mean over the positives of a query,
    not the sum: `num_positives=1` trains so.

    See `StreamingLoss` for the arguments.
    """

    name = "softmax"
    summary = "InfoNCE"
    score_is_log_weight = True

    def forward(
        self,
        queries: Queries,
        labels: torch.Tensor,
        positives: Positives,
        sampled: Positives | None = None,
        ignored: Positives | None = None,
        log_weights: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The loss of queries `[B, D]` against labels `[C, D]`, a scalar.

        Args:
            positives: tensors, like the embeddings; ids are rows of `labels`. Queries with none add nothing.
                Weights multiply the terms of the sum.
            sampled: use these positives only; the others stay in the denominator.
            ignored: pairs that are neither positive nor negative; they are in no denominator.
            log_weights: the logarithm of how many labels each row of `labels` stands for, `[C]`; zeros by default.

        Raises:
            ValueError: ids outside the labels, a label twice in a row (the message names it), shapes that do not fit.
        """
        batch = self.read(queries, labels, positives, sampled, ignored, drop_unsampled=False)
        return self.stream(softmax_rows, queries, labels, batch, batch.num_queries_with_positives, log_weights)


def softmax_rows(tile: Tile) -> tuple[torch.Tensor, torch.Tensor]:
    """Softmax of whole rows; see `streaming.RowLoss`. The gradient is softmax * sum_p w_p, minus w_p at a positive."""
    weights, score = tile.weights(), tile.take()  # [nnz]
    tile.put(tile.removed, -torch.inf)
    top, total = tile.exponentials_()  # [b]

    log_total = total.log() + top
    value = tile.sum_pairs(weights * (log_total[tile.pairs.rows] - score))
    factor = torch.where(total > 0, tile.total_weight / total, 0.0)
    share = torch.where(tile.total_weight > 0, total / tile.total_weight, 0.0)  # [b]
    tile.put(tile.pairs, tile.take() - weights * share[tile.pairs.rows])
    return value, factor
