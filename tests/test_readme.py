"""What the README says is run as it stands there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard
from typer.testing import CliRunner

from hf_xmc.cli.main import app

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def test_python_example(tiny_encoder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train, use = blocks("python")
    monkeypatch.chdir(tmp_path)
    assert len([line for line in train.splitlines() if line]) == 4, "four lines"
    train = train.replace('"outputs/tagger")', f'"outputs/tagger", encoder={tiny_encoder!r}, max_steps=2)')
    assert "max_steps" in train
    names: dict[str, Any] = {}
    exec(compile(train, "README.md", "exec"), names)
    assert (tmp_path / "outputs/tagger/index/index.faiss").is_file()
    assert (tmp_path / "outputs/tagger/confidence.json").is_file()

    exec(compile(use.replace("\ntagger(", "\nlast = tagger("), "README.md", "exec"), names)
    assert "probability" in names["last"][0]
    assert "explanation" in names["last"][0]
    tags = names["tagger"]("a new label", k=2000)
    assert len(tags) == 1194
    assert "1193" in {tag["uid"] for tag in tags}


def test_commands_and_their_flags_exist() -> None:
    lines = "\n".join(blocks("bash")).replace("\\\n", " ").splitlines()
    commands = [line.split("#")[0].split() for line in lines if line.startswith("hf-xmc ")]
    assert len(commands) >= 7
    for _, command, *rest in commands:
        text = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200"}).output
        for flag in (word for word in rest if word.startswith("--")):
            assert flag in text, f"hf-xmc {command} has no {flag}"


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in set(re.findall(r"make (\w+)", README)):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target


def test_figures_are_those_of_the_card() -> None:
    card = ModelCard.load(ROOT / "model_cards" / "sample_fit.md")
    measured = {result.metric_name: result.metric_value for result in card.data.eval_results}
    (row,) = re.findall(r"\| \*\*this model\*\* \|(.*)\|", README)
    columns = ("P@1", "P@3", "P@5", "nDCG@5", "PSP@1", "PSP@5")
    assert [float(cell) for cell in row.split("|")] == [round(100 * measured[name], 1) for name in columns]
    assert "<!--" not in README
