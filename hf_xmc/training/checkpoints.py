"""Checkpoints that are whole or not there, and trained models that load without what they were trained with."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch import nn
from transformers import Trainer, TrainerState, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, rotate_checkpoints
from transformers.utils import logging

from hf_xmc.training.adapters import has_adapters, merged

logger = logging.get_logger(__name__)
UNFINISHED = ".unfinished"  # no name that the Trainer takes for a checkpoint


class WholeCheckpointTrainer(Trainer):
    """A `Trainer` that writes a checkpoint into a folder aside and renames it once all of it is on the disk.

    A run that is killed while it writes leaves nothing that `resume_from_checkpoint=True` would pick up. Older
    checkpoints are deleted after that, so that a full disk leaves the previous one as it was.
    """

    unfinished: str | None = None  # stands for the run's folder while a checkpoint is written

    def _get_output_dir(self, trial: Any) -> str:
        return self.unfinished or super()._get_output_dir(trial)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        if self.unfinished is None:  # not from a folder that is about to be renamed
            super()._push_from_checkpoint(checkpoint_folder)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        run = Path(self._get_output_dir(trial))
        name = f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        aside, final = run / UNFINISHED, run / name
        self.each_waits(lambda: shutil.rmtree(aside, ignore_errors=True))  # of a run that was killed
        self.unfinished = str(aside)
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self.unfinished = None
        if self.state.best_global_step == self.state.global_step:
            self.state.best_model_checkpoint = str(final)  # not the place where it was written

        def publish() -> None:
            self.state.save_to_json(str(aside / name / TRAINER_STATE_NAME))
            for path in (aside / name).rglob("*"):
                sync(path)
            if final.exists():  # of an earlier run of these steps
                final.rename(aside / "replaced")
            os.replace(aside / name, final)
            sync(run)
            shutil.rmtree(aside)
            best = self.state.best_model_checkpoint
            rotate_checkpoints(
                str(run), save_total_limit=self.args.save_total_limit, best_model_checkpoint=best, use_mtime=True
            )

        self.each_waits(publish)
        if self.args.push_to_hub:
            self._push_from_checkpoint(str(final))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        if difference := changed_batches(Path(resume_from_checkpoint), self.args):
            logger.warning(
                f"{resume_from_checkpoint} is of a run with {difference}: weights and optimizer go on from there, but "
                "on other batches than those that run would have had next. Give the same numbers to go on exactly."
            )

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """As in `Trainer`; adapters are merged into what is saved, but for checkpoints, which hold them alone."""
        training = self.model
        if has_adapters(training) and not _internal_call and self.args.should_save:
            self.model = merged(training)
        try:
            super().save_model(output_dir, _internal_call)
        finally:
            self.model = training

    def each_waits(self, write: Any) -> None:
        """Let the process that writes do so when all are here; go on when it is done."""
        several = dist.is_initialized() and dist.get_world_size() > 1
        if several:
            dist.barrier()
        if self.args.should_save:
            write()
        if several:
            dist.barrier()


def changed_batches(checkpoint: Path, args: TrainingArguments) -> str:
    """In what the run of a checkpoint differs from this one as far as it decides which queries come next; or nothing.

    The Trainer itself does not compare the processes.
    """
    states = len(list(checkpoint.glob("rng_state*.pth")))  # one a process
    path = checkpoint / TRAINER_STATE_NAME
    if not states or not path.is_file():
        return ""
    state = TrainerState.load_from_json(str(path))
    before = {"processes": states, "queries a process": state.train_batch_size}
    now = {"processes": args.world_size, "queries a process": args.train_batch_size}
    return ", ".join(f"{before[name]} {name} (here {now[name]})" for name in now if before[name] != now[name])


def sync(path: Path) -> None:
    """Have a file or a folder's entries on the disk, not in a cache alone, before a rename says that they are."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
