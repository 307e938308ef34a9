"""Soft top-k (DEXML): every positive should be among the k labels that a smooth selection picks."""

from __future__ import annotations

import math

import torch

from hf_xmc.losses.streaming import StreamingLoss, Tile
from hf_xmc.types import Positives

MOST_PASSES = 60  # bisection alone closes any bracket by then; the rule below takes about seven


class SoftTopKLoss(StreamingLoss):
    """Mean over queries of the mean over p in P_b of  -log z_bp,  z = sigmoid(alpha (s + t)) with t such that sum z = k.

    From DEXML, "Dual-Encoders for Extreme Multi-Label Classification" (Gupta et al., ICLR 2024). t is found without
    gradient; the gradient through it is implicit: with v = alpha z (1 - z), dz/ds = diag(v) - v v^T / sum(v).

    A query with no more than k candidates gets all of them selected: z = 1, loss and gradient 0.

    Args:
        temperature: scores are dot products divided by this.
        chunk_size: see `StreamingLoss`.
        k: how many labels are selected; None: as many as the query has positives (those that the loss runs over).
        alpha: steepness of the selection; 2 in the paper's code.
        process_group: see `StreamingLoss`.
    """

    def __init__(
        self,
        temperature: float = 0.05,
        chunk_size: int | None = None,
        k: int | None = 5,
        alpha: float = 2.0,
        process_group: torch.distributed.ProcessGroup | None = None,
    ) -> None:
        super().__init__(temperature, chunk_size, process_group)
        if k is not None and k < 1:
            raise ValueError(f"Found k = {k}; give 1 or more, or None for the number of positives.")
        if alpha <= 0:
            raise ValueError(f"Found alpha = {alpha}; it must be above zero.")
        self.k = k
        self.alpha = alpha

    def extra_repr(self) -> str:
        return f"k={self.k}, alpha={self.alpha}, {super().extra_repr()}"

    def forward(
        self,
        queries: torch.Tensor,
        labels: torch.Tensor,
        positives: Positives,
        sampled: Positives | None = None,
        ignored: Positives | None = None,
    ) -> torch.Tensor:
        """The loss of queries `[B, D]` against labels `[C, D]`, a scalar.

        Args:
            positives: on tensors beside the embeddings; ids are rows of `labels`. Queries with none add nothing. With
                weights, the mean over the positives of a query is the weighted one.
            sampled: run over these positives only; the others cannot be selected.
            ignored: pairs that are neither positive nor negative; they cannot be selected.

        Raises:
            ValueError: ids outside the labels, a label twice in a row (the message names it), shapes that do not fit.
        """
        batch = self.read(queries, labels, positives, sampled, ignored)
        return self.stream(self.rows, queries, labels, batch) / batch.num_queries_with_positives

    def rows(self, tile: Tile) -> tuple[torch.Tensor, torch.Tensor]:
        """Soft top-k of whole rows; see `streaming.RowLoss`."""
        k = tile.num_pairs if self.k is None else torch.full_like(tile.num_pairs, self.k)
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
    """t `[b]` with sum_l sigmoid(alpha (s_l + t)) = k, and whether a row has one (k is below its candidates), bool `[b]`.

    Newton's rule on log(sum) - log(k), which is a straight line in t while no label is selected yet. A step that leaves
    the bracket, or after one that did not halve the error, is a bisection. `low` and `high` bound the scores.
    """
    count = tile.num_candidates
    solved = (k > 0) & (k < count)
    k = torch.where(solved, k, 1).to(low.dtype)
    count = torch.where(solved, count, 2).to(low.dtype)
    shift = ((k / count).logit()) / alpha
    left, right = shift - high, shift - low  # [b]: with these, all labels are at most, at least k / count
    t, error, done = left.clone(), torch.full_like(left, math.inf), ~solved
    # The step after the last check squares what is left of the error.
    tolerance = 1e-7 if t.dtype == torch.float64 else 1e-4
    for _ in range(MOST_PASSES):
        total, slope = _selected(tile, t, alpha)
        before, error = error, total.log() - k.log()
        left, right = torch.where(error < 0, t, left), torch.where(error < 0, right, t)
        newton = t - error * total / (alpha * slope)
        close = error.abs() <= tolerance
        usable = (newton > left) & (newton < right) & (error.abs() <= before.abs() / 2)
        following = torch.where(usable, newton, (left + right) / 2)
        following = torch.where(close, torch.where(slope > 0, newton, t), following)
        t = torch.where(done, t, following)
        done |= close
        if done.all():
            break
    return torch.where(solved, t, 0.0), solved


def _selected(tile: Tile, t: torch.Tensor, alpha: float) -> tuple[torch.Tensor, torch.Tensor]:
    """sum z and sum z (1 - z) over the labels of all ranks, `[b]` each."""
    sums = t.new_empty(2, len(t))
    for rows, part in tile.parts():
        z = (part + t[rows, None]).mul_(alpha).sigmoid_()
        sums[0, rows] = z.sum(1)
        sums[1, rows] = sums[0, rows] - torch.linalg.vecdot(z, z)
    tile.shard.sum_(sums)
    return sums[0], sums[1]
