"""A trainer that times its steps, and the bare encoder on the same texts; used by training.py."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import AutoModel, TrainerCallback

from hf_xmc import XMCDualEncoderModel, XMCTrainer, XMCTrainingArguments
from hf_xmc.modeling.packaged import packaged_encoder
from hf_xmc.modeling.packing_xmc import chunks_of, flatten, pad

CLOCK = time.perf_counter  # process_time with --cpu_time


class TimedTrainer(XMCTrainer):
    """Times the data, the passes and the rest of each step; `raw` runs after the first steps and is not counted."""

    raw: RawEncoder | None = None
    warmup, raw_steps = 0, 0

    def start(self, warmup: int, raw: RawEncoder | None = None, raw_steps: int = 0) -> None:
        self.warmup, self.raw, self.raw_steps = warmup, raw, raw_steps
        self.began: list[float] = []
        self.times: dict[str, list[float]] = {"step": [], "data": [], "passes": [], "raw": [], "uncounted": []}
        self.add_callback(StepEnd(self))

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> Any:
        self.began.append(CLOCK())
        found = super().get_batch_samples(epoch_iterator, num_batches, device)
        self.times["data"].append(CLOCK() - self.began[-1])
        return found

    def training_step(self, model: torch.nn.Module, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        step, start = self.label_step, CLOCK()
        assert step is not None
        loss = super().training_step(model, inputs, num_items_in_batch)
        self.times["passes"].append(CLOCK() - start)
        self.times["raw"].append(0.0)
        self.times["uncounted"].append(0.0)
        if self.raw is not None and self.warmup <= self.state.global_step < self.warmup + self.raw_steps:
            ids = np.arange(self.num_labels) if step.candidates.ids is None else step.candidates.ids.numpy()
            start = CLOCK()
            self.times["raw"][-1] = self.raw.run(self, inputs["row"].numpy(), ids)
            self.times["uncounted"][-1] = CLOCK() - start
        return loss

    def measured(self) -> dict[str, np.ndarray]:
        """Seconds of each step after the warm-up: of all of it, of data, passes and raw."""
        return {name: np.array(values)[self.warmup :] for name, values in self.times.items()}


class StepEnd(TrainerCallback):
    """Notes when a step ends, and ends the training after some seconds."""

    def __init__(self, trainer: TimedTrainer, limit: float = float("inf")) -> None:
        self.trainer, self.limit, self.start = trainer, limit, time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        times = self.trainer.times
        times["step"].append(CLOCK() - self.trainer.began[-1] - times["uncounted"][-1])
        control.should_training_stop |= time.perf_counter() - self.start > self.limit


class RawEncoder:
    """The encoder as transformers has it, in batches of texts of one length, or of about one length with padding and a
    mask: whichever is faster."""

    def __init__(self) -> None:
        self.encoder = AutoModel.from_pretrained(packaged_encoder(), add_pooling_layer=False).train()
        self.way: tuple[bool, int] | None = None  # padded or not, tokens per batch: the fastest, once found

    def run(self, trainer: TimedTrainer, rows: np.ndarray, labels: np.ndarray) -> float:
        """Seconds for the passes that a step makes over these queries and labels."""
        labels, _ = trainer.label_tokens.distinct(labels)
        if self.way is None:
            some = labels[: max(len(labels) // 4, 100)]
            ways = [(padded, n) for padded in (False, True) for n in (512, 1024, 2048, 4096)]
            self.seconds(self.batches(trainer.label_tokens, some[:50], ways[0]))  # warm-up
            seconds = {way: self.seconds(self.batches(trainer.label_tokens, some, way)) for way in ways}
            self.way = min(seconds, key=lambda way: seconds[way])
        batches = self.batches(trainer.label_tokens, labels, self.way)
        twice = batches if trainer.args.gradient_caching else []
        return self.seconds(batches + self.batches(trainer.train_dataset.tokens, rows, self.way), twice)

    def batches(self, table: Any, rows: np.ndarray, way: tuple[bool, int]) -> list[dict[str, torch.Tensor]]:
        padded, tokens = way
        lengths = table.lengths[rows]
        groups = [rows] if padded else [rows[lengths == length] for length in np.unique(lengths)]
        chunks = [g[c] for g in groups for c in chunks_of(table.lengths[g], tokens, None, packed=False)]
        found = [pad(*flatten(table, chunk)) for chunk in chunks]
        return found if padded else [{"input_ids": batch["input_ids"]} for batch in found]

    def seconds(self, batches: Sequence[Any], without_gradients: Sequence[Any] = ()) -> float:
        start = CLOCK()
        with torch.no_grad():
            for batch in without_gradients:
                self.encoder(**batch)
        for batch in batches:
            hidden = self.encoder(**batch).last_hidden_state
            hidden.backward(torch.ones_like(hidden))
        seconds = CLOCK() - start
        self.encoder.zero_grad()
        return seconds


def make_trainer(train: Any, labels: Any, folder: str, strategy: str, args: Any, **more: Any) -> TimedTrainer:
    """A trainer of the packaged encoder; activations of all labels are kept only where there are few."""
    settings = {
        "label_strategy": strategy,
        "per_device_train_batch_size": args.batch_size,
        "gradient_caching": strategy == "all",
        "label_budget": args.label_budget,
        "label_refresh": args.label_refresh,
        "label_bank_init": args.label_bank_init,
        "learning_rate": args.learning_rate,
        "lr_scheduler_type": "constant_with_warmup",
        "warmup_steps": 10,
        "save_strategy": "no",
        "report_to": "none",
        "logging_steps": 10,
    }
    arguments = XMCTrainingArguments(folder, **{**settings, **more})
    lengths = {"max_query_length": args.max_query_length, "max_label_length": args.max_label_length}
    model = XMCDualEncoderModel.from_encoder(packaged_encoder(), **lengths)
    return TimedTrainer(model, arguments, train, label_dataset=labels)
