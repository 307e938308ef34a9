"""Decoupled softmax (DEXML): each positive competes with the negatives, never with another positive."""

from __future__ import annotations

import torch

from hf_xmc.losses.bags import Queries
from hf_xmc.losses.streaming import StreamingLoss, Tile
from hf_xmc.types import Positives


class DecoupledSoftmaxLoss(StreamingLoss):
    """Mean over queries of the mean over p in P_b of  -log( exp(s_bp) / (exp(s_bp) + sum_n exp(s_bn)) ), n not in P_b.

    From DEXML, "Dual-Encoders for Extreme Multi-Label Classification" (Gupta et al., ICLR 2024). If each query has one
    positive, it equals `SoftmaxLoss`.

    See `StreamingLoss` for the arguments.

    >>> from hf_xmc import Positives
    >>> queries, labels = torch.eye(2), torch.eye(3, 2)
    >>> loss = DecoupledSoftmaxLoss(temperature=1.0)(queries, labels, Positives.from_lists([[0], [0, 1]]).torch())
    >>> round(loss.item(), 4)
    0.5273
    """

    name = "decoupled_softmax"
    summary = "DEXML"
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
            positives: tensors, like the embeddings; ids are rows of `labels`. Queries with none add nothing. With
                weights, the mean over the positives of a query is the weighted one.
            sampled: use these positives only; the others are in no denominator.
            ignored: pairs that are neither positive nor negative.
            log_weights: the logarithm of how many labels each row of `labels` stands for, `[C]`; zeros by default.

        Raises:
            ValueError: ids outside the labels, a label twice in a row (the message names it), shapes that do not fit.
        """
        batch = self.read(queries, labels, positives, sampled, ignored)
        return self.stream(decoupled_rows, queries, labels, batch, batch.num_queries_with_positives, log_weights)


def decoupled_rows(tile: Tile) -> tuple[torch.Tensor, torch.Tensor]:
    """Decoupled softmax of whole rows; see `streaming.RowLoss`."""
    weights, score = tile.mean_weights(), tile.take()  # [nnz]
    tile.put(tile.pairs, -torch.inf)
    tile.put(tile.removed, -torch.inf)
    margin, factor = against_negatives(tile, score, weights)
    return tile.sum_pairs(weights * margin.logaddexp(margin.new_zeros(()))), factor


def against_negatives(tile: Tile, score: torch.Tensor, weights: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """log Z - s_p for each positive, `[nnz]`, with Z = sum_n exp(s_n), and the factor `[b]` of the gradient that is
    left in the tile: that of the weighted sum of log(1 + Z / exp(s_p)).

    With q_p = Z / (exp(s_p) + Z) the gradient is -w_p q_p at a positive, and exp(s_n) / Z * sum_p w_p q_p at a
    negative.

    Args:
        tile: -inf at all that is not a negative.
        score: s_p of each positive, `[nnz]`.
        weights: w_p, `[nnz]`.
    """
    top, total = tile.exponentials_()  # [b]
    margin = (total.log() + top)[tile.pairs.rows] - score  # [nnz], -inf where a row has no negative
    pull = weights * margin.sigmoid()  # w_p q_p
    pulls = tile.sum_pairs(pull, everywhere=True)  # [b]
    factor = torch.where(pulls > 0, pulls / total, 0.0)
    # Never larger than the sum of exponentials, as q_p is at most the sum of all q_p.
    tile.put(tile.pairs, torch.where(pulls > 0, -total / pulls, 0.0)[tile.pairs.rows] * pull)
    return margin, factor
