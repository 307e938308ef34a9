"""The batch at which a training stopped, written so that it can be run again.

`nonfinite-STEP/` in the output folder holds

    step.json                      step, loss, learning rates, and the gradients that were not finite
    batch-RANK.safetensors         of each process: rows and pairs of its micro-batches, candidates, random state
    model/                         the model before the step, if it is finite

`XMCTrainer.replay` runs it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from hf_xmc.errors import ModelFolderError
from hf_xmc.training.adapters import has_adapters, merged, plain_model
from hf_xmc.training.candidates.rule import CandidateRule, Candidates, Window
from hf_xmc.training.finite import diverged, not_finite
from hf_xmc.types import Positives

STEP, MODEL = "step.json", "model"
FORMAT = 1


@dataclass
class KeptStep:
    """What a step was made of, on one process. Nothing is copied while training goes well.

    Args:
        number: optimizer steps before this one.
        batches: its micro-batches, as the collator makes them.
        random: states of the random generators before it, by device.
        candidates: that the rule chose.
    """

    number: int
    batches: list[dict[str, Tensor]]
    random: dict[str, Tensor] = field(default_factory=dict)
    candidates: Candidates | None = None

    def tensors(self) -> dict[str, Tensor]:
        """Everything as tensors, by name."""
        found = {f"random.{device}": state for device, state in self.random.items()}
        for i, batch in enumerate(self.batches):
            found |= {f"batch.{i}.{name}": value for name, value in batch.items()}
        if self.candidates is not None:
            chosen = self.candidates
            some = {"ids": chosen.ids, "log_weights": chosen.log_weights, "counts": chosen.counts}
            if chosen.negatives is not None:
                some |= {"indptr": chosen.negatives.indptr, "indices": chosen.negatives.indices}
            found |= {f"candidates.{name}": value for name, value in some.items() if value is not None}
        return {name: value.detach().cpu().contiguous().clone() for name, value in found.items()}

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], number: int, device: torch.device) -> KeptStep:
        """What `tensors` returned."""
        groups: dict[str, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            group, _, key = name.rpartition(".")
            groups.setdefault(group, {})[key] = value
        count = sum(group.startswith("batch.") for group in groups)
        batches = [{k: v.to(device) for k, v in groups[f"batch.{i}"].items()} for i in range(count)]
        some = {k: v.to(device) for k, v in groups.get("candidates", {}).items()}
        pairs = Positives(some["indptr"], some["indices"]) if "indptr" in some else None
        chosen = Candidates(some.get("ids"), some.get("log_weights"), some.get("counts"), pairs)
        return cls(number, batches, groups.get("random", {}), chosen)


class SameCandidates(CandidateRule):
    """Chooses what was chosen before; everything else is that of the rule of the run."""

    def __init__(self, rule: CandidateRule, chosen: Candidates) -> None:
        self.rule, self.chosen = rule, chosen
        self.args, self.encoder, self.ranks, self.split = rule.args, rule.encoder, rule.ranks, rule.split

    def choose(self, window: Window) -> Candidates:
        return self.chosen

    @property
    def draws_for_loss(self) -> bool:
        return self.rule.draws_for_loss


@dataclass(frozen=True)
class Replayed:
    """A step that was run again, without moving the weights.

    Args:
        loss: its value.
        norms: parameter -> norm of its gradient.
        not_finite: the parameters whose gradient holds NaN or infinity.
    """

    loss: float
    norms: dict[str, float]
    not_finite: list[str]


def random_states(device: torch.device) -> dict[str, Tensor]:
    """The states of torch's generators, uint8; of a GPU without waiting for it."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def set_random_states(states: Mapping[str, Tensor], device: torch.device) -> None:
    """Go back to states that `random_states` returned."""
    if "cpu" in states:
        torch.set_rng_state(states["cpu"].cpu())
    if "cuda" in states and device.type == "cuda":
        torch.cuda.set_rng_state(states["cuda"].cpu(), device)


