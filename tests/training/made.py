"""A trainer for a tiny encoder, and one batch of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from hf_xmc import XMCDataset, XMCDualEncoderModel, XMCTrainer, XMCTrainingArguments
from hf_xmc.data.collator import QueryCollator


def make_trainer(
    encoder: str | None,
    data: XMCDataset,
    folder: Path,
    model: dict | None = None,
    peft_config: Any = None,
    **args: Any,
) -> XMCTrainer:
    defaults = {
        "per_device_train_batch_size": 16,
        "learning_rate": 1e-3,
        "report_to": "none",
        "disable_tqdm": True,
        "save_strategy": "no",
        "encode_chunk_size": 5,
        "gradient_caching": True,  # by default a few small chunks would be kept
        "logging_steps": 1,
    }
    return XMCTrainer(
        model=XMCDualEncoderModel.from_encoder(encoder, **(model or {})),
        args=XMCTrainingArguments(str(folder), **{**defaults, **args}),
        train_dataset=data.queries["train"],
        eval_dataset=data.queries["validation"],
        label_dataset=data.labels,
        train_ignored=data.filters.get("train"),
        peft_config=peft_config,
    )


def one_batch(trainer: XMCTrainer, rows: range = range(16)) -> dict[str, Tensor]:
    assert isinstance(trainer.data_collator, QueryCollator)
    return trainer.data_collator([trainer.train_dataset[row] for row in rows])


def gradients(trainer: XMCTrainer, loss: Tensor) -> dict[str, Tensor]:
    trainer.model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in trainer.model.named_parameters() if p.grad is not None}
