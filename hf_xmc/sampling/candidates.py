"""Candidate rules: which labels of the catalogue enter the loss of a batch."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hf_xmc.losses.bags import Queries, dot_products
from hf_xmc.types import Positives

LABELS_PER_TILE = 2**14


def in_batch(positives: Positives) -> Tensor:
    """The positives of the batch without repetitions: label ids, sorted, `[C]`. If there are none, the result is
    label 0, so that a loss (of 0) and a graph exist.

    >>> in_batch(Positives(torch.tensor([0, 2, 3]), torch.tensor([4, 9, 4]))).tolist()
    [4, 9]
    """
    return torch.unique(positives.indices) if len(positives.indices) else positives.indices.new_zeros(1)


def to_columns(pairs: Positives, candidates: Tensor) -> Positives:
    """Catalogue ids mapped to columns of the candidate matrix; pairs whose label is not a candidate are dropped.

    Args:
        pairs: catalogue ids, tensors.
        candidates: sorted label ids `[C]`.

    >>> pairs = Positives(torch.tensor([0, 2, 3]), torch.tensor([4, 9, 5]))
    >>> columns = to_columns(pairs, torch.tensor([4, 9]))
    >>> columns.indptr.tolist(), columns.indices.tolist()
    ([0, 2, 2], [0, 1])
    """
    columns = torch.searchsorted(candidates, pairs.indices)
    kept = candidates[columns.clamp(max=len(candidates) - 1)] == pairs.indices  # [nnz]
    return Positives(pairs.indptr, columns, pairs.weights).keep(kept)


def repeat_columns(pairs: Positives, counts: Tensor, first: bool = False) -> Positives:
    """Pairs with columns of a matrix, as pairs of the matrix in which column c stands `counts[c]` times in a row.

    Args:
        pairs: tensors.
        counts: int64 `[C]`.
        first: only the first copy of each.

    >>> pairs, counts = Positives.from_lists([[0], [0, 1]]).torch(), torch.tensor([2, 1])
    >>> repeat_columns(pairs, counts).indices.tolist(), repeat_columns(pairs, counts, first=True).indices.tolist()
    ([0, 1, 0, 1, 2], [0, 0, 2])
    """
    starts = (counts.cumsum(0) - counts)[pairs.indices]  # [nnz]
    if first:
        return Positives(pairs.indptr, starts, pairs.weights)
    times = counts[pairs.indices]  # [nnz]
    ends = torch.cat([times.new_zeros(1), times.cumsum(0)])
    place = torch.arange(int(ends[-1]), device=times.device) - ends[:-1].repeat_interleave(times)
    weights = None if pairs.weights is None else pairs.weights.repeat_interleave(times)
    return Positives(ends[pairs.indptr], starts.repeat_interleave(times) + place, weights)


def all_but(pairs: list[Positives], num_columns: int, with_: Positives | None = None) -> Positives:
    """All pairs of a matrix `[B, num_columns]` that are in none of these sets, and in any case those of `with_`; ids
    are columns.

    >>> positives, negatives = Positives.from_lists([[0], [2]]).torch(), Positives.from_lists([[], [0]]).torch()
    >>> all_but([positives, negatives], 3).indices.tolist()
    [1, 2, 1]
    """
    rest = torch.ones(len(pairs[0]), num_columns, dtype=torch.bool, device=pairs[0].indices.device)
    for named in pairs:
        rest[named.rows, named.indices] = False
    if with_ is not None:
        rest[with_.rows, with_.indices] = True
    counts = rest.sum(1)
    return Positives(torch.cat([counts.new_zeros(1), counts.cumsum(0)]), rest.nonzero()[:, 1])


def left_out(ignored: Positives | None, undrawn: Positives) -> Positives | None:
    """Ignored pairs, and positives that were not drawn, which share no pair: both take no part in a loss.

    >>> found = left_out(Positives.from_lists([[4], []]).torch(), Positives.from_lists([[2], [7]]).torch())
    >>> found.indptr.tolist(), found.indices.tolist()
    ([0, 2, 3], [2, 4, 7])
    """
    if not len(undrawn.indices):
        return ignored
    undrawn = Positives(undrawn.indptr, undrawn.indices)
    if ignored is None:
        return undrawn
    rows, ids = torch.cat([ignored.rows, undrawn.rows]), torch.cat([ignored.indices, undrawn.indices])
    stride = int(ids.max()) + 1
    keys = torch.unique(rows * stride + ids)
    counts = torch.bincount(keys // stride, minlength=len(ignored))
    return Positives(torch.cat([counts.new_zeros(1), counts.cumsum(0)]), keys % stride)


def by_gradient(
    norms: Tensor, positives: Tensor, budget: int, random_share: float = 0.0, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """The positives, the labels with the largest gradient norms, and a random sample that represents all others.

    Args:
        norms: gradient norm of each label, `[L]`.
        positives: label ids that are always candidates, sorted, even beyond the budget.
        budget: number of candidates.
        random_share: share of the places left by the positives that is drawn at random from the remaining labels.
        seed: seed of the draw.

    Returns:
        Ids of the candidates, sorted, `[C]`, and the logarithm of the weight of each, `[C]`: 0, or for the drawn ones
        log(remaining labels / drawn labels). With these weights a sum over the candidates is an unbiased estimate of
        the sum over all labels, as in sampled softmax.

    >>> ids, log_weights = by_gradient(torch.tensor([0.1, 0.0, 0.9, 0.3]), torch.tensor([1]), budget=3)
    >>> ids.tolist(), log_weights.tolist()
    ([1, 2, 3], [0.0, 0.0, 0.0])
    """
    places = max(0, min(budget, len(norms)) - len(positives))
    drawn = round(places * random_share)
    keys = norms.clone()
    keys[positives] = torch.inf
    chosen = keys.topk(len(positives) + places - drawn).indices
    log_weights = torch.zeros_like(norms)  # [L]
    if drawn:
        keys[chosen] = torch.inf
        left = (keys < torch.inf).nonzero().squeeze(1)
        order = torch.randperm(len(left), generator=torch.Generator().manual_seed(seed)).to(norms.device)
        extra = left[order[:drawn]]
        log_weights[extra] = math.log(len(left) / drawn)
        chosen = torch.cat([chosen, extra])
    chosen = chosen.sort().values
    return chosen, log_weights[chosen]


def hardest_negatives(queries: Queries, labels: Tensor, excluded: list[Positives], count: int) -> Tensor:
    """The `count` best-scoring labels of each query that are not excluded: their ids, without repetitions, sorted.

    Args:
        queries: `[B, D]`, or of passages.
        labels: `[L, D]` in any dtype, on any device; scored in tiles.
        excluded: pairs that are not negatives: positives and ignored pairs.

    >>> queries, labels = torch.eye(2), torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.1, 0.8]])
    >>> hardest_negatives(queries, labels, [Positives.from_lists([[0], [2]]).torch()], count=1).tolist()
    [1]
    """
    count = min(count, len(labels))
    queries = queries.detach().to(torch.float32)
    row, col = torch.cat([p.rows for p in excluded]), torch.cat([p.indices for p in excluded])
    best = torch.full((len(queries), count), -torch.inf, device=queries.device)  # [B, count]
    ids = torch.zeros_like(best, dtype=torch.int64)
    for start in range(0, len(labels), LABELS_PER_TILE):
        tile = labels[start : start + LABELS_PER_TILE].to(best)
        scores = dot_products(queries, tile)  # [B, c]
        inside = (col >= start) & (col < start + len(tile))
        scores[row[inside], col[inside] - start] = -torch.inf
        tile_best, tile_ids = scores.topk(min(count, len(tile)), dim=1)
        best, place = torch.cat([best, tile_best], 1).topk(count, dim=1)
        ids = torch.cat([ids, tile_ids + start], 1).gather(1, place)
    return torch.unique(ids[best > -torch.inf])
