"""The study of the settings of `hf-xmc fit`, on a set that it can learn in some steps."""

from __future__ import annotations

import json
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from hf_xmc import load_xmc_dataset

BENCHMARKS = Path(__file__).parents[2] / "scripts/benchmarks"


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return import_module("fit_study")


def test_a_row_is_a_run_with_another_setting(
    study: Any, toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small = {"static_dim": 8, "static_buckets": 256, "epochs": 2}
    monkeypatch.setitem(study.PARTS, "temperature", {"warm": {**small, "temperature": 0.2}})
    output = tmp_path / "study.json"
    options = ["--part", "temperature", "--preset", "fast", "--workdir", str(tmp_path), "--output", str(output)]
    monkeypatch.setattr(sys, "argv", ["fit_study.py", str(toy), *options])
    study.main()
    [found] = json.loads(output.read_text()).values()
    assert set(study.SHOWN) < found["fast: temperature"]["warm"].keys()
    assert found["fast: temperature"]["warm"]["P@1"] > 0.3, "popularity has one in twelve"
    assert "warm" in capsys.readouterr().out

    monkeypatch.setattr(study, "fit_tagger", None)  # what is there is not run again
    study.main()
    assert [found] == list(json.loads(output.read_text()).values())


def test_the_test_split_is_out_of_reach(study: Any, toy: Path) -> None:
    assert sorted(study.without_test(load_xmc_dataset(toy)).queries) == ["train", "validation"]


def test_names_of_labels_with_a_description(study: Any) -> None:
    data = load_xmc_dataset("sample")
    assert data.labels[0]["text"].startswith("Data: Information")
    assert study.with_names(data).labels[0]["text"] == "Data"
