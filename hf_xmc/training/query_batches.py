"""Batches of similar queries: what the trainer adds to `ClusteredBatchSampler`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.data import Sampler
from transformers.utils import logging

from hf_xmc.losses.sharding import Shard
from hf_xmc.sampling.clustered_batches import ClusteredBatchSampler
from hf_xmc.sampling.clusters import Clusters
from hf_xmc.training.arguments import XMCTrainingArguments

logger = logging.get_logger(__name__)
CLUSTERS = "clusters.safetensors"


class RowsInTurn(Sampler[int]):
    """The rows of one batch after the other.

    A DataLoader cuts them into micro-batches, which accelerate deals out to the processes in turn. So what all
    processes take in the micro-batches of one optimizer step is one batch.
    """

    def __init__(self, batches: ClusteredBatchSampler) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return min(len(self.batches) * self.batches.batch_size, self.batches.num_queries)

    def __iter__(self) -> Iterator[int]:
        for batch in self.batches:
            yield from batch

    def set_epoch(self, epoch: int) -> None:
        self.batches.set_epoch(epoch)


class QueryBatches:
    """The clustered batches of a training, if it uses them; the same on all processes.

    Args:
        args: `train_sampling_strategy`, `cluster_*`, `seed` and `data_seed`.
        ranks: the processes of the run.
    """

    def __init__(self, args: XMCTrainingArguments, ranks: Shard) -> None:
        self.args = args
        self.ranks = ranks
        self.rows: RowsInTurn | None = None

    @property
    def sampler(self) -> ClusteredBatchSampler | None:
        return None if self.rows is None else self.rows.batches

    def make(self, num_queries: int, batch_size: int) -> RowsInTurn:
        """The sampler of a data loader, the same one as before if nothing has changed.

        Args:
            batch_size: queries of an optimizer step, of all processes.
        """
        args, before = self.args, self.sampler
        if before is None or (before.num_queries, before.batch_size) != (num_queries, batch_size):
            sampler = ClusteredBatchSampler(
                num_queries,
                batch_size,
                args.cluster_size,
                args.cluster_growth_epochs,
                args.cluster_refresh_epochs,
                args.cluster_start_epoch,
                args.cluster_method,
                args.seed if args.data_seed is None else args.data_seed,
            )
            self.rows = RowsInTurn(sampler)
        assert self.rows is not None
        return self.rows

    def due(self, epoch: int) -> bool:
        """Whether fresh embeddings of the queries are wanted before this epoch."""
        return self.sampler is not None and self.sampler.due(epoch)

    def update(self, queries: Tensor, epoch: int) -> None:
        """Cluster the queries `[N, D]` in one process, and tell the others."""
        sampler = self.sampler
        assert sampler is not None
        if self.ranks.rank == 0:
            sampler.update(queries, epoch)
        if self.ranks.group is not None:
            sampler.take(self.shared(sampler), epoch)

    def shared(self, sampler: ClusteredBatchSampler) -> Clusters:
        """The clusters of the first process."""
        own = sampler.clusters or Clusters(np.empty(sampler.num_queries, dtype=np.int64), np.empty(0, dtype=np.int64))
        order, bounds = (torch.from_numpy(rows).to(self.args.device) for rows in own)
        length = torch.tensor([len(bounds)], device=self.args.device)
        dist.broadcast(length, 0, self.ranks.group)
        bounds = bounds if self.ranks.rank == 0 else bounds.new_empty(int(length))
        for rows in (order, bounds):
            dist.broadcast(rows, 0, self.ranks.group)
        return Clusters(order.cpu().numpy(), bounds.cpu().numpy())

    def begin(self, epoch: int) -> None:
        """Have the next batches drawn for this epoch. (Accelerate does not say it to a loader that skips batches.)"""
        if self.sampler is not None:
            self.sampler.set_epoch(epoch)

    def report(self) -> dict[str, float]:
        """What goes into the log."""
        return {} if self.sampler is None else self.sampler.report()

    def reset(self) -> None:
        """Forget an earlier run."""
        self.rows = None

    def save(self, folder: Path) -> None:
        """Write the clusters into a checkpoint."""
        if self.sampler is not None:
            state = self.sampler.state_dict()
            save_file({name: torch.as_tensor(value) for name, value in state.items()}, folder / CLUSTERS)

    def load(self, folder: Path) -> None:
        """Read the clusters of a checkpoint. Where it has none, or clusters for batches of another size, the queries
        are clustered again.

        Raises:
            SettingsError: they belong to other queries.
        """
        path = folder / CLUSTERS
        if self.sampler is None or not path.is_file():
            return
        state = load_file(path)
        if int(state["batch_size"]) != self.sampler.batch_size:
            logger.warning(
                f"{path} is of steps of {int(state['batch_size']):,} queries, and here they have "
                f"{self.sampler.batch_size:,}: the queries are clustered again."
            )
            return
        self.sampler.load_state_dict(state)
