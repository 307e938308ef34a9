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
        self.queries_per_step = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
        if state.is_world_process_zero:
            total = state.max_steps * self.queries_per_step
            done = state.global_step * self.queries_per_step  # of a resumed run
            self.training_bar = tqdm(total=total, initial=done, unit=" queries", desc="Training", dynamic_ncols=True)
        self.current_step = state.global_step

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.is_world_process_zero and self.training_bar is not None:
            self.training_bar.update((state.global_step - self.current_step) * self.queries_per_step)
            self.current_step = state.global_step


class TrainerHooks(TrainerCallback):
    """Calls the methods of an `XMCTrainer` at the moments that only callbacks are told of."""

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.trainer.begin_training()

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Also where an epoch is resumed, before its batches are drawn."""
        self.trainer.begin_epoch(int(state.epoch or 0))

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.trainer.move_tables()

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.trainer.end_training(state.best_model_checkpoint if args.load_best_model_at_end else None)