def save_step(folder: Path, step: KeptStep, about: dict[str, Any], rank: int) -> None:
    """Write this process's part of a step, and on the first process what is the same on all."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(step.tensors(), folder / f"batch-{rank}.safetensors")
    if rank == 0:
        text = json.dumps({"format": FORMAT, **about}, indent=2, ensure_ascii=False)
        (folder / STEP).write_text(text + "\n", encoding="utf-8")


def load_step(folder: Path, device: torch.device, rank: int = 0) -> KeptStep:
    """Read a process's part of a step.

    Raises:
        ModelFolderError: the folder holds no step of this process.
    """
    folder = Path(folder)
    path = folder / f"batch-{rank}.safetensors"
    if not path.is_file() or not (folder / STEP).is_file():
        raise ModelFolderError(
            f"no step of process {rank} to replay", folder, hint="give a folder nonfinite-STEP of a training"
        )
    number = int(json.loads((folder / STEP).read_text(encoding="utf-8"))["step"])
    return KeptStep.of(load_file(path), number, device)


def fresh(folder: Path) -> Path:
    """The folder, without what an earlier run of this step left in it."""
    shutil.rmtree(folder, ignore_errors=True)
    return folder


def stop_at(trainer: Any, step: KeptStep) -> NoReturn:
    """Keep the batch of a step for `XMCTrainer.replay`, and end the training; all processes do.

    Raises:
        DivergenceError: says which step it was, what was not finite, and what to try.
    """
    loss = trainer.guard.loss
    folder = Path(str(trainer.args.output_dir)) / f"nonfinite-{step.number}"
    value = float("nan") if loss is None else loss.item()
    again = run_again(trainer, step)
    wrong = not_finite(trainer.model.named_parameters())
    if trainer.args.should_save:
        fresh(folder)
    if trainer.ranks.group is not None:
        torch.distributed.barrier()
    about = {
        "step": step.number,
        "epoch": trainer.state.epoch,
        "loss": str(value),
        "not_finite": again.not_finite,
        "weights_not_finite": wrong,
        "learning_rate": trainer.args.learning_rate
        if trainer.optimizer is None
        else trainer.optimizer.param_groups[0]["lr"],
        "processes": trainer.args.world_size,
        "label_strategy": str(trainer.args.label_strategy),
    }
    save_step(folder, step, about, trainer.ranks.rank)
    trainer.head.give()
    if trainer.args.should_save and not wrong:
        merged_model = merged(trainer.model) if has_adapters(trainer.model) else plain_model(trainer.model)
        merged_model.save_pretrained(folder / MODEL)
    raise diverged(trainer.args, folder, step.number, value, again.not_finite, wrong, trainer.guard.skipped)


def run_again(trainer: Any, step: KeptStep) -> Replayed:
    """Loss and gradients of a step that was kept, in the random state that it had; nothing is moved."""
    trainer.model.train()
    trainer.model.zero_grad()
    rule, scaler = trainer.rule, getattr(trainer.accelerator, "scaler", None)
    scale = 1.0 if scaler is None else scaler.get_scale()
    try:
        if step.candidates is not None:
            trainer.rule = SameCandidates(rule, step.candidates)
        trainer.guard.begin()
        set_random_states(step.random, trainer.args.device)
        trainer.label_step, kept = trainer.new_step(step.batches), trainer.step_kept
        trainer.label_step.number = step.number
        if trainer.static is not None:
            trainer.static.number = step.number
        trainer.step_kept = None
        for batch in step.batches:
            with trainer.accelerator.autocast():
                loss = trainer.compute_loss(trainer.model, batch)
            if loss.requires_grad:
                (loss * scale).backward()
            trainer.guard.add_loss(loss)
        trainer.step_kept = kept
    finally:
        trainer.rule, trainer.label_step = rule, None
    named = [(name, p.grad) for name, p in trainer.model.named_parameters() if p.grad is not None]
    named += [("label_head.vectors", gradient) for gradient in trainer.head.gradients()]
    if trainer.static is not None:
        named += [("static_tower.table", part.gradients) for part in trainer.static.touched]
        trainer.static.touched = []
    norms = {name: float(torch.linalg.vector_norm(gradient.float())) for name, gradient in named}
    found = Replayed(float(trainer.guard.loss or 0), norms, not_finite(named))
    trainer.model.zero_grad()
    return found
