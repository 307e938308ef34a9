"""kill -9 at any moment, then resume: the same weights, bit for bit. A checkpoint is whole or not there."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from hf_xmc import XMCTrainer
from hf_xmc.errors import DiskFullError
from hf_xmc.training import checkpoints as training_checkpoints
from hf_xmc.training.candidates.label_bank import BANK
from tests.training.run_until_killed import trainer_for

ROOT = Path(__file__).parents[2]


def launch(
    python: str, encoder: str, toy: Path, out: Path, moment: str, processes: int = 1
) -> subprocess.CompletedProcess[str]:
    accelerate = ("-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", str(processes))
    script = [*(accelerate if processes > 1 else ()), "-m", "tests.training.run_until_killed"]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [python, *script, encoder, str(toy), str(out), moment]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


def checkpoints(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("checkpoint-*"))


def weights(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "model.safetensors")


def assert_same(a: Path, b: Path) -> None:
    for file in ("model.safetensors", BANK):
        if (a / file).exists():
            first, second = load_file(a / file), load_file(b / file)
            assert all(torch.equal(first[name], second[name]) for name in first), file


@pytest.mark.multiprocess
def test_killed_twice_and_resumed(tiny_encoder: str, toy: Path, tmp_path: Path, python: str) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    trainer = trainer_for(tiny_encoder, str(toy), str(whole))
    trainer.train()
    trainer.save_model(str(whole / "final"))
    assert trainer.state.epoch is not None
    assert trainer.state.epoch > 1  # resuming is in the midst of epochs

    done = launch(python, tiny_encoder, toy, broken, "saving:6")
    assert done.returncode == -9, done.stderr[-3000:]
    assert (broken / ".unfinished" / "checkpoint-6" / "model.safetensors").exists()  # half-written
    assert checkpoints(broken) == ["checkpoint-3"]
    done = launch(python, tiny_encoder, toy, broken, "batch:14")  # the second micro-batch of step 10
    assert done.returncode == -9, done.stderr[-3000:]
    assert checkpoints(broken) == ["checkpoint-6", "checkpoint-9"]
    again = trainer_for(tiny_encoder, str(toy), str(broken))
    again.train(resume_from_checkpoint=True)
    again.save_model(str(broken / "final"))

    assert_same(whole / "final", broken / "final")
    assert checkpoints(whole) == checkpoints(broken) == ["checkpoint-12", "checkpoint-9"]
    assert (whole / "checkpoint-12" / BANK).exists()
    assert_same(whole / "checkpoint-12", broken / "checkpoint-12")


@pytest.mark.slow
@pytest.mark.multiprocess
def test_two_processes_killed_and_resumed(tiny_encoder: str, toy: Path, tmp_path: Path, python: str) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    done = launch(python, tiny_encoder, toy, whole, "never", processes=2)
    assert "finished, world size 2" in done.stdout, done.stderr[-3000:]
    assert launch(python, tiny_encoder, toy, broken, "batch:10", processes=2).returncode != 0
    assert checkpoints(broken) == ["checkpoint-3"]
    done = launch(python, tiny_encoder, toy, broken, "never", processes=2)
    assert "finished, world size 2" in done.stdout, done.stderr[-3000:]
    assert_same(whole / "final", broken / "final")
    assert_same(whole / "checkpoint-12", broken / "checkpoint-12")


def fail_at(trainer: XMCTrainer, step: int) -> None:
    """The disk is full when the last file of this checkpoint is written."""
    original = trainer._save_rng_state

    def save(folder: str) -> None:
        if trainer.state.global_step == step:
            raise RuntimeError("PytorchStreamWriter failed: No space left on device (os error 28)")
        original(folder)

    trainer._save_rng_state = save


def test_a_full_disk_leaves_the_previous_checkpoint_whole(tiny_encoder: str, toy: Path, tmp_path: Path) -> None:
    args: dict[str, Any] = {"save_total_limit": 1}
    whole = trainer_for(tiny_encoder, str(toy), str(tmp_path / "whole"), **args)
    whole.train()
    trainer = trainer_for(tiny_encoder, str(toy), str(tmp_path / "full"), **args)
    fail_at(trainer, 6)
    with pytest.raises(DiskFullError, match=r"no space left .* for checkpoint-6 \(checkpoint-3 is whole\); make room"):
        trainer.train()
    assert checkpoints(tmp_path / "full") == ["checkpoint-3"]
    assert not (tmp_path / "full" / ".unfinished").exists()
    again = trainer_for(tiny_encoder, str(toy), str(tmp_path / "full"), **args)
    again.train(resume_from_checkpoint=True)
    assert_same(tmp_path / "whole" / "checkpoint-12", tmp_path / "full" / "checkpoint-12")
    assert checkpoints(tmp_path / "full") == ["checkpoint-12"]
    assert not (tmp_path / "full" / ".unfinished").exists()


def test_the_best_checkpoint_is_named_by_its_final_place(tiny_encoder: str, toy: Path, tmp_path: Path) -> None:
    trainer = trainer_for(
        tiny_encoder,
        str(toy),
        str(tmp_path),
        eval_strategy="steps",
        eval_steps=3,
        load_best_model_at_end=True,
        metric_for_best_model="nDCG@5",
        learning_rate=5e-2,
    )
    trainer.train()
    best = Path(trainer.state.best_model_checkpoint)
    assert best.parent == tmp_path
    assert best.name in checkpoints(tmp_path)
    assert str(best) in (tmp_path / "checkpoint-12" / "trainer_state.json").read_text()
    assert all(torch.equal(trainer.model.state_dict()[name], x) for name, x in weights(best).items())


def test_other_batches_after_a_restart_are_named(
    tiny_encoder: str, toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(training_checkpoints.logger, "warning", said.append)
    trainer_for(tiny_encoder, str(toy), str(tmp_path), max_steps=3).train()
    checkpoint = tmp_path / "checkpoint-3"
    trainer_for(tiny_encoder, str(toy), str(tmp_path), max_steps=4).train(resume_from_checkpoint=True)
    assert not said
    (checkpoint / "rng_state.pth").rename(checkpoint / "rng_state_0.pth")  # as two processes leave them
    (checkpoint / "rng_state_1.pth").write_bytes((checkpoint / "rng_state_0.pth").read_bytes())
    (checkpoint / "batches.json").write_text(json.dumps({"processes": 2, "queries per step": 16}))
    args = {"per_device_train_batch_size": 4, "max_steps": 4}
    trainer_for(tiny_encoder, str(toy), str(tmp_path), **args).train(resume_from_checkpoint=str(checkpoint))
    assert len(said) == 1
    assert "2 processes (here 1), 16 queries per step (here 8)" in said[0]
    (checkpoint / "batches.json").write_text(json.dumps({"processes": 2, "queries per step": 16}))
    training_checkpoints.warn_of_other_batches(checkpoint, trainer_for(tiny_encoder, str(toy), str(tmp_path)).args)
    assert "2 processes (here 1)." in said[1]
    assert "dropout is drawn anew. The next batches have the queries that they would have had" in said[1]


def test_a_step_that_was_saved_before_is_replaced(tiny_encoder: str, toy: Path, tmp_path: Path) -> None:
    for seed in (1, 2):
        trainer = trainer_for(tiny_encoder, str(toy), str(tmp_path), seed=seed, max_steps=3)
        trainer.train()
    assert checkpoints(tmp_path) == ["checkpoint-3"]
    assert all(torch.equal(trainer.model.state_dict()[k], x) for k, x in weights(tmp_path / "checkpoint-3").items())
