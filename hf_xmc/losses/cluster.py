"""Multi-label cluster discrimination (MLCD): positives and negatives in two separate terms."""

from __future__ import annotations

import torch

from hf_xmc.losses.bags import Queries
from hf_xmc.losses.streaming import StreamingLoss, Tile
from hf_xmc.types import Positives


class MultiLabelClusterLoss(StreamingLoss):
    """Mean over queries with a positive of  log(1 + sum_p exp(-s_bp)) + log(1 + sum_n exp(s_bn)),  p in P_b, n not.

    From "Multi-label Cluster Discrimination for Visual Representation Learning" (An et al., ECCV 2024), where the
    labels are the clusters of an item. Positives are pulled above a score of 0 and negatives pushed below it, and
    neither sees the other. The paper also samples a tenth of the negatives in each step: use a candidate rule.

    See `StreamingLoss` for the arguments.

    >>> queries, labels = torch.eye(2), torch.eye(3, 2)
    >>> loss = MultiLabelClusterLoss(temperature=1.0)(queries, labels, Positives.from_lists([[0], [0, 1]]).torch())
    >>> round(loss.item(), 4)
    1.4835
    """

    name = "multi_label_cluster"
    summary = "MLCD"

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
            positives: tensors, like the embeddings; ids are rows of `labels`. Queries with none add nothing. A
                positive of weight w counts as w positives of the same score.
            sampled: use these positives only; the others are in neither sum.
            ignored: pairs that are neither positive nor negative.

        Raises:
            ValueError: ids outside the labels, a label twice in a row (the message names it), shapes that do not fit.
        """
        batch = self.read(queries, labels, positives, sampled, ignored)
        return self.stream(cluster_rows, queries, labels, batch, batch.num_queries_with_positives)


def cluster_rows(tile: Tile) -> tuple[torch.Tensor, torch.Tensor]:
    """Both terms of whole rows; see `streaming.RowLoss`."""
    rows = tile.pairs.rows
    used = tile.total_weight > 0  # [b]
    cost = tile.weights().log() - tile.take()  # [nnz], of the positives
    tile.put(tile.pairs, -torch.inf)
    tile.put(tile.removed, -torch.inf)
    top, total = tile.exponentials_()  # [b]
    log_negatives = total.log() + top

    highest = torch.zeros_like(top).scatter_reduce_(0, rows, cost, "amax")  # at least that of the one in the sum
    highest = tile.shard.max_(highest)
    powers = tile.sum_pairs((cost - highest[rows]).exp(), everywhere=True)
    log_positives = powers.log() + highest  # [b]

    zero = top.new_zeros(())
    push = torch.where(used & (total > 0), log_negatives.sigmoid() / total, 0.0)  # [b]
    tile.scores.mul_(push[:, None])
    tile.put(tile.pairs, -(cost - log_positives.logaddexp(zero)[rows]).exp())
    value = torch.where(used, log_positives.logaddexp(zero) + log_negatives.logaddexp(zero), 0.0)
    # Every rank knows the whole row, and the values of the ranks are added up.
    return value if tile.shard.rank == 0 else torch.zeros_like(value), torch.ones_like(value)
