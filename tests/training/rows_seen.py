"""What the test of clustered batches launches: trains, and writes the rows of each step by epoch.

Arguments: encoder, data set, folder to write to, queries a process and micro-batch.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from hf_xmc import XMCTrainer, load_xmc_dataset
from tests.training.made import make_trainer

SETTINGS: dict[str, Any] = {
    "label_strategy": "in_batch",
    "train_sampling_strategy": "clustered",
    "cluster_size": 2,
    "cluster_start_epoch": 1,
    "cluster_refresh_epochs": 2,
    "cluster_growth_epochs": [4],
    "per_device_train_batch_size": 8,
    "gradient_accumulation_steps": 2,
    "num_train_epochs": 6,
    "disable_dropout": True,
    "use_cpu": True,
}


class Recorder:
    """Trains, and keeps the rows of each step and what was encoded, by epoch."""

    def __init__(self, encoder: str, folder: str | Path, out: str | Path, model: dict | None = None, **args: Any):
        self.trainer = make_trainer(encoder, load_xmc_dataset(folder), Path(out), model, **{**SETTINGS, **args})
        self.steps: dict[int, list[list[int]]] = {}
        self.sizes: dict[int, int] = {}
        self.encoded: list[tuple[int, str]] = []
        evaluator = self.trainer.evaluator
        new_step, table = self.trainer.new_step, evaluator.table

        def recorded(batches: list[Any]) -> Any:
            rows = [row for batch in batches for row in batch["row"].tolist()]
            self.steps.setdefault(self.epoch, []).append(rows)
            if (sampler := self.trainer.query_batches.sampler) is not None:
                self.sizes[self.epoch] = sampler.size
            return new_step(batches)

        def encode(tokens: Any, side: Any) -> Any:
            self.encoded.append((self.epoch, side))
            return table(tokens, side)

        self.trainer.new_step, evaluator.table = recorded, encode  # type: ignore[method-assign]

    @property
    def epoch(self) -> int:
        return int(self.trainer.state.epoch or 0)

    def train(self, **kwargs: Any) -> XMCTrainer:
        self.trainer.train(**kwargs)
        return self.trainer


if __name__ == "__main__":
    torch.set_num_threads(1)
    encoder, folder, out, batch = sys.argv[1:]
    recorder = Recorder(encoder, folder, out, per_device_train_batch_size=int(batch))
    recorder.train()
    world, rank = (dist.get_world_size(), dist.get_rank()) if dist.is_initialized() else (1, 0)
    Path(out, f"rows-{world}-{rank}.json").write_text(json.dumps(recorder.steps))
