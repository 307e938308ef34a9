"""Batches of similar queries, so that the labels of one query are hard negatives for the others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Sampler

from hf_xmc.errors import SettingsError
from hf_xmc.sampling.clusters import METHODS, Clusters, balanced_clusters


class ClusteredBatchSampler(Sampler[list[int]]):
    """Batches that are unions of whole clusters of similar queries, drawn at random (NGAME, Dahiya et al., WSDM 2023).

    In each epoch every query is used once, in batches of equal size, except `num_queries % batch_size` queries that
    do not fill a batch. These are taken from clusters with one query more than the others, and from clusters that do
    not fill a batch; they are different ones in each epoch, in turn. If there are fewer queries than a batch holds,
    all of them form one batch. The batches of an epoch depend only on clusters, seed and epoch.

    Clusters have about `cluster_size` queries, and twice as many after each growth epoch. The exact size is the
    nearest divisor of the batch size (by ratio), so that whole clusters fill a batch. Before `start_epoch`, and until
    `update` is called, each query is its own cluster: batches are random.

    Args:
        num_queries: rows to draw from.
        batch_size: all queries of an optimizer step, over all accumulation steps and processes.
        cluster_size, growth_epochs: see above (NGAME doubles at epochs 10, 20, 25, 50, 75 and 100).
        refresh_epochs: number of epochs after which queries are clustered again (NGAME: 5); they are also clustered
            again in growth epochs.
        start_epoch: the first epoch with clusters.
        method: as in `balanced_clusters`.
        seed: seed of clusters and batches.

    Raises:
        ValueError: a number is too small, or the method is unknown.

    >>> sampler = ClusteredBatchSampler(num_queries=9, batch_size=4, cluster_size=2)
    >>> sampler.update(torch.tensor([[1, 0], [0, 1]] * 4 + [[1, 1]]), epoch=0)
    >>> sampler.set_epoch(0)
    >>> sampler.size, len(sampler), [len(batch) for batch in sampler]
    (2, 2, [4, 4])
    """

    def __init__(
        self,
        num_queries: int,
        batch_size: int,
        cluster_size: int = 32,
        growth_epochs: Sequence[int] = (),
        refresh_epochs: int = 5,
        start_epoch: int = 0,
        method: str = "bisecting",
        seed: int = 0,
    ) -> None:
        for name, value in {
            "num_queries": num_queries,
            "batch_size": batch_size,
            "cluster_size": cluster_size,
            "refresh_epochs": refresh_epochs,
        }.items():
            if value < 1:
                raise SettingsError(f"{name} is {value}; it must be at least 1.")
        if method not in METHODS:
            raise SettingsError(f"method is {method!r}; expected one of {METHODS}.")
        self.num_queries = num_queries
        self.batch_size = batch_size
        self.cluster_size = cluster_size
        self.growth_epochs = list(growth_epochs)
        self.refresh_epochs = refresh_epochs
        self.start_epoch = start_epoch
        self.method = method
        self.seed = seed
        self.epoch = 0
        self.clusters: Clusters | None = None
        self.clustered_size = 1  # queries of each cluster that are used in one epoch
        self.clustered_at = -1  # epoch

    def __len__(self) -> int:
        return max(1, self.num_queries // self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        for batch in self.batches():  # computed at once, so a later change of the epoch has no effect
            yield batch.tolist()

    @property
    def size(self) -> int:
        """Queries per cluster in this epoch; 1 if batches are random."""
        return self.clustered_size if self.epoch >= self.start_epoch else 1

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next batches."""
        self.epoch = epoch

    def size_at(self, epoch: int) -> int:
        """Queries per cluster in an epoch: the divisor of the batch size that is nearest to the requested size."""
        doublings = sum(start <= epoch for start in self.growth_epochs)
        wanted = min(self.cluster_size * 2**doublings, self.batch_size)
        divisors = [d for d in range(1, self.batch_size + 1) if self.batch_size % d == 0]
        return min(divisors, key=lambda d: max(d / wanted, wanted / d))

    def due(self, epoch: int) -> bool:
        """Whether the queries must be clustered again before this epoch; False once that is done."""
        if epoch < self.start_epoch or epoch == self.clustered_at:
            return False
        if self.num_queries <= self.batch_size or self.size_at(epoch) == 1:
            return False  # all queries are one batch, or each is its own cluster
        refreshes = [(e - self.start_epoch) // self.refresh_epochs for e in (self.clustered_at, epoch)]
        return self.clusters is None or refreshes[0] != refreshes[1] or self.size_at(epoch) != self.clustered_size

    def update(self, embeddings: Tensor, epoch: int) -> None:
        """Cluster the queries again before an epoch.

        Args:
            embeddings: embeddings of all queries, `[N, D]`, on the CPU.

        Raises:
            ValueError: there are more or fewer embeddings than queries, or they are not finite.
        """
        if len(embeddings) != self.num_queries:
            raise ValueError(f"There are embeddings of {len(embeddings):,} queries, but {self.num_queries:,} queries.")
        table = embeddings.detach()
        table = table if table.dtype in (torch.float32, torch.float16) else table.float()
        count = max(1, self.num_queries // self.size_at(epoch))
        self.take(balanced_clusters(table.numpy(), count, self.seed + epoch, self.method), epoch)

    def take(self, clusters: Clusters, epoch: int) -> None:
        """Use clusters that another process computed, from an epoch on."""
        self.clusters, self.clustered_at, self.clustered_size = clusters, epoch, self.size_at(epoch)

    def batches(self) -> np.ndarray:
        """Row numbers of the epoch, `[len(self), batch_size]`; the rows of a cluster are next to each other."""
        shuffle = np.random.default_rng([self.seed, 0, self.epoch])
        if self.num_queries < self.batch_size:
            return shuffle.permutation(self.num_queries)[None]
        size, clusters = self.size, self.clusters
        if clusters is None or size == 1:
            clusters = Clusters(np.arange(self.num_queries), np.arange(self.num_queries + 1))
        count = len(clusters.bounds) - 1
        used = len(self) * (self.batch_size // size)
        # Clusters are left out in turn: a random order of them advances from epoch to epoch until the next clustering.
        circle = np.random.default_rng([self.seed, 1, self.clustered_at + 1]).permutation(count)
        circle = np.roll(circle, -(self.epoch * (count - used) % count))
        chosen = shuffle.permutation(circle[count - used :])  # clusters of this epoch, [used]
        starts, sizes = clusters.bounds[chosen], np.diff(clusters.bounds)[chosen]
        begin = (self.epoch + 1) * (sizes - size) % sizes  # after the rows that are left out
        places = starts[:, None] + (begin[:, None] + np.arange(size)) % sizes[:, None]  # [used, size]
        return clusters.order[places].reshape(len(self), self.batch_size)

    def report(self) -> dict[str, float]:
        """Values for the log."""
        return {"cluster_size": self.size}

    def state_dict(self) -> dict[str, Any]:
        """Everything but the arguments that the batches of later epochs depend on: integers and int64 tensors."""
        clusters = self.clusters or Clusters(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64))
        return {
            "num_queries": self.num_queries,
            "batch_size": self.batch_size,
            "seed": self.seed,
            "epoch": self.epoch,
            "clustered_at": self.clustered_at,
            "clustered_size": self.clustered_size,
            "order": torch.from_numpy(clusters.order.copy()),
            "bounds": torch.from_numpy(clusters.bounds.copy()),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from the saved state of a sampler.

        Raises:
            ValueError: it had another number of queries or another batch size.
        """
        for name in ("num_queries", "batch_size"):
            if int(state[name]) != getattr(self, name):
                raise SettingsError(
                    f"The clusters were saved with a {name} of {int(state[name]):,}, but here it is "
                    f"{getattr(self, name):,}; resume with the data, batch size, accumulation steps and processes of "
                    "the run that saved them."
                )
        self.seed, self.epoch = int(state["seed"]), int(state["epoch"])
        self.clustered_at, self.clustered_size = int(state["clustered_at"]), int(state["clustered_size"])
        order, bounds = (np.array(state[name]) for name in ("order", "bounds"))
        self.clusters = Clusters(order, bounds) if len(order) else None
