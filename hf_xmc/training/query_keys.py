"""The queries of a step as keys beside its labels, as RAE-XMC trains: one memory of labels and texts.

At inference the memory of a tagger holds labels and training queries alike ([`QueryMemory`], `combine="joint"`). In
training every query of the step is compared with the other queries as it is with labels, so that texts without a
common label move apart. Queries that share a label are no negatives of each other, and a query is never its own
negative: these pairs take no part in the loss.

After Wang, Chang, Jiang, Zhang, Yu, Vishwanathan 2025, "Retrieval-augmented Encoders for Extreme Multi-label Text
Classification".
"""

from __future__ import annotations

import torch
from torch import Tensor

from hf_xmc.losses.sharding import Shard
from hf_xmc.training.distributed import gather
from hf_xmc.types import Positives


class QueryKeys:
    """Where the columns of labels and queries stand in the matrix that the queries of a step are compared with.

    A loss that runs on parts of the labels sees on each rank its labels and then its queries; any other loss sees all
    labels and then all queries.

    Args:
        true: positives of this rank's queries in the window, catalogue ids.
        own_labels: labels that this rank holds.
        ranks: the processes of the run.
        sharded: whether the loss runs on parts.

    >>> keys = QueryKeys(Positives.from_lists([[4], [9], [4, 5]]).torch(), 2, Shard(None, 0, [0], [0]), sharded=False)
    >>> keys.num_columns, keys.shared(0, 1).indices.tolist()
    (5, [2, 4])
    """

    def __init__(self, true: Positives, own_labels: int, ranks: Shard, sharded: bool) -> None:
        self.layout = Shard.of(ranks.group, len(true), own_labels, true.indices.device)
        self.sharded = sharded
        self.true = true
        self.everywhere = gather(true, ranks)

    @property
    def num_columns(self) -> int:
        """Labels and queries of all ranks."""
        return self.layout.num_labels + self.layout.num_queries

    def labels(self, pairs: Positives) -> Positives:
        """Pairs with columns of the labels alone, as pairs of the whole matrix."""
        if not self.sharded:
            return pairs
        stops = torch.tensor(self.layout.label_counts, device=pairs.indices.device).cumsum(0)
        before = torch.tensor([0, *self.layout.query_counts[:-1]], device=pairs.indices.device).cumsum(0)
        ranks = torch.searchsorted(stops, pairs.indices, right=True)
        return Positives(pairs.indptr, pairs.indices + before[ranks], pairs.weights)

    def shared(self, start: int, stop: int) -> Positives:
        """The queries that no query from `start` to before `stop` is compared with, as columns of the whole matrix:
        itself, and those that have one of its labels."""
        inside = slice(int(self.true.indptr[start]), int(self.true.indptr[stop]))
        own = torch.arange(stop - start, device=self.true.indices.device)
        row, other = with_label(self.true.rows[inside] - start, self.true.indices[inside], self.everywhere)
        row, other = torch.cat([row, own]), torch.cat([other, own + self.layout.first_query + start])
        pairs = torch.unique(row * self.num_columns + self.columns(other))
        counts = torch.bincount(pairs // self.num_columns, minlength=stop - start)
        return Positives(torch.cat([counts.new_zeros(1), counts.cumsum(0)]), pairs % self.num_columns)

    def columns(self, queries: Tensor) -> Tensor:
        """The columns of queries, which are numbered through the ranks."""
        if not self.sharded:
            return queries + self.layout.num_labels
        ends = torch.tensor(self.layout.query_counts, device=queries.device).cumsum(0)
        stops = torch.tensor(self.layout.label_counts, device=queries.device).cumsum(0)
        return queries + stops[torch.searchsorted(ends, queries, right=True)]


def with_label(rows: Tensor, labels: Tensor, others: Positives) -> tuple[Tensor, Tensor]:
    """The queries that have the label of each pair: the row of the pair and the query, which may repeat.

    Args:
        rows, labels: of the pairs, int64 `[nnz]`.
        others: positives of the queries.

    >>> others = Positives.from_lists([[7], [3], [3, 7]]).torch()
    >>> rows, queries = with_label(torch.tensor([0]), torch.tensor([7]), others)
    >>> rows.tolist(), queries.tolist()
    ([0, 0], [0, 2])
    """
    ids, order = others.indices.sort(stable=True)
    first = torch.searchsorted(ids, labels)
    times = torch.searchsorted(ids, labels, right=True) - first
    place = torch.arange(int(times.sum()), device=labels.device) - (times.cumsum(0) - times).repeat_interleave(times)
    return rows.repeat_interleave(times), others.rows[order[first.repeat_interleave(times) + place]]
