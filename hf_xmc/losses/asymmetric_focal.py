"""Asymmetric focal loss: binary cross entropy that discounts easy and doubtful negatives."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from scipy import sparse

from hf_xmc.errors import SettingsError
from hf_xmc.losses.bags import Queries
from hf_xmc.losses.loss import TEMPERATURE
from hf_xmc.losses.one_vs_all import exact_softplus
from hf_xmc.losses.pairs import Pairs, read_local
from hf_xmc.losses.streaming import StreamingLoss, Tile
from hf_xmc.types import Positives

BOOST = 1.2  # COMIC: what the probability of not having a label is multiplied by, where the label goes with a positive


class AsymmetricFocalLoss(StreamingLoss):
    """Mean over all B * C entries of  -(1 - p)^g+ log p  at positives and  -(1 - q)^g- log q  elsewhere.

    p = sigmoid(s) and q = min(1, 1 - p + clip): a negative whose probability is below `clip` has no part in the loss.
    From "Asymmetric Loss for Multi-Label Classification" (Ridnik et al., ICCV 2021). A missing positive, which is a
    negative with a high score, is still pushed: q makes the push weaker, as it lets it fall to 0 for p near 1.

    With `label_counts` and `co_occurrence` it is the multi-focal modifier of COMIC ("Learning in Imperfect
    Environment", Zhang et al., ICCV 2023): g- grows with the rarity of a label by (1 - ln(n_l / n_max))^(1/3), and
    where a label goes with the positives of the query (a_bl above 0, the mean over p of their co-occurrence), p
    becomes p (1 - a_bl) at a positive and q becomes min(1, 1.2 q) elsewhere.

    Args:
        temperature: scores are dot products divided by this.
        gamma_positive: g+; 0 in both papers.
        gamma_negative: g-; 4 in the first paper. COMIC's is 3, to which the rarity adds 1 or more.
        clip: 0.05 in both papers.
        label_counts: number of positives of each label of the catalogue, `[L]`.
        co_occurrence: symmetric, one row for each label, with weights from 0 to 1; see `co_occurrence_of`. The loss
            then needs all labels on each process.
        chunk_size: see `StreamingLoss`.
        process_group: see `StreamingLoss`.
    """

    name = "asymmetric_focal"
    summary = "ASL"

    def __init__(
        self,
        temperature: float = TEMPERATURE,
        gamma_positive: float = 0.0,
        gamma_negative: float = 4.0,
        clip: float = 0.05,
        label_counts: torch.Tensor | None = None,
        co_occurrence: Positives | None = None,
        chunk_size: int | None = None,
        process_group: torch.distributed.ProcessGroup | None = None,
    ) -> None:
        super().__init__(temperature, chunk_size, process_group)
        if min(gamma_positive, gamma_negative) < 0:
            raise SettingsError(f"gamma is {min(gamma_positive, gamma_negative)}; it must be at least 0")
        if not 0 <= clip < 1:
            raise SettingsError(f"clip is {clip}; it must be at least 0 and below 1")
        self.gamma_positive = gamma_positive
        self.gamma_negative = gamma_negative
        self.clip = clip
        self.rarity = None if label_counts is None else rarity(torch.as_tensor(label_counts))
        self.co_occurrence = None if co_occurrence is None else co_occurrence.torch()
        if co_occurrence is not None:
            if process_group is not None:
                raise SettingsError("co_occurrence needs all labels on each process, so it takes no process_group")
            self.can_shard = False  # type: ignore[misc]  # an instance that looks up the other positives of a query

    def extra_repr(self) -> str:
        gammas = f"gamma_positive={self.gamma_positive}, gamma_negative={self.gamma_negative}, clip={self.clip}"
        return f"{gammas}, {super().extra_repr()}"

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
            sampled: use these positives only; the others take no part, as if they were ignored, and their
                co-occurrence does not count.
            ignored: pairs that are neither positive nor negative; the mean is over the other entries.

        Raises:
            SettingsError: another number of labels than `label_counts` or `co_occurrence` has.
            ValueError: ids outside the labels, a label twice in a row (the message names it), shapes that do not fit.
        """
        batch = self.read(queries, labels, positives, sampled, ignored)
        shard = batch.shard
        for name, table in (("label_counts", self.rarity), ("co_occurrence", self.co_occurrence)):
            if table is not None and len(table) != shard.num_labels:
                raise SettingsError(
                    f"{name} has {len(table):,} labels, but {shard.num_labels:,} label embeddings were passed",
                    hint="use label_strategy all, which compares with the whole catalogue",
                )
        gamma = torch.full((len(labels),), self.gamma_negative, dtype=torch.float64, device=labels.device)
        if self.rarity is not None:
            first = shard.first_label
            gamma += self.rarity[first : first + len(labels)].to(gamma)
        rows = partial(self.rows, gamma=gamma)
        return self.stream(rows, queries, labels, batch, batch.num_candidates.sum().clamp(min=1))

    def rows(self, tile: Tile, gamma: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The loss of whole rows; see `streaming.RowLoss`. `gamma` is g- of each label, `[C]`."""
        weights, score, gamma = tile.weights(), tile.take(), gamma.to(tile.scores)
        near = self.near_labels(tile)
        tile.put(tile.pairs, -torch.inf)  # no term and no gradient as a negative
        tile.put(tile.removed, -torch.inf)
        value = tile.scores.new_zeros(len(tile.scores))
        for rows, part in tile.parts():
            boost = None if near is None else near.boosts(rows, part)
            terms, gradient = negative_terms(part, gamma, self.clip, boost)
            value[rows] = terms.sum(1)
            tile.scores[rows] = gradient
        share = None if near is None else near.at(tile.pairs)
        terms, gradient = positive_terms(score, self.gamma_positive, share)
        tile.put(tile.pairs, weights * gradient)
        return value + tile.sum_pairs(weights * terms), torch.ones_like(value)

    def near_labels(self, tile: Tile) -> NearLabels | None:
        """a_bl of all labels that go with a positive of their query."""
        table = self.co_occurrence
        if table is None:
            return None
        assert table.weights is not None
        device, rows, cols = tile.scores.device, tile.pairs.rows, tile.pairs.cols
        indptr, indices, weights = (x.to(device) for x in (table.indptr, table.indices, table.weights))
        counts = indptr[cols + 1] - indptr[cols]  # neighbours of each positive
        of_pair = torch.repeat_interleave(torch.arange(len(cols), device=device), counts)
        place = (
            torch.arange(len(of_pair), device=device) - (counts.cumsum(0) - counts)[of_pair] + indptr[cols][of_pair]
        )
        number = torch.bincount(rows, minlength=len(tile.scores))  # |P_b|
        shares = weights[place].to(tile.scores) / number[rows[of_pair]]
        keys, where = (rows[of_pair] * tile.scores.shape[1] + indices[place]).unique(return_inverse=True)
        total = shares.new_zeros(len(keys)).index_add_(0, where, shares)
        return NearLabels(keys, total, tile.scores.shape[1])


@dataclass
class NearLabels:
    """Entries of the score matrix whose label goes with a positive of the query: `keys` as in `Pairs`, rising."""

    keys: torch.Tensor
    shares: torch.Tensor  # a_bl of each, above 0
    num_labels: int

    def boosts(self, rows: slice, part: torch.Tensor) -> torch.Tensor:
        """log of what 1 - p is multiplied by, in the shape of a part of the scores."""
        start, stop = rows.start * self.num_labels, (rows.start + len(part)) * self.num_labels
        inside = self.keys[(self.keys >= start) & (self.keys < stop)] - start
        return torch.zeros_like(part).view(-1).index_fill_(0, inside, math.log(BOOST)).view_as(part)

    def at(self, pairs: Pairs) -> torch.Tensor:
        """a_bl of these pairs, `[nnz]`; 0 for those that are not here."""
        if not len(self.keys):
            return self.shares.new_zeros(len(pairs))
        place = torch.searchsorted(self.keys, pairs.keys).clamp_(max=len(self.keys) - 1)
        return torch.where(self.keys[place] == pairs.keys, self.shares[place], 0.0)


def positive_terms(
    score: torch.Tensor, gamma: float, share: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """-(1 - p)^gamma log p of positives `[nnz]`, and its derivative; p = sigmoid(s) (1 - share)."""
    log_p = -exact_softplus(-score)
    if share is not None:
        log_p = log_p + (1 - share).clamp(min=1e-8).log()
    p, miss = log_p.exp(), -torch.expm1(log_p)  # 1 - p
    focus = miss**gamma
    slope = -focus if gamma == 0 else torch.where(miss > 0, gamma * miss ** (gamma - 1) * p * log_p - focus, 0.0)
    return -focus * log_p, slope * (-score).sigmoid()


def negative_terms(
    scores: torch.Tensor, gamma: torch.Tensor, clip: float, log_boost: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """-(1 - q)^gamma log q of negatives `[b, C]`, and its derivative; q = min(1, boost (1 - sigmoid(s) + clip))."""
    log_miss = -exact_softplus(scores)  # log(1 - p)
    log_q = log_miss
    if clip:
        log_q = log_q.logaddexp(log_q.new_tensor(clip).log())
    if log_boost is not None:
        log_q = log_q + log_boost
    counts = log_q < 0
    log_q = log_q.clamp(max=0)
    p = -torch.expm1(log_q)  # 1 - q
    focus = p**gamma
    # dq/ds = -boost sigmoid(s) (1 - sigmoid(s)), here over q
    slope = (log_miss - exact_softplus(-scores) - log_q + (0.0 if log_boost is None else log_boost)).exp()
    inner = torch.where(p > 0, gamma * p ** (gamma - 1) * log_q.exp() * log_q, 0.0)
    return -focus * log_q, torch.where(counts, slope * (focus - inner), 0.0)


def rarity(counts: torch.Tensor) -> torch.Tensor:
    """What COMIC adds to g- of each label, `[L]`: (1 - ln(n_l / n_max))^(1/3), 1 for the most frequent one.

    >>> rarity(torch.tensor([100, 100, 0])).round(decimals=2).tolist()
    [1.0, 1.0, 1.78]
    """
    counts = counts.double().clamp(min=1)
    return (1 - (counts / counts.max()).log()) ** (1 / 3)


def co_occurrence_of(positives: Positives, num_labels: int) -> Positives:
    """How often labels go together, for [`AsymmetricFocalLoss`]: the queries that have both, over those that have the
    rarer one. Numpy arrays, one row for each label, sparse.

    >>> table = co_occurrence_of(Positives.from_lists([[0, 1], [0], [2]]), 3)
    >>> table.indptr.tolist(), table.indices.tolist(), table.weights.tolist()
    ([0, 1, 2, 2], [1, 0], [1.0, 1.0])
    """
    pairs = positives.numpy()
    ones = np.ones(len(pairs.indices), dtype=np.float32)
    truth = sparse.csr_array((ones, pairs.indices, pairs.indptr), shape=(len(pairs), num_labels))
    both = (truth.T @ truth).tocoo()
    counts = pairs.label_counts(num_labels)
    row, col = both.coords
    other = row != col
    row, col, number = row[other], col[other], both.data[other]
    share = number / np.minimum(counts[row], counts[col])
    order = np.lexsort((col, row))
    indptr = np.concatenate([[0], np.bincount(row, minlength=num_labels).cumsum()])
    return Positives(indptr, col[order].astype(np.int64), share[order].astype(np.float32))
