"""Decoupled softmax (DEXML): each positive competes with the negatives, never with another positive."""

from __future__ import annotations

import torch
from torch import nn

from hf_xmc.losses.pairs import read_pairs
from hf_xmc.types import Positives


class DecoupledSoftmaxLoss(nn.Module):
    """Mean over queries of the mean over p in P_b of  -log( exp(s_bp) / (exp(s_bp) + sum_n exp(s_bn)) ).

    Args:
        temperature: scores are dot products divided by this.
        chunk_size: labels a tile; chosen from a memory budget if not given.
    """

    def __init__(self, temperature: float = 0.05, chunk_size: int | None = None) -> None:
        super().__init__()
        self.temperature = temperature
        self.chunk_size = chunk_size

    def forward(
        self,
        queries: torch.Tensor,
        labels: torch.Tensor,
        positives: Positives,
        sampled: Positives | None = None,
        ignored: Positives | None = None,
    ) -> torch.Tensor:
        """The loss of queries `[B, D]` against labels `[C, D]`, a scalar. Ids are rows of `labels`."""
        B, C = len(queries), len(labels)
        pairs = read_pairs(positives, B, C)
        excluded = pairs  # in no denominator
        if ignored is not None:
            out = read_pairs(ignored, B, C, "ignored")
            pairs = pairs.select(~out.find(pairs)[1])
        if sampled is not None:
            chosen = read_pairs(sampled, B, C, "sampled")
            pairs = pairs.select(chosen.find(pairs)[1])
        scores = queries.float() @ labels.float().T / self.temperature  # [B, C]
        negatives = scores.index_put((excluded.rows, excluded.cols), scores.new_tensor(-torch.inf))
        if ignored is not None:
            negatives = negatives.index_put((out.rows, out.cols), scores.new_tensor(-torch.inf))
        rest = negatives.logsumexp(1)  # [B]
        score = scores[pairs.rows, pairs.cols]  # [nnz]
        term = torch.logaddexp(score, rest[pairs.rows]) - score
        weights = term.new_ones(len(term)) if pairs.weights is None else pairs.weights.to(term)
        total = term.new_zeros(B).index_add(0, pairs.rows, weights)  # [B]
        return (weights * term / total[pairs.rows]).sum() / (total > 0).sum().clamp(min=1)
