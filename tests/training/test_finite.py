"""A loss or a gradient that is not finite ends a training at that step, and nothing of it is written."""

from __future__ import annotations

import json
import math
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from hf_xmc import XMCDataset, XMCDualEncoderModel, XMCTrainer, load_xmc_dataset
from hf_xmc.errors import DivergenceError, ModelFolderError
from hf_xmc.hub.run import write_json
from hf_xmc.losses.decoupled import DecoupledSoftmaxLoss
from hf_xmc.training.finite import MOST_SKIPPED
from tests.training.made import make_trainer

ROOT = Path(__file__).parents[2]
FAST = {"max_steps": 6, "per_device_train_batch_size": 8, "save_strategy": "steps", "save_steps": 2, "use_cpu": True}


class Poisoned(DecoupledSoftmaxLoss):
    """A loss that is NaN, or whose gradient is infinite, from its n-th call on.

    Args:
        call: number of calls that go well.
        gradient: whether the gradient alone is wrong.
    """

    def __init__(self, call: int, gradient: bool = False) -> None:
        super().__init__(0.05)
        self.left, self.gradient = call, gradient

    def forward(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        loss = super().forward(*args, **kwargs)
        self.left -= 1
        if self.left >= 0:
            return loss
        if not self.gradient:
            return loss * torch.nan
        loss.register_hook(lambda gradient: gradient * torch.inf)
        return loss


@pytest.fixture
def data(toy: Path) -> XMCDataset:
    return load_xmc_dataset(toy)


def poisoned(trainer: XMCTrainer, call: int, gradient: bool = False) -> XMCTrainer:
    trainer.given_loss = Poisoned(call, gradient)
    trainer.connect()
    return trainer


def all_finite(folder: Path) -> bool:
    files = [*folder.rglob("*.safetensors")]
    found = [x for file in files for name, x in load_file(file).items() if not name.startswith("random.")]
    pickles = [torch.load(file, weights_only=True) for file in folder.rglob("optimizer.pt")]
    found += [x for state in pickles for its in state["state"].values() for x in its.values()]
    return bool(files) and all(bool(torch.isfinite(x.float()).all()) for x in found)


@pytest.mark.parametrize(
    ("model", "args", "calls"),
    [
        ({}, {}, 3),
        ({}, {"gradient_accumulation_steps": 2, "logging_nan_inf_filter": False}, 7),
        ({"label_head": "residual"}, {"label_strategy": "all"}, 6),
        ({"label_head": "classifier"}, {"freeze_encoder": True, "label_head_optimizer": "sparse_adam"}, 6),
        ({"static_dim": 8, "static_buckets": 64}, {"static_learning_rate": 0.1}, 3),
    ],
    ids=["plain", "accumulation", "residual", "classifier", "static"],
)
@pytest.mark.parametrize("gradient", [False, True], ids=["loss", "gradient"])
def test_the_run_stops_at_that_step(
    tiny_encoder: str,
    data: XMCDataset,
    tmp_path: Path,
    model: dict[str, Any],
    args: dict[str, Any],
    calls: int,
    gradient: bool,
) -> None:
    trainer = poisoned(make_trainer(tiny_encoder, data, tmp_path, model, **{**FAST, **args}), calls, gradient)
    with pytest.raises(DivergenceError) as stopped:
        trainer.train()
    said = str(stopped.value)
    assert "stopped at step 3" in said
    assert ("the loss is nan" in said) != gradient
    assert "lower learning_rate, which is 0.001" in said
    assert f"{tmp_path}/checkpoint-2" in said
    kept = json.loads((tmp_path / "nonfinite-3" / "step.json").read_text())
    assert (kept["step"], kept["processes"]) == (3, 1)
    assert kept["not_finite"]
    assert all_finite(tmp_path)
    assert sorted(path.name for path in tmp_path.glob("[!.]*")) == ["checkpoint-2", "nonfinite-3"]


def test_the_batch_runs_again(tiny_encoder: str, data: XMCDataset, tmp_path: Path) -> None:
    """The same loss to the last bit, dropout included, in a trainer that knows the folder alone."""
    settings = {**FAST, "gradient_accumulation_steps": 2, "label_strategy": "selective", "label_budget": 9}
    trainer = poisoned(make_trainer(tiny_encoder, data, tmp_path, **settings), 7, gradient=True)
    with pytest.raises(DivergenceError) as stopped:
        trainer.train()
    [folder] = tmp_path.glob("nonfinite-*")
    again = make_trainer(tiny_encoder, data, tmp_path / "other", **settings)
    again.model.load_state_dict(XMCDualEncoderModel.from_pretrained(folder / "model").state_dict())
    found = again.replay(folder)
    assert f"(the loss is {found.loss:.4g})" in str(stopped.value)
    assert found.not_finite == []  # of the loss of the run without the poison
    assert all(math.isfinite(norm) for norm in found.norms.values())
    assert found == again.replay(folder)
    poisoned(again, 0, gradient=True)
    assert len(again.replay(folder).not_finite) == len(found.norms)
    with pytest.raises(ModelFolderError, match="no step of process 0 to replay"):
        again.replay(tmp_path)


def test_learning_rate_of_a_million(tiny_encoder: str, data: XMCDataset, tmp_path: Path) -> None:
    trainer = make_trainer(tiny_encoder, data, tmp_path, **{**FAST, "max_steps": 30, "learning_rate": 1e6})
    with pytest.raises(DivergenceError, match="lower learning_rate"):
        trainer.train()
    assert not [*tmp_path.glob("checkpoint-*")] or all_finite(tmp_path)


def test_weights_that_are_not_finite_are_not_written(tiny_encoder: str, data: XMCDataset, tmp_path: Path) -> None:
    trainer = make_trainer(tiny_encoder, data, tmp_path, {"label_head": "residual"}, **FAST)
    trainer.train()
    with torch.no_grad():
        trainer.model.query_encoder.embeddings.word_embeddings.weight[0, 0] = torch.inf
    with pytest.raises(DivergenceError, match=r"1 of 40 weights .*word_embeddings.weight"):
        trainer.save_model(str(tmp_path / "final"))
    assert not [*(tmp_path / "final").glob("[!.]*")]
    with pytest.raises(DivergenceError):
        trainer._save_checkpoint(trainer.model, None)
    assert all_finite(tmp_path)


@pytest.fixture
def fp16(monkeypatch: pytest.MonkeyPatch) -> Callable[[XMCTrainer, float], XMCTrainer]:
    """Gives a trainer a GradScaler, as fp16 on a GPU does; gradients are in float32, whose overflow is further up."""

    def scaled(trainer: XMCTrainer, scale: float) -> XMCTrainer:
        monkeypatch.setattr(type(trainer.accelerator), "mixed_precision", "fp16")
        trainer.accelerator.native_amp = True
        trainer.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=10_000)
        return trainer

    return scaled


