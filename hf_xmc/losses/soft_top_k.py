"""Soft top-k (DEXML): every positive should be among the k labels that a smooth selection picks."""

from __future__ import annotations

import math
from typing import Any

import torch

from hf_xmc.errors import SettingsError
from hf_xmc.losses.bags import Queries
from hf_xmc.losses.loss import TEMPERATURE
from hf_xmc.losses.streaming import StreamingLoss, Tile, has_kernels
from hf_xmc.types import Positives

MOST_PASSES = 100  # enough for bisection alone; the rule below takes 3 to 15, mostly under 10
FLAT = 0.1  # slope of the sum, as a share of k, below which few labels are still undecided


class SoftTopKLoss(StreamingLoss):
    """Mean over queries of the mean over p in P_b of  -log z_bp,  z = sigmoid(alpha (s + t)),  t such that sum z = k.

    From DEXML, "Dual-Encoders for Extreme Multi-Label Classification" (Gupta et al., ICLR 2024). t is found without
    gradient; the gradient through it is implicit: with v = alpha z (1 - z), dz/ds = diag(v) - v v^T / sum(v).

    If a query has at most k candidates, all of them are selected: z = 1, and loss and gradient are 0.

    Args:
        temperature: scores are dot products divided by this.
        chunk_size: see `StreamingLoss`.
        k: number of labels that are selected; None for the number of positives of the query.
        alpha: steepness of the selection; 2 in the paper's code.
        process_group: see `StreamingLoss`.
    """

    name = "soft_top_k"
    summary = "DEXML"

    def __init__(
        self,
        temperature: float = TEMPERATURE,
        chunk_size: int | None = None,
        k: int | None = 5,
        alpha: float = 2.0,
        process_group: torch.distributed.ProcessGroup | None = None,
    ) -> None:
        super().__init__(temperature, chunk_size, process_group)
        if k is not None and k < 1:
            raise SettingsError(f"k is {k}; it must be at least 1, or None for the number of positives")
        if alpha <= 0:
            raise SettingsError(f"alpha is {alpha}; it must be above 0")
        self.k = k
        self.alpha = alpha

    @classmethod
    def from_arguments(cls, arguments: Any, temperature: float) -> SoftTopKLoss:
        """See [`Loss`]; `soft_top_k` is k, and 0 stands for the number of positives."""
        return cls(temperature, k=arguments.soft_top_k or None, alpha=arguments.soft_top_k_alpha)

    def extra_repr(self) -> str:
        return f"k={self.k}, alpha={self.alpha}, {super().extra_repr()}"

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
            positives: tensors, like the embeddings; ids are rows of `labels`. Queries with none add nothing. With
                weights, the mean over the positives of a query is the weighted one.
            sampled: use these positives only; the others cannot be selected.
            ignored: pairs that are neither positive nor negative; they cannot be selected.

        Raises:
            ValueError: ids outside the labels, a label twice in a row (the message names it), shapes that do not fit.
        """
        batch = self.read(queries, labels, positives, sampled, ignored)
        return self.stream(self.rows, queries, labels, batch, batch.num_queries_with_positives)

    def rows(self, tile: Tile) -> tuple[torch.Tensor, torch.Tensor]:
        """Soft top-k of whole rows; see `streaming.RowLoss`."""
        k = tile.num_positives if self.k is None else torch.full_like(tile.num_positives, self.k)
        weights, score = tile.mean_weights(), tile.take()  # [nnz]
        low, high = tile.range()  # [b], before the removed ones become -inf
        tile.put(tile.removed, -torch.inf)
        t, solved = solve_threshold(tile, k, self.alpha, low, high)

        z = tile.scores.add_(t[:, None]).mul_(self.alpha).sigmoid_()  # [b, C]
        v = z.addcmul_(z, z, value=-1)
        total = tile.shard.sum_(v.sum(1))
        total = torch.where(total > 0, total, 1.0)  # all z are 0 or 1 to the last digit, v is 0: so is dt

        rows = tile.pairs.rows
        logit = self.alpha * (score + t[rows])  # [nnz]
        weights = torch.where(solved[rows], weights, 0.0)
        value = tile.sum_pairs(weights * (-logit).logaddexp(logit.new_zeros(())))
        pull = weights * (-logit).sigmoid()  # w_p (1 - z_p)
        pulls = tile.sum_pairs(pull, everywhere=True)  # [b]
        share = torch.where(pulls > 0, total / pulls, 0.0)
        tile.put(tile.pairs, tile.take() - pull * share[rows])
        return value, self.alpha * pulls / total


def solve_threshold(
    tile: Tile, k: torch.Tensor, alpha: float, low: torch.Tensor, high: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """t `[b]` with sum_l sigmoid(alpha (s_l + t)) = k, and which rows have one (k below their candidates), bool `[b]`.

    Newton's method on the logarithm of the sum, which is linear in t before the first label is selected. If a few
    labels are almost selected and all others almost not, the sum equals k to the last digit over a wide range of t.
    The method then uses a ratio instead: the sum of z over the labels below 1/2, divided by the sum of 1 - z over
    those above (plus the whole labels that are too many or too few), whose logarithm is linear between two selections.
    A step that leaves the bracket, or follows one that did not halve the error, is a bisection. `low` and `high` bound
    the scores of a row.
    """
    solvable = (k > 0) & (k < tile.num_candidates)
    k = torch.where(solvable, k, 1).to(low.dtype)
    count = torch.where(solvable, tile.num_candidates, 2).to(low.dtype)
    shift = (k / count).logit() / alpha
    left, right = shift - high, shift - low  # [b]: there every z is at most, or at least, k / count
    t, error = left.clone(), torch.full_like(left, math.inf)
    settled = ~solvable
    tolerance = 3e-6 if t.dtype == torch.float64 else 1e-3  # of a step; the error after it is about its square
    for _ in range(MOST_PASSES):
        above, lacking, having, lacking_slope, having_slope = _selection(tile, t, alpha)
        having = having + (above - k).clamp(min=0)
        lacking = lacking + (k - above).clamp(min=0)
        before, error = error, having - lacking  # sum z - k
        left, right = torch.where(error < 0, t, left), torch.where(error < 0, right, t)
        slope = having_slope + lacking_slope
        by_sum = (error / k).log1p() * (k + error) / slope
        by_ratio = (having.log() - lacking.log()) / (having_slope / having + lacking_slope / lacking)
        step = -torch.where(slope > FLAT * k, by_sum, by_ratio) / alpha
        newton = t + step
        usable = (newton >= left) & (newton <= right) & (error.abs() <= before.abs() / 2)
        following = torch.where(usable, newton, (left + right) / 2)
        t = torch.where(settled, t, following)
        settled |= (step.abs() * alpha <= tolerance) | (right - left <= t.abs() * torch.finfo(t.dtype).eps)
        if settled.all():
            break
    return torch.where(solvable, t, 0.0), solvable


def _selection(tile: Tile, t: torch.Tensor, alpha: float) -> torch.Tensor:
    """Sums over the labels of all ranks at the threshold t, `[5, b]`.

    The number of labels with z above 1/2, the sum of their 1 - z, the sum of the other z, and the slopes z (1 - z) of
    both.
    """
    if has_kernels(tile.scores):
        from hf_xmc.losses import row_kernels

        return tile.shard.sum_(row_kernels.selection(tile.scores, t, alpha))
    sums = t.new_zeros(5, len(t))
    for rows, part in tile.parts():
        distance = part + t[rows, None]
        is_above = distance > 0
        tail = distance.abs_().mul_(-alpha).sigmoid_()  # z below 1/2, 1 - z above
        total, squares = tail.sum(1), torch.linalg.vecdot(tail, tail)
        tail.mul_(is_above)
        sums[0, rows] = is_above.sum(1).to(t.dtype)
        sums[1, rows] = lacking = tail.sum(1)
        sums[2, rows] = (total - lacking).clamp_(min=0)
        sums[3, rows] = lacking - (lacking_squares := torch.linalg.vecdot(tail, tail))
        sums[4, rows] = (total - lacking) - (squares - lacking_squares)
    return tile.shard.sum_(sums)
