"""What a command imports before it does its work: one sentence should not wait for libraries that it does not need."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
from datasets import Dataset
from typer.testing import CliRunner

from hf_xmc import XMCDualEncoderModel, XMCPipeline
from hf_xmc.cli import train
from hf_xmc.cli.main import app

# Each takes between a tenth of a second and several seconds to import.
SLOW = {
    *("torch", "transformers", "datasets", "pandas", "sklearn", "scipy.stats", "scipy.optimize", "matplotlib"),
    *("accelerate", "peft", "evaluate", "rdflib", "gradio", "iterstrat", "jinja2", "huggingface_hub", "sympy"),
}
RUN = """
import json, runpy, sys
target, sys.argv = sys.argv[1], ["hf-xmc", *sys.argv[2:]]
try:
    {code}
except SystemExit as end:
    assert not end.code, end.code
finally:
    with open(target, "w") as file:
        json.dump(sorted(sys.modules), file)
"""
COMMAND = 'runpy.run_module("hf_xmc.cli.main", run_name="__main__", alter_sys=True)'


def imported(scratch: Path, *arguments: object, code: str = COMMAND, home: Path | None = None) -> set[str]:
    """The modules that a fresh process imports for a command."""
    target = scratch / "modules.json"
    environment = {**os.environ, **({} if home is None else {"HF_HOME": str(home)})}
    command = [sys.executable, "-c", RUN.format(code=code), str(target), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return set(json.loads(target.read_text()))


@pytest.fixture(scope="module")
def tagger(tiny_encoder: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny encoder and an index."""
    folder = tmp_path_factory.mktemp("startup") / "tagger"
    labels = Dataset.from_dict({"uid": ["r", "b", "g"], "text": ["red", "blue", "green"]})
    XMCPipeline.build(XMCDualEncoderModel.from_encoder(tiny_encoder), labels).save_pretrained(folder)
    return folder


def test_help(tmp_path: Path) -> None:
    found = imported(tmp_path, "--help")
    assert not found & {*SLOW, "faiss", "scipy", "numpy", "pyarrow"}
    assert len(found) < 900


def test_the_class(tmp_path: Path) -> None:
    found = imported(tmp_path, code="from hf_xmc import XMCPipeline")
    assert "faiss" in found
    assert not found & SLOW
    assert len(found) < 1000


def test_predicting_one_text(tagger: Path, tmp_path: Path) -> None:
    found = imported(tmp_path, "predict", tagger, "--text", "a red car")
    assert {"hf_xmc.inference.numpy_model", "tokenizers"} <= found
    assert not found & SLOW
    assert len(found) < 1300


def test_the_check_notices_an_import(tmp_path: Path) -> None:
    assert imported(tmp_path, code="import jinja2") & SLOW == {"jinja2"}


@pytest.mark.parametrize("command", ["train", "plan"])
def test_help_pages_are_those_of_the_whole_parser(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "100")
    module = import_module(f"hf_xmc.cli.{command}")
    own = getattr(module, "OWN", None)
    whole = train.add_options(train.argument_parser(f"hf-xmc {command}", module.EXAMPLE), own).format_help()
    for _ in range(2):  # written, and read
        assert CliRunner().invoke(app, [command, "--help"]).output == whole
    assert imported(tmp_path, command, "--help", home=tmp_path) & SLOW == set()


def test_help_pages_are_made_where_nothing_can_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "file"))
    assert "--label_strategy" in CliRunner().invoke(app, ["train", "--help"]).output
