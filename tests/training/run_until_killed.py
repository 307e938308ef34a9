"""What the restart tests launch: trains selectively, and perhaps kills itself (kill -9) at a given moment.

Arguments: encoder, data set, output folder, moment. The moment is `never`, `saving:N` (while checkpoint N is written),
`batch:N` (in the midst of the N-th micro-batch of this process) or `batch:N:R` (of the process R alone). Resumes from
the last checkpoint if there is one.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch

from hf_xmc import load_xmc_dataset
from hf_xmc.training.trainer import XMCTrainer
from tests.training.made import make_trainer


def trainer_for(encoder: str, folder: str, out: str, **args: Any) -> XMCTrainer:
    """Eight steps of two micro-batches, dropout on; an epoch has seven steps, the last of one micro-batch."""
    settings = {
        "label_strategy": "selective",
        "label_budget": 10,
        "label_refresh": 2,
        "per_device_train_batch_size": 8,
        "gradient_accumulation_steps": 2,
        "max_steps": 12,
        "save_strategy": "steps",
        "save_steps": 3,
        "save_total_limit": 2,
        "use_cpu": True,
    }
    return make_trainer(encoder, load_xmc_dataset(folder), Path(out), **{**settings, **args})


def kill_at(trainer: XMCTrainer, moment: str) -> None:
    kind, number, *rank = moment.split(":")
    if rank and int(rank[0]) != trainer.ranks.rank:
        return
    name = {"saving": "_save_rng_state", "batch": "compute_loss"}[kind]
    original, calls = getattr(trainer, name), [0]

    def call(*args: Any, **kwargs: Any) -> Any:
        calls[0] += 1
        if int(number) == (trainer.state.global_step if kind == "saving" else calls[0]):
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*args, **kwargs)

    setattr(trainer, name, call)


if __name__ == "__main__":
    torch.set_num_threads(1)
    encoder, folder, out, moment = sys.argv[1:]
    trainer = trainer_for(encoder, folder, out)
    if moment != "never":
        kill_at(trainer, moment)
    trainer.train(resume_from_checkpoint=any(Path(out).glob("checkpoint-*")))
    trainer.save_model(f"{out}/final")
    if trainer.ranks.rank == 0:
        print("resumed and finished, world size", trainer.args.world_size, flush=True)
