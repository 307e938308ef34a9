"""Recipes: run with a stub in place of `hf-xmc`, whose arguments the real parsers must take."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import typer

from hf_xmc.cli.launch import relaunch
from hf_xmc.cli.main import app
from hf_xmc.cli.train import ScriptArguments, parse
from hf_xmc.data.public_sets import SETS
from hf_xmc.training.arguments import XMCTrainingArguments

RECIPES = Path(__file__).parents[2] / "scripts/recipes"
NGAME, DEXML = sorted(RECIPES.glob("ngame_*.sh")), sorted(RECIPES.glob("dexml_*.sh"))
STUB = '#!/usr/bin/env bash\nprintf "%s\\n" "$@" > "$(mktemp "$RECORDS/$(date +%s%N)XXXX")"\n'

Commands = list[list[str]]


def run(script: Path, folder: Path, **environment: str) -> Commands:
    """The arguments of each `hf-xmc` that a script starts in this folder."""
    stub, records = folder / "bin/hf-xmc", folder / "records"
    for path in (stub.parent, records):
        path.mkdir(exist_ok=True)
    stub.write_text(STUB)
    stub.chmod(0o755)
    for old in records.iterdir():
        old.unlink()
    path = f"{stub.parent}:{os.environ['PATH']}"
    clean = {name: value for name, value in os.environ.items() if name not in ("ENCODER", "DATA", "DATASET", "OUT")}
    done = subprocess.run(
        ["bash", script],
        cwd=folder,
        env={**clean, "PATH": path, "RECORDS": str(records), **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return [record.read_text().splitlines() for record in sorted(records.iterdir())]


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> dict[Path, Commands]:
    """What each script starts where nothing is there yet."""
    folder = tmp_path_factory.mktemp("recipes")
    return {script: run(script, folder, ENCODER="an/encoder") for script in (*NGAME, *DEXML)}


@pytest.fixture(params=[*NGAME, *DEXML], ids=lambda path: path.stem)
def script(request: pytest.FixtureRequest) -> Path:
    return request.param


def value(argv: list[str], flag: str) -> str:
    return argv[argv.index(flag) + 1]


def trained(argv: list[str], monkeypatch: pytest.MonkeyPatch) -> tuple[ScriptArguments, XMCTrainingArguments, int]:
    """What `hf-xmc train` makes of its arguments, and on how many processes it starts."""
    started: list[list[str]] = []
    monkeypatch.setattr(os, "execv", lambda program, launched: started.append(launched))
    rest = relaunch("train", argv[1:])
    if started:
        (launched,) = started
        rest = launched[launched.index("hf_xmc.cli.main") + 2 :]
    parser, given = parse(rest, "hf-xmc train", "")
    script, args = parser.parse_dict(vars(given))
    processes = int(value(argv, "--num_processes")) if "--num_processes" in argv else 1
    return script, args, processes


def options(argv: list[str]) -> dict[str, Any]:
    """What any other command makes of its arguments, without being run."""
    group: Any = typer.main.get_command(app)
    parent = group.make_context("hf-xmc", [argv[0]], resilient_parsing=True)
    command = group.get_command(parent, argv[0])
    assert command is not None, f"there is no hf-xmc {argv[0]}"
    return command.make_context(argv[0], argv[1:], parent=parent).params


def test_every_set_has_both_recipes() -> None:
    names = {re.sub(r"\W", "_", config.name.lower()) for config in SETS}
    assert {path.stem for path in NGAME} == {f"ngame_{name}" for name in names}
    assert {path.stem for path in DEXML} == {f"dexml_{name}" for name in names}


def test_each_can_be_read_alone(script: Path) -> None:
    """Executable, short, and says at its top where settings come from and whether it was run."""
    assert subprocess.run(["bash", "-n", script]).returncode == 0
    assert os.access(script, os.X_OK)
    text = script.read_text()
    assert 20 <= len(text.splitlines()) <= 45
    assert max(map(len, text.splitlines())) <= 119
    head = text[: text.index("set -euo pipefail")]
    repository = "Extreme-classification/ngame" if script in NGAME else "nilesh2797/DEXML"
    assert repository in head or "Settings: ours" in head
    for name in re.findall(r"(?:ngame|dexml)_\w+\.sh|settings/\w+\.yaml", head):
        assert (RECIPES / name).is_file(), name
    assert ("NOT RUN HERE" in head) == ("--accelerate_config" in text)


def test_prepared_with_the_constants_of_the_set(script: Path, commands: dict[Path, Commands]) -> None:
    first, *others = commands[script]
    given = options(first)
    assert first[0] == "prepare"
    assert given["builder"] in [config.name for config in SETS]
    assert re.sub(r"\W", "_", given["builder"].lower()) == script.stem.split("_", 1)[1]
    prepared = str(given["output_dir"])
    assert [value(argv, "--dataset") for argv in others] == [prepared] * len(others)


def test_trainings_parse_and_follow_each_other(
    script: Path, commands: dict[Path, Commands], monkeypatch: pytest.MonkeyPatch
) -> None:
    stages = [trained(argv, monkeypatch) for argv in commands[script] if argv[0] == "train"]
    assert len(stages) == (2 if script in NGAME else 1)
    source = "an/encoder"
    sizes = []
    for model, args, processes in stages:
        assert model.model_name_or_path == source
        source = args.output_dir or ""
        sizes.append(args.per_device_train_batch_size * processes)
        assert args.resume_from_checkpoint == "auto"
        assert args.save_strategy != "no"
    said = re.findall(r"batches of ([\d,]+)\squeries", re.sub(r"\n# ", " ", script.read_text()))
    assert [int(size.replace(",", "")) for size in said] == sizes
    assert options(commands[script][-1])["run"] == source


def test_ngame_is_three_stages(commands: dict[Path, Commands], monkeypatch: pytest.MonkeyPatch) -> None:
    for script in NGAME:
        _, first, second, fuse, evaluate = commands[script]
        assert [argv[0] for argv in commands[script]] == ["prepare", "train", "train", "fuse", "evaluate"]
        (_, one, _), (model, two, _) = (trained(argv, monkeypatch) for argv in (first, second))
        assert (one.train_sampling_strategy, one.label_strategy) == ("clustered", "in_batch")
        if one.freeze_encoder:  # those of the small sets, whose settings are ours
            assert (one.loss, one.num_positives) == ("decoupled_softmax", None)
            assert f"in clusters of {one.cluster_size}." in script.read_text().replace("\n# ", " ")
        else:
            assert (one.loss, one.num_positives) == ("triplet_margin", 1)
            assert one.cluster_growth_epochs == sorted(set(one.cluster_growth_epochs))
            assert one.cluster_start_epoch <= one.cluster_growth_epochs[0]
            assert one.cluster_growth_epochs[-1] < one.num_train_epochs
            largest = one.cluster_size * 2 ** len(one.cluster_growth_epochs)
            assert largest <= one.per_device_train_batch_size
            assert f", of about {largest} in the end." in script.read_text()
        assert model.label_head == "classifier"  # type: ignore[attr-defined]
        assert (two.freeze_encoder, two.label_head_loss_weight) == (True, 1), "the classifier alone"
        assert two.label_strategy in ("mined", "mixed") or two.train_sampling_strategy == "clustered"
        assert two.num_hard_negatives <= two.mining_depth
        assert Path(options(fuse)["run"]) == Path(two.output_dir or "")
        assert options(evaluate)["against"] == one.output_dir
        assert options(evaluate)["split"] == "test"


def test_dexml_is_one_stage_over_all_labels(
    commands: dict[Path, Commands], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for script in DEXML:
        _, train, evaluate = commands[script]
        assert [argv[0] for argv in commands[script]] == ["prepare", "train", "evaluate"]
        _, args, processes = trained(train, monkeypatch)
        assert (args.label_strategy, args.loss) == ("all", "decoupled_softmax")
        assert args.train_sampling_strategy == "random"
        assert args.metric_for_best_model == "nDCG@5"
        assert processes == 1 or value(train, "--accelerate_config") == "multi_gpu"
        assert options(evaluate)["split"] == "test"
    settings = {"DATA": "raw set", "DATASET": "tables", "OUT": "a run", "LOSS": "soft_top_k"}
    prepare, train, evaluate = run(RECIPES / "dexml_bible_xref.sh", tmp_path, **settings)
    assert prepare[1] == "raw set"
    script_args, args, _ = trained(train, monkeypatch)
    assert (script_args.dataset, args.output_dir, args.loss) == ("tables", "a run", "soft_top_k")
    assert options(evaluate)["output_dir"] == Path("a run/evaluation")


def test_what_is_done_is_not_done_again(script: Path, commands: dict[Path, Commands], tmp_path: Path) -> None:
    first = commands[script]
    for argv in first:
        if argv[0] in ("prepare", "train"):
            done = tmp_path / value(argv, "--output_dir")
            done.mkdir(parents=True)
            (done / ("dataset.json" if argv[0] == "prepare" else "run.json")).touch()
    assert run(script, tmp_path) == [argv for argv in first if argv[0] not in ("prepare", "train")]


def test_a_stage_that_fails_ends_the_recipe(tmp_path: Path) -> None:
    stub = tmp_path / "bin/hf-xmc"
    stub.parent.mkdir()
    stub.write_text('#!/usr/bin/env bash\necho "$1" >> "$RECORDS"\n[ "$1" != train ]\n')
    stub.chmod(0o755)
    environment = {**os.environ, "PATH": f"{stub.parent}:{os.environ['PATH']}", "RECORDS": str(tmp_path / "called")}
    assert subprocess.run(["bash", NGAME[0]], cwd=tmp_path, env=environment).returncode == 1
    assert (tmp_path / "called").read_text().split() == ["prepare", "train"]


def test_the_table_names_every_recipe() -> None:
    table = (RECIPES / "README.md").read_text(encoding="utf-8")
    for config in SETS:
        (row,) = [line for line in table.splitlines() if line.startswith(f"| {config.name} ")]
        name = re.sub(r"\W", "_", config.name.lower())
        assert f"(ngame_{name}.sh)" in row
        assert f"(dexml_{name}.sh)" in row
    for link in re.findall(r"\]\(([\w/.]+)\)", table):
        assert (RECIPES / link).exists(), link
