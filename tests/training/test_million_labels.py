from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.real_model
def test_selective_steps_over_a_million_labels_fit_in_12_gb(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.training.million_labels", str(tmp_path)]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    peak = float(done.stdout.rsplit("peak", 1)[1])
    assert 0.7 < peak < 12  # the bank alone has 0.77 GB
