"""A sample of what `make faults` does: some commands, each killed at a few of its steps."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
FEW = ["--kills=2", "--states=4", "--sizes=1", "--times=0", "--again=1"]


def test_a_few_steps(python: str) -> None:
    """Each leaves the old or the new, and the command run again ends as if it had not been killed."""
    command = [python, "-m", "tests.faults", "card", "labels --remove", *FEW]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(" 0 0 0 0 ") == 2, done.stdout  # none unusable, lost, wrong, or not repeated
