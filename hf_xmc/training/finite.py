"""Stops a training at the first step whose loss or gradients are not finite, before they reach the weights.

Loss, norm of the gradients and the gradients of the tables beside the weights go into one check per step, which waits
for the device once. `replay` keeps the batch. Steps that a GradScaler skips in fp16, since the scaled gradients
overflowed, are part of its search for a scale, and stop the training only where many follow each other.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState

from hf_xmc.errors import DivergenceError
from hf_xmc.losses.sharding import Shard
from hf_xmc.training.checkpoints import last_checkpoint

MOST_SKIPPED = 20  # in a row; a GradScaler that starts at 2^16 has come down to 2^-4 by then


class FiniteGuard:
    """What one process knows of the optimizer step that is under way.

    Args:
        ranks: the processes of the run, which stop together.
    """

    def __init__(self, ranks: Shard) -> None:
        self.ranks = ranks
        self.loss: Tensor | None = None
        self.norm: Tensor | float | None = None  # of the gradients, as the Trainer has just computed it
        self.skipped = 0  # steps in a row

    def begin(self) -> None:
        """A step begins."""
        self.loss = self.norm = None

    def add_loss(self, loss: Tensor) -> None:
        """Add the part of a micro-batch; nothing waits for the device."""
        loss = loss.detach().float()
        self.loss = loss if self.loss is None else self.loss + loss

    def holds(self, gradients: Iterable[Tensor]) -> bool:
        """Whether loss, norm and these further gradients are finite on all processes; one check for all."""
        values = [] if self.loss is None else [self.loss]
        if self.norm is not None:
            values.append(torch.as_tensor(self.norm))
        values += [gradient.sum() for gradient in gradients]
        if not values:
            return True
        device = values[0].device
        total = torch.stack([value.to(device, torch.float32) for value in values]).mul(0).sum()  # NaN if one is not
        if self.ranks.group is None:
            return bool(torch.isfinite(total))
        found = self.ranks.max_((~torch.isfinite(total)).int()[None])
        return not bool(found.any())

    def skips(self, scaler: Any) -> bool:
        """Whether a step that does not hold is one that a GradScaler skips, and not yet one too many."""
        self.skipped += 1
        loss = self.loss is None or bool(torch.isfinite(self.loss))
        return scaler is not None and loss and self.skipped < MOST_SKIPPED


class StopWhereNotFinite(TrainerCallback):
    """For the small trainings that are plain `Trainer`s: stops one before an optimizer step whose gradients are not
    finite, which a loss that is not finite makes them. In fp16 the GradScaler skips such steps."""

    def on_pre_optimizer_step(
        self, args: Any, state: TrainerState, control: TrainerControl, model: Any = None, **_: Any
    ) -> None:
        if args.fp16:
            return
        gradients = [(name, x.grad) for name, x in model.named_parameters() if x.grad is not None]
        if bad := not_finite(gradients):
            raise DivergenceError(
                f"Training stopped at step {state.global_step}: gradients that hold NaN or infinity: {parts_of(bad)}. "
                "Nothing was written",
                hint=f"lower learning_rate, which is {args.learning_rate:g}",
            )


def not_finite(tensors: Iterable[tuple[str, Tensor]]) -> list[str]:
    """The names of the floating-point tensors that hold NaN or infinity; one wait for the device for each group of
    tensors on it.

    >>> not_finite([("a", torch.ones(2)), ("b", torch.tensor([1.0, float("nan")])), ("c", torch.tensor(3))])
    ['b']
    """
    groups: dict[torch.device, list[tuple[str, Tensor]]] = {}
    for name, tensor in tensors:
        if tensor.is_floating_point() and tensor.numel():
            groups.setdefault(tensor.device, []).append((name, tensor.detach()))
    found = []
    for some in groups.values():
        # Smallest and largest overflow in no dtype, unlike a sum, and need no copy of the tensor.
        bad = torch.stack([torch.isfinite(torch.stack(x.aminmax())).all() for _, x in some]).logical_not().tolist()
        found += [name for (name, _), wrong in zip(some, bad, strict=True) if wrong]
    return found


def optimizer_tensors(optimizer: Any) -> Iterator[tuple[str, Tensor]]:
    """The state of an optimizer, tensor by tensor."""
    for number, state in enumerate(getattr(optimizer, "state", {}).values()):
        for name, value in state.items():
            if isinstance(value, Tensor):
                yield f"{name} of parameter {number} in the optimizer", value


def check_weights(model: nn.Module, optimizer: Any = None, more: Mapping[str, Tensor] | None = None) -> None:
    """Raise if weights, or the state of the optimizer, are about to be written with NaN or infinity in them.

    Raises:
        DivergenceError: they are.
    """
    weights = [*model.named_parameters(), *model.named_buffers()]
    named = [*weights, *optimizer_tensors(optimizer), *(more or {}).items()]
    if bad := not_finite(named):
        raise DivergenceError(
            f"{len(bad):,} of {len(named):,} weights hold NaN or infinity ({parts_of(bad)}); they are not written",
            hint="the training diverged: lower learning_rate, or use bf16 in place of fp16",
        )


def parts_of(names: list[str], most: int = 3) -> str:
    """Some names, and how many more there are.

    >>> parts_of(["a", "b", "c", "d"])
    'a, b, c and 1 more'
    """
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def diverged(
    args: Any, folder: Path, step: int, loss: float, gradients: list[str], weights: list[str], skipped: int
) -> DivergenceError:
    """What a user reads when a training stops.

    Args:
        args: of the run.
        folder: where the batch was kept.
        step: optimizer steps before this one.
        loss: of the step.
        gradients, weights: names of those that are not finite.
        skipped: steps in a row, this one included, whose gradients were not finite.
    """
    fp16 = bool(args.fp16) or skipped >= MOST_SKIPPED
    if not math.isfinite(loss):
        found = f"the loss is {loss}"
    elif skipped >= MOST_SKIPPED:
        found = f"the gradients overflowed in fp16 at {skipped} steps in a row (the loss is {loss:.4g})"
    else:
        found = f"the gradients are not finite (the loss is {loss:.4g})"
    if weights:
        where = f"weights that hold NaN or infinity: {parts_of(weights)}"
    else:
        where = f"gradients that hold NaN or infinity: {parts_of(gradients) or 'none when the step was run again'}"
    last = last_checkpoint(str(args.output_dir))
    kept = f"the last checkpoint, {last}, is finite" if last else "no checkpoint had been written"
    advice = f"lower learning_rate, which is {args.learning_rate:g}" + (", use bf16 in place of fp16" if fp16 else "")
    return DivergenceError(
        f"Training stopped at step {step}: {found}. {where[0].upper()}{where[1:]}. {kept[0].upper()}{kept[1:]}. "
        f"The batch is kept in {folder} and can be run again with XMCTrainer.replay",
        hint=advice,
    )
