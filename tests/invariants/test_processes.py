"""One process and two, with the same global batch, share one loss curve."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.invariants.train_curves import FEW, SETTINGS, STEPS, curves

ROOT = Path(__file__).parents[2]


@pytest.mark.multiprocess
@pytest.mark.parametrize("names", [FEW, pytest.param([*SETTINGS], marks=pytest.mark.slow)], ids=["few", "all"])
def test_two_processes_have_the_loss_curve_of_one(
    names: list[str], tiny_encoder: str, toy: Path, tmp_path: Path, python: str
) -> None:
    """Steps of 16 queries over 102: the last batch of an epoch has 6, and the second process none of them."""
    command = [
        *(python, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"),
        *("-m", "tests.invariants.train_curves", tiny_encoder, str(toy), str(tmp_path), "8", *names),
    ]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    one = curves(tiny_encoder, toy, tmp_path, 16, names)
    for rank in (0, 1):  # the name says the world size
        two = json.loads((tmp_path / f"curves-2-{rank}.json").read_text())
        assert one.keys() == two.keys()
        for name, curve in one.items():
            assert len(curve["loss"]) == SETTINGS[name].get("max_steps", STEPS)
            assert two[name]["loss"] == pytest.approx(curve["loss"], abs=1e-4), name
            assert two[name]["grad_norm"] == pytest.approx(curve["grad_norm"], rel=1e-2), name
            assert two[name]["eval"] == pytest.approx(curve["eval"], abs=1e-3), name
        assert one["all"]["loss"][-1] < one["all"]["loss"][0]
