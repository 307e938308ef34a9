"""Callbacks of the trainer."""

from __future__ import annotations

from collections.abc import Mapping
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

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """The current loss and metrics, at the end of the bar."""
        if state.is_world_process_zero and self.training_bar is not None:
            self.current = {**getattr(self, "current", {}), **shown_values(logs or {})}
            self.training_bar.set_postfix_str(", ".join(f"{name} {value}" for name, value in self.current.items()))


class LogLines(TrainerCallback):
    """Prints a line for each entry of the log, where there is no progress bar."""

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if state.is_local_process_zero and (values := shown_values(logs or {}, most=6)):
            print(f"Epoch {state.epoch or 0:.2f}: " + ", ".join(f"{name} {value}" for name, value in values.items()))


def shown_values(logs: Mapping[str, Any], most: int = 2) -> dict[str, str]:
    """The loss, or the first metrics of an evaluation, in per cent; nothing of the summary at the end of a training.

    >>> shown_values({"loss": 2.3456, "learning_rate": 1e-4}), shown_values({"eval_P@1": 0.606, "eval_loss": 2.0})
    ({'loss': '2.35'}, {'P@1': '60.6 %'})
    >>> shown_values({"train_runtime": 3.0, "train_loss": 2.0})
    {}
    """
    shown = {"loss": f"{logs['loss']:.3g}"} if "loss" in logs else {}
    metrics = {name.removeprefix("eval_"): value for name, value in logs.items() if "@" in name}
    usual: tuple[str, ...] = ("P@1", "P@5", "nDCG@5")
    names = [name for name in usual if name in metrics] or [*metrics]
    return shown | {name: f"{100 * metrics[name]:.1f} %" for name in names[:most]}


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
