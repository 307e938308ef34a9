"""The pairs of a batch that a loss treats by themselves: positives, sampled positives, ignored pairs."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from hf_xmc.types import Positives


@dataclass(frozen=True)
class Pairs:
    """Query-label pairs in row order, as coordinates of the score matrix.

    `rows`, `cols`: int64 `[nnz]`; `weights`: `[nnz]`, or None for ones; `num_labels`: width of the matrix.
    """

    rows: torch.Tensor
    cols: torch.Tensor
    weights: torch.Tensor | None
    num_labels: int

    @property
    def keys(self) -> torch.Tensor:
        """One number a pair, rising; int64 `[nnz]`."""
        return self.rows * self.num_labels + self.cols

    def __len__(self) -> int:
        return len(self.rows)

    def select(self, which: torch.Tensor) -> Pairs:
        """The pairs at `which`, a boolean mask or an index."""
        weights = None if self.weights is None else self.weights[which]
        return Pairs(self.rows[which], self.cols[which], weights, self.num_labels)

    def find(self, other: Pairs) -> tuple[torch.Tensor, torch.Tensor]:
        """Where each pair of `other` stands here, int64 `[len(other)]`, and whether it does, bool `[len(other)]`."""
        if not len(self):
            return torch.zeros_like(other.rows), torch.zeros_like(other.rows, dtype=torch.bool)
        keys, wanted = self.keys, other.keys
        at = torch.searchsorted(keys, wanted).clamp_(max=len(keys) - 1)
        return at, keys[at] == wanted


def read_pairs(csr: Positives, num_queries: int, num_labels: int, name: str = "positives") -> Pairs:
    """The pairs of a `Positives` on tensors, checked in one pass.

    Raises:
        ValueError: another number of rows than queries, ids outside the labels, a label twice in a row, weights below
            zero. The message names the row. Rows that are merely not sorted are sorted.
    """
    if len(csr) != num_queries or len(csr.indices) != int(csr.indptr[-1]):
        raise ValueError(
            f"Found {num_queries} queries, but {name} with {len(csr)} rows and {len(csr.indices)} indices of "
            f"{int(csr.indptr[-1])}; give one row a query."
        )
    cols = csr.indices.long()
    rows = torch.repeat_interleave(torch.arange(num_queries, device=cols.device), csr.counts, output_size=len(cols))
    pairs = Pairs(rows, cols, csr.weights, num_labels)
    if csr.weights is not None and len(csr.weights) != len(cols):
        raise ValueError(f"Found {len(csr.weights)} weights for {len(cols)} {name}; give one a pair.")
    if not len(cols):
        return pairs
    keys = pairs.keys
    wrong = [cols.min() < 0, cols.max() >= num_labels, (keys[1:] <= keys[:-1]).any()]
    if csr.weights is not None:
        wrong.append((csr.weights < 0).any())
    if not torch.stack(wrong).any():  # the one wait for the device
        return pairs
    return _sort_or_raise(pairs, name)


def _sort_or_raise(pairs: Pairs, name: str) -> Pairs:
    """Say what is wrong with the pairs; if only their order is, sort them."""
    outside = (pairs.cols < 0) | (pairs.cols >= pairs.num_labels)
    if outside.any():
        i = int(outside.int().argmax())
        raise ValueError(
            f"Row {int(pairs.rows[i])} of {name} refers to label id {int(pairs.cols[i]):,}, but {pairs.num_labels:,} "
            "label embeddings were passed; ids are rows of the labels passed, not ids of the catalogue."
        )
    if pairs.weights is not None and (pairs.weights < 0).any():
        i = int((pairs.weights < 0).int().argmax())
        raise ValueError(
            f"Row {int(pairs.rows[i])} of {name} has the weight {float(pairs.weights[i])} for label id "
            f"{int(pairs.cols[i])}; a weight must not be below zero."
        )
    keys, order = pairs.keys.sort()
    pairs = pairs.select(order)
    twice = keys[1:] == keys[:-1]
    if twice.any():
        i = int(twice.int().argmax())
        raise ValueError(
            f"Row {int(pairs.rows[i])} of {name} names label id {int(pairs.cols[i])} more than once; "
            "remove the duplicate."
        )
    return pairs
