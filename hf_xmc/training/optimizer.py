"""A learning rate for each part of the model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn
from torch.optim import Optimizer

from hf_xmc.errors import SettingsError
from hf_xmc.training.arguments import XMCTrainingArguments

# Argument -> the modules that it is for. Adapters and wrappers put names around these, never inside.
PARTS = {
    "projection_learning_rate": ("query_projection", "label_projection"),
    "label_encoder_learning_rate": ("label_encoder",),
}


def step_decay(args: XMCTrainingArguments, steps_per_epoch: float, warmup_steps: int) -> Callable[[int], float]:
    """The factor of the learning rates at each step: a linear warm-up, and a decay every `lr_decay_epochs`."""

    def factor(step: int) -> float:
        decays = int(step / steps_per_epoch) // (args.lr_decay_epochs or 1)
        warm = 1.0 if step >= warmup_steps else step / warmup_steps
        return warm * float(args.lr_decay_factor**decays)

    return factor


def split_by_part(optimizer: Optimizer, model: nn.Module, args: XMCTrainingArguments) -> None:
    """Give the parts that have a learning rate of their own parameter groups of their own, in place.

    The groups that the Trainer made (with and without weight decay) are divided, so that everything else about them
    stays; schedulers scale each group from its own rate. Parameters without a separate rate come first: theirs is the
    rate that is logged.

    Raises:
        SettingsError: a rate is given for a part that has nothing to train.
    """
    rates = {modules: getattr(args, name) for name, modules in PARTS.items() if getattr(args, name) is not None}
    if not rates:
        return
    part_of = {
        parameter: part
        for name, parameter in model.named_parameters()
        for part in rates
        if not set(part).isdisjoint(name.split("."))
    }
    parts: list[tuple[str, ...] | None] = [None, *rates]
    divided: list[dict[str, Any]] = []
    for part in parts:
        for group in optimizer.param_groups:
            parameters = [p for p in group["params"] if part_of.get(p) == part]
            rate = group["lr"] if part is None else rates[part]
            divided.append({**group, "params": parameters, "lr": rate})
        if part is not None and not any(group["params"] for group in divided[-len(optimizer.param_groups) :]):
            raise SettingsError(
                f"{next(name for name in PARTS if PARTS[name] == part)} is given, but the model has no trainable "
                f"{' or '.join(part)}; leave it out, or make the part (projection_dim, share_encoders=False)."
            )
    optimizer.param_groups[:] = [group for group in divided if group["params"]]
