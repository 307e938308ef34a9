"""Candidate rules: which labels of the catalogue enter the loss of a batch."""

from __future__ import annotations

import torch
from torch import Tensor

from hf_xmc.types import Positives


def in_batch(positives: Positives) -> Tensor:
    """The positives of the batch, each once: label ids, sorted, `[C]`. Where there is none, label 0 stands in, so that
    a loss (of 0) and a graph exist.

    >>> in_batch(Positives(torch.tensor([0, 2, 3]), torch.tensor([4, 9, 4]))).tolist()
    [4, 9]
    """
    return torch.unique(positives.indices) if len(positives.indices) else positives.indices.new_zeros(1)


def to_columns(pairs: Positives, candidates: Tensor) -> Positives:
    """Catalogue ids to columns of the candidate matrix; pairs whose label is no candidate fall away.

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
    before = torch.cat([kept.new_zeros(1, dtype=torch.int64), kept.cumsum(0)])  # kept pairs before each pair
    weights = None if pairs.weights is None else pairs.weights[kept]
    return Positives(before[pairs.indptr], columns[kept], weights)
