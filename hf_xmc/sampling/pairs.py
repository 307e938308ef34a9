"""Pairs of queries and labels as sets: picked, joined, left out. All on torch tensors."""

from __future__ import annotations

import torch
from torch import Tensor

from hf_xmc.types import Positives


def keep(pairs: Positives, kept: Tensor) -> Positives:
    """The pairs where the mask `[nnz]` holds, in as many rows.

    >>> keep(Positives.from_lists([[4, 9], [5]]).torch(), torch.tensor([False, True, True])).indptr.tolist()
    [0, 1, 2]
    """
    before = torch.cat([kept.new_zeros(1, dtype=torch.int64), kept.cumsum(0)])  # kept pairs before each pair
    weights = None if pairs.weights is None else pairs.weights[kept]
    return Positives(before[pairs.indptr], pairs.indices[kept], weights)


def rows_of(pairs: Positives) -> Tensor:
    """The row of each pair, int64 `[nnz]`.

    >>> rows_of(Positives.from_lists([[4, 9], [], [5]]).torch()).tolist()
    [0, 0, 2]
    """
    return torch.repeat_interleave(torch.arange(len(pairs), device=pairs.indices.device), pairs.counts)


def among(pairs: Positives, others: Positives) -> Tensor:
    """Which pairs stand in `others` too, bool `[nnz]`.

    >>> among(Positives.from_lists([[4, 9], [4]]).torch(), Positives.from_lists([[9], [5]]).torch()).tolist()
    [False, True, False]
    """
    width = 1 + max((int(p.indices.max()) for p in (pairs, others) if len(p.indices)), default=0)
    keys, wanted = (rows_of(p) * width + p.indices for p in (pairs, others))
    return torch.isin(keys, wanted)


def all_but(pairs: list[Positives], num_columns: int, with_: Positives | None = None) -> Positives:
    """Every pair of a matrix `[B, num_columns]` that none of these names, and those of `with_` in any case; ids are
    columns.

    >>> positives, negatives = Positives.from_lists([[0], [2]]).torch(), Positives.from_lists([[], [0]]).torch()
    >>> all_but([positives, negatives], 3).indices.tolist()
    [1, 2, 1]
    """
    rest = torch.ones(len(pairs[0]), num_columns, dtype=torch.bool, device=pairs[0].indices.device)
    for named in pairs:
        rest[rows_of(named), named.indices] = False
    if with_ is not None:
        rest[rows_of(with_), with_.indices] = True
    counts = rest.sum(1)
    return Positives(torch.cat([counts.new_zeros(1), counts.cumsum(0)]), rest.nonzero()[:, 1])


def from_padded(ids: Tensor) -> Positives:
    """A table `[B, K]` of label ids, padding -1, as pairs; sorted.

    >>> pairs = from_padded(torch.tensor([[7, 2, -1], [-1, -1, -1]]))
    >>> pairs.indptr.tolist(), pairs.indices.tolist()
    ([0, 2, 2], [2, 7])
    """
    ids = ids.long().sort(1).values  # padding first
    real = ids >= 0
    counts = real.sum(1)
    return Positives(torch.cat([counts.new_zeros(1), counts.cumsum(0)]), ids[real])
