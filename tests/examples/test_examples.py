"""The examples are run as they stand, on small data and with a tiny encoder."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.test_pages import write_data
from tests.hub.local_hub import TOKEN

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
SCRIPTS = ("train_and_tag.py", "calibrate_and_add_label.py", "train_and_push.py")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("examples")
    write_data(folder)
    return folder


def run(script: str, *arguments: str | Path) -> None:
    """Run a script in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [script, *map(str, arguments)])
        runpy.run_path(str(EXAMPLES / script), run_name="__main__")


def test_train_calibrate_and_add_a_label(
    folder: Path, tiny_encoder: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    data = ("--dataset", "my_data", "--text", "a red car")
    run("train_and_tag.py", *data, "--encoder", tiny_encoder, "--max_steps", "2", "--output_dir", "outputs/example")
    printed = capsys.readouterr().out
    assert "nDCG@5" in printed
    assert "the red" in printed
    assert (folder / "outputs/example/evaluation/report.html").is_file()

    run("calibrate_and_add_label.py", "outputs/example", *data, "--label", "the boat")
    printed = capsys.readouterr().out
    assert "'the boat' is in place" in printed
    assert "of 13" in printed
    card = (folder / "outputs/example/README.md").read_text(encoding="utf-8")
    assert "13 labels" in card


@pytest.mark.usefixtures("hub")
def test_train_and_push(
    folder: Path, tiny_encoder: str, hub_environment: dict[str, str], python: str, tmp_path: Path
) -> None:
    """In a process of its own, since the address of the Hub is read at import."""
    options = ("--encoder", tiny_encoder, "--max_steps", "2", "--output_dir", str(tmp_path / "run"))
    done = subprocess.run(
        [python, str(EXAMPLES / "train_and_push.py"), "--dataset", "my_data", "--push_to", "me/tagger", *options],
        cwd=folder,
        env={**hub_environment, "HF_TOKEN": TOKEN},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "me/tagger" in done.stdout
    assert "'uid'" in done.stdout


def test_the_notebook(folder: Path, tiny_encoder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its cells in order; what they print is not compared."""
    monkeypatch.chdir(folder)
    notebook = json.loads((EXAMPLES / "tagging.ipynb").read_text(encoding="utf-8"))
    names: dict[str, object] = {}
    for number, cell in enumerate(notebook["cells"]):
        if cell["cell_type"] == "code":
            code = "".join(cell["source"]).replace("sentence-transformers/all-MiniLM-L6-v2", tiny_encoder)
            code = code.replace('"sample"', '"my_data"').replace("num_train_epochs=5", "max_steps=2")
            exec(compile(code, f"tagging.ipynb, cell {number}", "exec"), names)


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_are_short_and_listed(script: str) -> None:
    assert len((EXAMPLES / script).read_text(encoding="utf-8").splitlines()) < 80
    assert f"({script})" in (EXAMPLES / "README.md").read_text(encoding="utf-8")
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(SCRIPTS)
