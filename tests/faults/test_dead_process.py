"""One of several processes dies, and the clock jumps: the run ends, and goes on from a checkpoint that is whole."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from transformers import TrainerState

from hf_xmc.training.arguments import XMCTrainingArguments
from hf_xmc.training.checkpoints import publish
from tests.training.test_restart import assert_same, checkpoints, launch


@pytest.mark.faults
@pytest.mark.parametrize("rank", [0, 1])
def test_one_process_of_two_dies(rank: int, tiny_encoder: str, toy: Path, tmp_path: Path, python: str) -> None:
    """The other one does not wait for it without end, and the run goes on as if nothing had happened."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    done = launch(python, tiny_encoder, toy, whole, "never", processes=2)
    assert "finished, world size 2" in done.stdout, done.stderr[-3000:]
    assert launch(python, tiny_encoder, toy, broken, f"batch:10:{rank}", processes=2).returncode != 0
    assert checkpoints(broken) == ["checkpoint-3"]
    done = launch(python, tiny_encoder, toy, broken, "never", processes=2)
    assert "finished, world size 2" in done.stdout, done.stderr[-3000:]
    assert_same(whole / "final", broken / "final")


@pytest.mark.parametrize("jump", [-10_000_000, 10_000_000])
def test_the_clock_jumps_between_checkpoints(jump: int, tmp_path: Path) -> None:
    """The newest one stays, whatever times the files have."""
    args = XMCTrainingArguments(str(tmp_path), save_total_limit=1, use_cpu=True)
    for step in (5, 10):
        written = tmp_path / ".unfinished" / f"checkpoint-{step}"
        written.mkdir(parents=True)
        state = TrainerState(global_step=step)
        publish(args, state, written, tmp_path / written.name, written.parent)
        assert checkpoints(tmp_path) == [written.name]
        os.utime(tmp_path / written.name, (written.parent.parent.stat().st_mtime - jump,) * 2)