def test_skipped_steps_of_fp16_are_normal(tiny_encoder: str, data: XMCDataset, tmp_path: Path, fp16: Any) -> None:
    """A scale of 2^127 overflows; halved a few times it does not."""
    trainer = fp16(make_trainer(tiny_encoder, data, tmp_path, **{**FAST, "max_steps": 12}), 2.0**127)
    trainer.train()
    assert trainer.accelerator.scaler.get_scale() < 2.0**127
    assert trainer.guard.skipped == 0
    assert all_finite(tmp_path)


def test_skipped_steps_without_end_are_not(tiny_encoder: str, data: XMCDataset, tmp_path: Path, fp16: Any) -> None:
    settings = {**FAST, "max_steps": 60, "save_strategy": "no"}
    trainer = fp16(make_trainer(tiny_encoder, data, tmp_path, **settings), 2.0**16)
    with pytest.raises(DivergenceError, match=f"{MOST_SKIPPED} steps in a row .*use bf16 in place of fp16"):
        poisoned(trainer, 2, gradient=True).train()
    assert trainer.state.global_step == 2 + MOST_SKIPPED - 1


def test_one_check_a_step(
    tiny_encoder: str, data: XMCDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many parameters there are: one value is read from the device."""
    trainer = make_trainer(tiny_encoder, data, tmp_path, max_steps=1)
    trainer.train()
    trainer.guard.begin()
    trainer.guard.add_loss(torch.ones(()))
    trainer.guard.norm = torch.ones(())
    read = []
    monkeypatch.setattr(torch.Tensor, "__bool__", lambda self: read.append(self.shape) or self.item() != 0)
    assert trainer.guard.holds([torch.ones(3)] * 5)
    assert read == [torch.Size([])]


@pytest.mark.multiprocess
def test_all_processes_stop(tiny_encoder: str, toy: Path, tmp_path: Path, python: str) -> None:
    """The loss is NaN on the second process alone."""
    command = [
        *(python, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"),
        *("-m", "tests.training.diverge", tiny_encoder, str(toy), str(tmp_path)),
    ]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    said = [(tmp_path / f"said-{rank}.txt").read_text() for rank in (0, 1)]
    assert all("stopped at step 3" in line and "checkpoint-2" in line for line in said)
    files = {path.name for path in (tmp_path / "run" / "nonfinite-3").iterdir()}
    assert files == {"step.json", "batch-0.safetensors", "batch-1.safetensors", "model"}


def test_json_has_no_nan(tmp_path: Path) -> None:
    write_json({"metrics": {"P@1": float("nan"), "P@5": 0.5, "list": [float("inf"), 1.0]}}, tmp_path / "a.json")
    assert json.loads((tmp_path / "a.json").read_text(), parse_constant=pytest.fail) == {
        "metrics": {"P@1": None, "P@5": 0.5, "list": [None, 1.0]}
    }
