"""Every command that a command says to run next runs when it is pasted."""

from __future__ import annotations

import json
import random
import re
import shlex
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from hf_xmc import load_xmc_dataset
from hf_xmc.cli.main import app
from tests.conftest import COLOURS, THINGS, write_lines

FAST = ["--max_steps", "2", "--report_to", "none", "--save_strategy", "no", "--per_device_train_batch_size", "8"]
NOISE = ("Updated tokens", "Loading weights", "{'", "eval_", "train_runtime")


def invoke(*args: str | Path) -> str:
    result = CliRunner().invoke(app, [str(arg) for arg in args], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert not [noise for noise in NOISE if noise in result.output], result.output
    return result.output


def next_commands(output: str) -> list[list[str]]:
    """The words of each `hf-xmc` command below `Next:`, without its comment."""
    below = output.split("Next:", 1)[1]
    return [shlex.split(line, comments=True)[1:] for line in below.splitlines() if line.strip().startswith("hf-xmc ")]


def run_next(output: str, folder: Path) -> list[str]:
    """Run what is said to come next; the names of the commands, in their order."""
    commands = next_commands(output)
    assert commands, output
    for words in commands:
        if words[0] == "evaluate" and "--output_dir" not in words:
            words += ["--output_dir", str(folder / "evaluation")]
        invoke(*words)
    return [words[0] for words in commands]


@pytest.fixture(scope="module")
def no_test(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of tables without a test split, and with enough validation queries to calibrate."""
    folder, draw = tmp_path_factory.mktemp("my data"), random.Random(0)
    for split, count in (("train", 120), ("validation", 60)):
        rows = [(draw.choice(COLOURS), draw.choice(THINGS), i) for i in range(count)]
        lines = [f"a {colour} {thing} number {i},the {colour}; the {thing}" for colour, thing, i in rows]
        (folder / f"{split}.csv").write_text("\n".join(["text,labels", *lines]) + "\n")
    return folder


@pytest.fixture(scope="module")
def trained(tiny_encoder: str, no_test: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A folder that plan and train made, and what train printed."""
    folder = tmp_path_factory.mktemp("runs") / "a run"
    args = ("--dataset", no_test, "--model_name_or_path", tiny_encoder, "--output_dir", folder, *FAST)
    planned = invoke("plan", *args, "--seconds", "0.1", "--label_strategy", "in_batch")
    (command,) = next_commands(planned)
    assert command[0] == "train"
    assert command[(at := command.index("--label_strategy")) : at + 2] == ["--label_strategy", "in_batch"]
    return folder, invoke(*command)


def test_after_train(trained: tuple[Path, str], tmp_path: Path) -> None:
    folder, output = trained
    assert "tf-idf of label texts" in output
    assert all(len(line) <= 80 for line in output.split("Next:")[0].splitlines() if str(folder) not in line)
    assert run_next(output, tmp_path) == ["evaluate", "predict"]


def test_after_evaluate(trained: tuple[Path, str], no_test: Path, tmp_path: Path) -> None:
    output = invoke("evaluate", trained[0], "--dataset", no_test, "--output_dir", tmp_path / "evaluation")
    assert "no test split: measured on validation" in " ".join(output.split())
    assert run_next(output, tmp_path) == ["predict"]
    metrics = json.loads((tmp_path / "evaluation" / "metrics.json").read_text())
    beaten = all(metrics["baselines"]["tf-idf of label texts"][m] > metrics["metrics"][m] for m in ("P@1", "nDCG@5"))
    assert ("tf-idf of label texts is better than" in " ".join(output.split())) == beaten


def test_after_calibrate(trained: tuple[Path, str], no_test: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(trained[0], tmp_path / "copy")
    output = invoke("calibrate", folder, "--dataset", no_test)
    first = " ".join(output.split())
    use = re.match(r"Use --threshold (0\.\d\d)( --k \d+)?: (\d+\.\d) labels a text, precision (\d+) %", first)
    assert use is not None, output
    assert run_next(output, tmp_path) == ["evaluate", "predict"]
    (tmp_path / "in.csv").write_text("text\n" + "\n".join(load_xmc_dataset(no_test).queries["validation"]["text"][:]))
    said = invoke(
        *("predict", folder, "--input", tmp_path / "in.csv", "--output", tmp_path / "out.csv"),
        *("--threshold", use[1], "--k", 50),
    )
    assert "texts tagged" in said
    advised = json.loads((folder / "confidence.json").read_text())["settings"]["advised"]
    assert f"{advised['threshold']:.2f}" == use[1]
    assert round(100 * advised["precision"]) == int(use[4])


def test_after_labels(trained: tuple[Path, str], tmp_path: Path) -> None:
    folder = shutil.copytree(trained[0], tmp_path / "copy")
    assert run_next(invoke("labels", folder, "--add", "Library automation"), tmp_path) == ["predict"]


def test_evaluate_against_a_tagger_of_a_smaller_catalogue(
    trained: tuple[Path, str], no_test: Path, tmp_path: Path
) -> None:
    old = shutil.copytree(trained[0], tmp_path / "old")
    invoke("index", old, "--dataset", smaller(no_test, tmp_path / "smaller"))
    args = ("--dataset", no_test, "--against", old, "--output_dir", tmp_path / "evaluation")
    output = " ".join(invoke("evaluate", trained[0], *args, "--no_baselines").split())
    count = len(load_xmc_dataset(tmp_path / "smaller").labels)
    assert f"on the {count} labels that both have" in output
    comparison = json.loads((tmp_path / "evaluation" / "details.json").read_text())["comparison"]
    assert comparison["P@1"]["difference"] == pytest.approx(0), "the same model, on the same labels"


def smaller(data: Path, folder: Path) -> Path:
    """The last labels of a set, in another order, as a set of its own."""
    labels = load_xmc_dataset(data).labels
    folder.mkdir()
    rows = [labels[i] for i in range(len(labels) - 1, 2, -1)]
    write_lines(folder / "lbl.jsonl", [{"uid": row["uid"], "text": row["text"]} for row in rows])
    for name in ("trn", "tst"):
        write_lines(folder / f"{name}.jsonl", [{"uid": f"{name}{i}", "text": "x y", "labels": [i]} for i in (0, 1)])
    return folder
