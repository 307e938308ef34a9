"""Four processes, two machines, and fewer processes after each resume end with the weights of one process."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "scripts/benchmarks"


@pytest.mark.slow
@pytest.mark.multiprocess
@pytest.mark.parametrize("row", ["all, with label vectors", "selective"])
def test_processes_and_machines_train_the_same_weights(
    row: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Labels, their vectors and the bank are held in parts; a checkpoint of 4 processes goes on with 2 and with 1."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    machines = import_module("machines")
    monkeypatch.delitem(sys.modules, "machines")
    machines.make_files(tmp_path)
    found = machines.compared(tmp_path, machines.ROWS[row], steps=6)
    print(row, found)
    assert [*found] == ["4 processes", "2 machines of 2 processes", "4 processes, then 2, then 1"]
    for way, values in found.items():
        assert values["moved"] > 1e-4, way
        assert values["share"] < 1e-4, f"{way}: {values}"
