"""Positive-unlabelled loss (PU-MLC): what is not annotated is unknown, not negative."""

from __future__ import annotations

import torch

from hf_xmc.errors import SettingsError
from hf_xmc.losses.bags import Queries
from hf_xmc.losses.columns import Block, stream_columns
from hf_xmc.losses.loss import TEMPERATURE
from hf_xmc.losses.one_vs_all import exact_softplus
from hf_xmc.losses.streaming import StreamingLoss
from hf_xmc.types import Positives

LOWEST = 0.01  # temperature of a label, so that one whose scores are all equal does not divide by zero


class PositiveUnlabelledLoss(StreamingLoss):
    """Mean over labels c of  m_c^gamma log m_c - mean over b with c of log p_bc,  m_c = mean over all b of p_bc.

    p_bc = sigmoid(s_bc / t_c). From "Positive Label Is All You Need for Multi-Label Classification" (Yuan et al., ICME
    2024), the variational loss of positive and unlabelled examples: no query is ever a negative of a label, and no
    prior of a label is needed; the mean p of a label over the batch is pushed down, the p of its positives up. The
    weight m_c^gamma balances the two, and the temperature t_c = min(1, alpha std_b(s_bc)) sharpens labels whose
    scores are flat; both are constants in the gradient.

    Mean and spread are those of the batch: large batches are needed. The mixup of inputs that the paper adds has no
    counterpart for texts, and is left out.

    Args:
        temperature: scores are dot products divided by this.
        alpha: 1 in the paper for COCO, 2 for VOC.
        gamma: 0.55 in the paper for COCO, 0.85 for VOC.
        chunk_size: number of labels whose scores are held at once; by default as many as give 64 MiB.
        process_group: see `StreamingLoss`.
    """

    name = "positive_unlabelled"
    summary = "PU-MLC"
    takes_bags = False  # it runs over blocks of labels, not of queries

    def __init__(
        self,
        temperature: float = TEMPERATURE,
        alpha: float = 1.0,
        gamma: float = 0.55,
        chunk_size: int | None = None,
        process_group: torch.distributed.ProcessGroup | None = None,
    ) -> None:
        super().__init__(temperature, chunk_size, process_group)
        if alpha <= 0:
            raise SettingsError(f"alpha is {alpha}; it must be above 0")
        if gamma < 0:
            raise SettingsError(f"gamma is {gamma}; it must be at least 0")
        self.alpha = alpha
        self.gamma = gamma

    def extra_repr(self) -> str:
        return f"alpha={self.alpha}, gamma={self.gamma}, {super().extra_repr()}"

    def num_terms(self, positives: Positives, num_labels: int, ignored: Positives | None = None) -> torch.Tensor:
        """See [`Loss`]: the number of queries, with or without positives. The mean is over labels, so that a large
        batch is only about the mean of its parts."""
        return positives.indptr.new_tensor(len(positives))

    def forward(
        self,
        queries: Queries,
        labels: torch.Tensor,
        positives: Positives,
        sampled: Positives | None = None,
        ignored: Positives | None = None,
    ) -> torch.Tensor:
        """The loss of queries `[B, D]` against labels `[C, D]`, a scalar. It may be negative.

        Args:
            positives: tensors, like the embeddings; ids are rows of `labels`. With weights, the mean over the
                positives of a label is the weighted one.
            sampled: use these positives only; the others are neither positive nor unlabelled.
            ignored: pairs that are neither positive nor unlabelled.

        Raises:
            ValueError: ids outside the labels, a label twice in a row (the message names it), shapes that do not fit.
        """
        if not isinstance(queries, torch.Tensor):
            raise SettingsError(f"the loss {self.called} takes one vector per query, and these have several passages")
        batch = self.read(queries, labels, positives, sampled, ignored)
        count = torch.tensor(max(batch.shard.num_labels, 1), device=queries.device)
        return stream_columns(self.columns, queries, labels, batch, count, self.temperature, self.chunk_size)

    def columns(self, block: Block) -> torch.Tensor:
        """The loss of whole columns; see `columns.ColumnLoss`."""
        scores, pairs, removed = block.scores, block.pairs, block.removed
        seen = torch.ones_like(scores)  # [B, c]: 0 at pairs that take no part
        seen[removed.rows, removed.cols] = 0.0
        number = seen.sum(0)  # [c]
        temperature = self.temperatures(scores, seen, number)
        scores.div_(temperature)
        log_p = -exact_softplus(-scores)
        miss = (-scores).sigmoid()  # 1 - p

        log_seen = log_p.masked_fill(seen == 0, -torch.inf)
        log_sum = log_seen.logsumexp(0) if len(scores) else number.log()
        log_mean = torch.where(number > 0, log_sum - number.clamp(min=1).log(), 0.0)
        balance = (self.gamma * log_mean).exp()  # m_c^gamma
        share = (log_seen - torch.where(number > 0, log_sum, 0.0)).exp()  # p_bc over the sum of the column

        weights = scores.new_ones(len(pairs)) if pairs.weights is None else pairs.weights.to(scores)
        total = scores.new_zeros(scores.shape[1]).index_add_(0, pairs.cols, weights)
        weights = torch.where(total[pairs.cols] > 0, weights / total[pairs.cols], 0.0)
        value = balance * log_mean
        value.index_add_(0, pairs.cols, -weights * log_p[pairs.rows, pairs.cols])

        slope = share.mul_(balance)
        slope.index_put_((pairs.rows, pairs.cols), -weights, accumulate=True)
        torch.mul(slope, miss / temperature, out=scores)
        return value

    def temperatures(self, scores: torch.Tensor, seen: torch.Tensor, number: torch.Tensor) -> torch.Tensor:
        """t_c of each column, `[c]`; 1 where fewer than two queries say how the scores spread."""
        mean = (scores * seen).sum(0) / number.clamp(min=1)
        spread = ((scores - mean).square() * seen).sum(0).div_((number - 1).clamp(min=1)).sqrt()
        return torch.where(number > 1, (self.alpha * spread).clamp(LOWEST, 1.0), 1.0)
