"""Label-distributionally robust losses (LDR): softmax with a temperature and a margin, for labels in doubt."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from hf_xmc.errors import SettingsError
from hf_xmc.losses.bags import Queries
from hf_xmc.losses.decoupled import against_negatives
from hf_xmc.losses.loss import TEMPERATURE
from hf_xmc.losses.streaming import StreamingLoss, Tile
from hf_xmc.types import Positives


class LabelDistributionallyRobustLoss(StreamingLoss):
    """Mean over queries of the mean over p in P_b of  t log( (1/K_b) (1 + sum_n exp((d_n - d_p + margin) / t)) ).

    d are the raw dot products, n the negatives of the query, K_b is one more than their number, and t the
    temperature. From "Label Distributionally Robust Losses for Multi-class Classification" (Zhu, Ying, Yang, ICML
    2023), in the form of decoupled softmax for several positives: none competes with another. A high temperature
    spreads the push over many negatives, which forgives some wrong labels; a low one comes near to a margin to the
    hardest negative.

    With a margin of 0 it is t (`DecoupledSoftmaxLoss(temperature=t)` - log K_b), K_b inside the mean: its gradients
    are those of decoupled softmax, times t.

    With `alpha` the temperature of each query adapts (ALDR): t_b = t (1 - D_b / (alpha log K_b)), where D_b is the
    mean over p of the divergence between the softmax of p and the negatives, at temperature t, and the uniform
    distribution. A confident query thus gets a temperature near t (1 - 1 / alpha), a doubtful one t. It is taken as a
    constant in the gradient, as in the paper. The paper keeps a temperature for each query from epoch to epoch; this
    makes one step of the same fixed-point iteration, and keeps nothing.

    Args:
        temperature: t, or the highest temperature with `alpha`.
        margin: 2 in the paper for scores without a bound, 1 with `alpha`; dot products of embeddings of unit length
            differ by at most 2.
        alpha: above 1; None keeps the temperature fixed.
        chunk_size: see `StreamingLoss`.
        process_group: see `StreamingLoss`.

    >>> queries, labels = torch.eye(2), torch.eye(3, 2)
    >>> positives = Positives.from_lists([[0], [0, 1]]).torch()
    >>> loss = LabelDistributionallyRobustLoss(temperature=1.0, margin=0.5)
    >>> round(loss(queries, labels, positives).item(), 4)
    -0.1367
    """

    name = "ldr"
    summary = "LDR, against wrong labels"
    score_is_log_weight = True

    def __init__(
        self,
        temperature: float = TEMPERATURE,
        margin: float = 0.0,
        alpha: float | None = None,
        chunk_size: int | None = None,
        process_group: torch.distributed.ProcessGroup | None = None,
    ) -> None:
        super().__init__(temperature, chunk_size, process_group)
        if margin < 0:
            raise SettingsError(f"margin is {margin}; it must be at least 0")
        if alpha is not None and alpha <= 1:
            raise SettingsError(f"alpha is {alpha}; it must be above 1, or None for a fixed temperature")
        self.margin = margin
        self.alpha = alpha

    @classmethod
    def from_arguments(cls, arguments: Any, temperature: float) -> LabelDistributionallyRobustLoss:
        """See [`Loss`]; `ldr_alpha` 0 stands for a fixed temperature."""
        return cls(temperature, arguments.ldr_margin, arguments.ldr_alpha or None)

    def extra_repr(self) -> str:
        return f"margin={self.margin}, alpha={self.alpha}, {super().extra_repr()}"

    def forward(
        self,
        queries: Queries,
        labels: torch.Tensor,
        positives: Positives,
        sampled: Positives | None = None,
        ignored: Positives | None = None,
        log_weights: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The loss of queries `[B, D]` against labels `[C, D]`, a scalar. It may be negative.

        Args:
            positives: tensors, like the embeddings; ids are rows of `labels`. Queries with none add nothing. With
                weights, the mean over the positives of a query is the weighted one.
            sampled: use these positives only; the others are in no denominator.
            ignored: pairs that are neither positive nor negative.
            log_weights: the logarithm of how many labels each row of `labels` stands for, `[C]`; zeros by default.
                They count in K_b.

        Raises:
            ValueError: ids outside the labels, a label twice in a row (the message names it), shapes that do not fit.
        """
        batch = self.read(queries, labels, positives, sampled, ignored)
        rows = partial(self.rows, copies=None if log_weights is None else log_weights.exp())
        return self.stream(rows, queries, labels, batch, batch.num_queries_with_positives, log_weights)

    def rows(self, tile: Tile, copies: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        """The loss of whole rows; see `streaming.RowLoss`. `copies` is how many labels each one stands for, `[C]`."""
        weights, score, log_k = tile.mean_weights(), tile.take(), log_candidates(tile, copies)
        tile.put(tile.pairs, -torch.inf)
        tile.put(tile.removed, -torch.inf)
        temperature = torch.full_like(log_k, self.temperature)  # [b]
        if self.alpha is not None:
            divergence = self.divergences(tile, score, weights, log_k)
            temperature -= self.temperature / self.alpha * torch.where(log_k > 0, divergence / log_k, 0.0).clamp(0, 1)
            sharper = self.temperature / temperature  # scores over the usual temperature times this are over t_b
            tile.scores.mul_(sharper[:, None])
            score = score * sharper[tile.pairs.rows]
        of_pair = temperature[tile.pairs.rows]  # [nnz]
        score = score - self.margin / of_pair
        # The gradient with respect to raw dot products is that of a softmax; the scores are those over t.
        margin, factor = against_negatives(tile, score, weights * self.temperature)
        terms = of_pair * (margin.logaddexp(margin.new_zeros(())) - log_k[tile.pairs.rows])
        return tile.sum_pairs(weights * terms), factor

    def divergences(self, tile: Tile, score: torch.Tensor, weights: torch.Tensor, log_k: torch.Tensor) -> torch.Tensor:
        """D_b, `[b]`: log K plus the mean over p of the negative entropy of its softmax, which includes the margin.

        Two sums over the negatives of a row are enough for all of its positives: of the exponentials, and of the
        exponentials times the score.
        """
        scores, rows = tile.scores, tile.pairs.rows
        top = scores.amax(1) if scores.shape[1] else scores.new_full((len(scores),), -torch.inf)
        top = tile.shard.max_(top).masked_fill_(top == -torch.inf, 0.0)
        sums = scores.new_zeros(2, len(scores))
        for part_rows, part in tile.parts():
            below = part - top[part_rows, None]
            power = below.exp()
            sums[0, part_rows] = power.sum(1)
            sums[1, part_rows] = power.mul_(below.clamp_(min=torch.finfo(below.dtype).min)).sum(1)
        total, moment = tile.shard.sum_(sums)
        own = score - self.margin / self.temperature - top[rows]  # [nnz]
        log_total = total.log()[rows]
        log_sum = own.logaddexp(log_total)  # of the positive and the negatives
        own_share = (own - log_sum).exp()
        mean_score = own_share * own + (log_total - log_sum).exp() * torch.where(total > 0, moment / total, 0.0)[rows]
        return tile.sum_pairs(weights * (log_k[rows] + mean_score - log_sum), everywhere=True)


def log_candidates(tile: Tile, copies: torch.Tensor | None) -> torch.Tensor:
    """log K_b, `[b]`: of one more than the number of negatives of each row."""
    if copies is None:
        count = tile.num_candidates - tile.sum_pairs(tile.scores.new_ones(len(tile.pairs)), everywhere=True)
        return count.to(tile.scores.dtype).log1p()
    copies = copies.to(tile.scores)
    count = copies.sum().expand(len(tile.scores)).clone()  # [b]
    for pairs in (tile.pairs, tile.removed):
        count.index_add_(0, pairs.rows, -copies[pairs.cols])
    return tile.shard.sum_(count).clamp_(min=0).log1p()
