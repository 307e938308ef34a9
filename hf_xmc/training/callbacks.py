"""Callbacks of the trainer."""

from __future__ import annotations

from typing import Any

from tqdm.auto import tqdm
from transformers import ProgressCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class QueryProgressCallback(ProgressCallback):
    """The Trainer's progress bar, counted in queries: its rate is queries per second."""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.queries_a_step = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
        if state.is_world_process_zero:
            total = state.max_steps * self.queries_a_step
            done = state.global_step * self.queries_a_step  # of a resumed run
            self.training_bar = tqdm(total=total, initial=done, unit=" queries", desc="Training", dynamic_ncols=True)
        self.current_step = state.global_step

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.is_world_process_zero and self.training_bar is not None:
            self.training_bar.update((state.global_step - self.current_step) * self.queries_a_step)
            self.current_step = state.global_step


class EpochCallback(TrainerCallback):
    """Tells a trainer (`begin_epoch(epoch)`) that an epoch begins, or is gone on with after a restart, before its
    batches are drawn."""

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.trainer.begin_epoch(int(state.epoch or 0))
