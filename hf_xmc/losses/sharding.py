"""Labels sharded over the ranks of a process group: who holds which rows, and how results are combined."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist


@dataclass(frozen=True)
class Shard:
    """This rank's part of the batch: its queries among those of all ranks, its labels among all labels.

    `query_counts` and `label_counts` have one number per rank. Without a group there is one rank, and nothing is sent.
    """

    group: dist.ProcessGroup | None
    rank: int
    query_counts: list[int]
    label_counts: list[int]

    @classmethod
    def of(cls, group: dist.ProcessGroup | None, num_queries: int, num_labels: int, device: torch.device) -> Shard:
        """Exchange the numbers of queries and labels of each rank."""
        if group is None:
            return cls(None, 0, [num_queries], [num_labels])
        own = torch.tensor([num_queries, num_labels], device=device)
        counts = [torch.empty_like(own) for _ in range(dist.get_world_size(group))]
        dist.all_gather(counts, own, group=group)
        table = torch.stack(counts).tolist()
        return cls(group, dist.get_rank(group), [row[0] for row in table], [row[1] for row in table])

    @property
    def num_queries(self) -> int:
        """Number of queries of all ranks."""
        return sum(self.query_counts)

    @property
    def num_labels(self) -> int:
        """Number of labels of all ranks."""
        return sum(self.label_counts)

    @property
    def widest(self) -> int:
        """The largest number of labels of a rank, by which all ranks choose the size of their tiles."""
        return max(self.label_counts)

    @property
    def first_query(self) -> int:
        return sum(self.query_counts[: self.rank])

    @property
    def first_label(self) -> int:
        return sum(self.label_counts[: self.rank])

    @property
    def own_num_queries(self) -> int:
        return self.query_counts[self.rank]

    @property
    def own_num_labels(self) -> int:
        return self.label_counts[self.rank]

    def gather_queries(self, queries: torch.Tensor) -> torch.Tensor:
        """The rows of all ranks, in the order of the ranks."""
        return queries if self.group is None else self.gather(queries, self.query_counts)

    def own_queries(self, gathered: torch.Tensor) -> torch.Tensor:
        """This rank's part of what `gather_queries` returns."""
        return gathered[self.first_query : self.first_query + self.own_num_queries]

    def gather(self, tensor: torch.Tensor, lengths: list[int] | None = None) -> torch.Tensor:
        """Concatenate the ranks' tensors, which may differ in length; padded, since gloo needs equal shapes."""
        if self.group is None:
            return tensor
        if lengths is None:
            own = torch.tensor([len(tensor)], device=tensor.device)
            parts = [torch.empty_like(own) for _ in self.query_counts]
            dist.all_gather(parts, own, group=self.group)
            lengths = torch.cat(parts).tolist()
        padded = tensor.new_zeros(max(lengths), *tensor.shape[1:])
        padded[: len(tensor)] = tensor
        parts = [torch.empty_like(padded) for _ in lengths]
        dist.all_gather(parts, padded, group=self.group)
        return torch.cat([part[:length] for part, length in zip(parts, lengths, strict=True)])

    def max_(self, tensor: torch.Tensor) -> torch.Tensor:
        """Maximum over the ranks, in place."""
        if self.group is not None:
            dist.all_reduce(tensor, dist.ReduceOp.MAX, self.group)
        return tensor

    def sum_(self, tensor: torch.Tensor) -> torch.Tensor:
        """Sum over the ranks, in place."""
        if self.group is not None:
            dist.all_reduce(tensor, dist.ReduceOp.SUM, self.group)
        return tensor
