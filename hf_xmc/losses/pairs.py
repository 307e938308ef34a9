"""The pairs of a batch that a loss treats separately: positives, sampled positives, ignored pairs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch

from hf_xmc.losses.sharding import Shard
from hf_xmc.types import Positives


@dataclass(frozen=True)
class Pairs:
    """Query-label pairs as coordinates of the score matrix, sorted by row and column.

    `rows`, `cols`: int64 `[nnz]`; `weights`: `[nnz]`, or None for ones; `num_labels`: width of the matrix.
    """

    rows: torch.Tensor
    cols: torch.Tensor
    weights: torch.Tensor | None
    num_labels: int

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def keys(self) -> torch.Tensor:
        """One number per pair, rising; int64 `[nnz]`."""
        return self.rows * self.num_labels + self.cols

    def select(self, which: torch.Tensor | slice) -> Pairs:
        """The pairs at `which`: a mask, an index or a slice."""
        weights = None if self.weights is None else self.weights[which]
        return Pairs(self.rows[which], self.cols[which], weights, self.num_labels)

    def shift(self, rows: int = 0, cols: int = 0, num_labels: int | None = None) -> Pairs:
        """The same pairs in a matrix that starts elsewhere."""
        num_labels = self.num_labels if num_labels is None else num_labels
        return Pairs(self.rows + rows, self.cols + cols, self.weights, num_labels)

    def holds(self, other: Pairs) -> torch.Tensor:
        """Which pairs of `other` are also in this set, bool `[len(other)]`."""
        if not len(self):
            return torch.zeros_like(other.rows, dtype=torch.bool)
        keys, wanted = self.keys, other.keys
        return keys[torch.searchsorted(keys, wanted).clamp_(max=len(keys) - 1)] == wanted


@dataclass(frozen=True)
class Batch:
    """What a loss needs in addition to the embeddings. Rows are the queries of all ranks, columns this rank's labels.

    `pairs` are the positives of the loss, `removed` the pairs that are in no denominator (ignored ones, and positives
    that were not sampled). Numbers per query, `[B]`, are over the labels of all ranks; `num_positives` includes
    positives that were not sampled.
    """

    shard: Shard
    pairs: Pairs
    removed: Pairs
    num_positives: torch.Tensor
    total_weight: torch.Tensor
    num_candidates: torch.Tensor

    @property
    def num_queries_with_positives(self) -> torch.Tensor:
        """The divisor of a mean over these queries; 1 if there are none."""
        return (self.total_weight > 0).sum().clamp(min=1)

    def tiles(self, bounds: list[int]) -> Iterator[tuple[int, int, Pairs, Pairs]]:
        """Blocks of rows between `bounds`: the first row, the row after the last, and pairs and removed pairs with
        rows counted from the first."""
        places = torch.tensor(bounds, device=self.pairs.rows.device)
        ends, removed_ends = (torch.searchsorted(p.rows, places).tolist() for p in (self.pairs, self.removed))
        for i, (start, stop) in enumerate(pairwise(bounds)):
            pairs = self.pairs.select(slice(ends[i], ends[i + 1])).shift(rows=-start)
            removed = self.removed.select(slice(removed_ends[i], removed_ends[i + 1])).shift(rows=-start)
            yield start, stop, pairs, removed


def queries_with_positives(positives: Positives, num_labels: int, ignored: Positives | None = None) -> torch.Tensor:
    """Number of queries that have a positive of weight above zero that is not ignored: the divisor of most losses.

    >>> int(queries_with_positives(Positives.from_lists([[0, 2], [], [1]]).torch(), 3))
    2
    """
    return (read_local(positives, num_labels, ignored).total_weight > 0).sum()


def read_local(positives: Positives, num_labels: int, ignored: Positives | None = None) -> Batch:
    """The pairs of this process alone."""
    return read_batch(Shard(None, 0, [len(positives)], [num_labels]), positives, None, ignored)


def read_batch(
    shard: Shard,
    positives: Positives,
    sampled: Positives | None = None,
    ignored: Positives | None = None,
    drop_unsampled: bool = True,
) -> Batch:
    """Check the pairs of this rank's queries, determine their roles, and gather those of all ranks.

    Raises:
        ValueError: see `read_pairs`; also a sampled pair that is not a positive.
    """
    shape = shard.own_num_queries, shard.num_labels
    pairs = read_pairs(positives, *shape)
    none = Pairs(pairs.rows[:0], pairs.cols[:0], None, shard.num_labels)
    chosen = pairs if sampled is None else read_pairs(sampled, *shape, "sampled")
    unknown = none if ignored is None else read_pairs(ignored, *shape, "ignored")
    if not (known := pairs.holds(chosen)).all():
        i = int((~known).int().argmax())
        raise ValueError(
            f"Row {int(chosen.rows[i])} of sampled names label id {int(chosen.cols[i])}, which is not among its "
            "positives; sample from the positives."
        )
    is_chosen, is_unknown = chosen.holds(pairs), unknown.holds(pairs)
    num_positives = torch.bincount(pairs.rows[~is_unknown], minlength=shard.own_num_queries)
    removed = _union(pairs.select(~is_chosen) if drop_unsampled else none, unknown)
    pairs = pairs.select(is_chosen & ~is_unknown)

    num_positives, pairs, removed = shard.gather_queries(num_positives), _gather(pairs, shard), _gather(removed, shard)
    weights = None if pairs.weights is None else pairs.weights.double()
    total_weight = torch.bincount(pairs.rows, weights, minlength=shard.num_queries)
    num_candidates = shard.num_labels - torch.bincount(removed.rows, minlength=shard.num_queries)
    return Batch(shard, _own(pairs, shard), _own(removed, shard), num_positives, total_weight, num_candidates)


def read_pairs(csr: Positives, num_queries: int, num_labels: int, name: str = "positives") -> Pairs:
    """The pairs of a `Positives` on tensors, checked in one pass.

    Raises:
        ValueError: another number of rows than queries, ids outside the labels, a label twice in a row, negative
            weights. The message names the row. Rows that are only unsorted are sorted.
    """
    if len(csr) != num_queries:
        raise ValueError(f"Found {num_queries} queries, but {name} with {len(csr)} rows; give one row per query.")
    if csr.weights is not None and len(csr.weights) != len(csr.indices):
        raise ValueError(f"Found {len(csr.weights)} weights for {len(csr.indices)} {name}; give one per pair.")
    cols = csr.indices.long()
    rows = torch.repeat_interleave(torch.arange(num_queries, device=cols.device), csr.counts)
    if len(rows) != len(cols):
        raise ValueError(f"Found {len(cols)} ids in {name}, but an indptr for {len(rows)}; they must be equal.")
    pairs = Pairs(rows, cols, csr.weights, num_labels)
    if not len(pairs):
        return pairs
    keys = pairs.keys
    wrong = [cols.amin() < 0, cols.amax() >= num_labels, (keys[1:] <= keys[:-1]).any()]
    if csr.weights is not None:
        wrong.append((csr.weights < 0).any())
    return _sort_or_raise(pairs, name) if torch.stack(wrong).any() else pairs


def _sort_or_raise(pairs: Pairs, name: str) -> Pairs:
    """Sort the pairs, or raise an error that says what is wrong with them."""
    first = lambda mask: int(mask.int().argmax())  # noqa: E731
    outside = (pairs.cols < 0) | (pairs.cols >= pairs.num_labels)
    if outside.any():
        i = first(outside)
        raise ValueError(
            f"Row {int(pairs.rows[i])} of {name} refers to label id {int(pairs.cols[i]):,}, but {pairs.num_labels:,} "
            "label embeddings were passed; ids are rows of the labels passed, not ids of the catalogue."
        )
    if pairs.weights is not None and (pairs.weights < 0).any():
        i = first(pairs.weights < 0)
        raise ValueError(
            f"Row {int(pairs.rows[i])} of {name} has the weight {float(pairs.weights[i])} for label id "
            f"{int(pairs.cols[i])}; a weight must not be negative."
        )
    pairs = pairs.select(pairs.keys.argsort())
    repeated = pairs.keys.diff() == 0
    if repeated.any():
        i = first(repeated)
        raise ValueError(
            f"Row {int(pairs.rows[i])} of {name} names label id {int(pairs.cols[i])} more than once; "
            "remove the duplicate."
        )
    return pairs


def _union(a: Pairs, b: Pairs) -> Pairs:
    keys = torch.cat([a.keys, b.keys]).unique()  # rising
    return Pairs(keys // a.num_labels, keys % a.num_labels, None, a.num_labels)


def _gather(pairs: Pairs, shard: Shard) -> Pairs:
    """The pairs of the queries of all ranks."""
    if shard.group is None:
        return pairs
    weights = None if pairs.weights is None else shard.gather(pairs.weights)
    rows = shard.gather(pairs.rows + shard.first_query)
    return Pairs(rows, shard.gather(pairs.cols), weights, pairs.num_labels)


def _own(pairs: Pairs, shard: Shard) -> Pairs:
    """The pairs whose label this rank holds, with columns counted from its first label."""
    if shard.group is None:
        return pairs
    start, stop = shard.first_label, shard.first_label + shard.own_num_labels
    mine = pairs.select((pairs.cols >= start) & (pairs.cols < stop))
    return mine.shift(cols=-start, num_labels=stop - start)
