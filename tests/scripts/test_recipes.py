"""Recipes: every entry of the table is expanded, and the real parsers must take the commands that come of it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from hf_xmc import load_xmc_dataset
from hf_xmc.cli.launch import relaunch
from hf_xmc.cli.main import app
from hf_xmc.cli.script_arguments import ScriptArguments
from hf_xmc.cli.train import parse
from hf_xmc.data.public_sets import SETS
from hf_xmc.inference.fitting.tagger import train_tagger
from hf_xmc.training.arguments import XMCTrainingArguments

RECIPES = Path(__file__).parents[2] / "scripts/recipes"
NAMES = [config.name for config in SETS]
BOTH = [(method, name) for method in ("ngame", "dexml") for name in NAMES]
STUB = (
    '#!/usr/bin/env bash\nprintf "%s\\n" "$@" > "$(mktemp "$RECORDS/$(date +%s%N)XXXX")"\n[ "$1" != "${FAILS:-}" ]\n'
)

Commands = list[list[str]]


def load_runner() -> Any:
    spec = spec_from_file_location("recipes_run", RECIPES / "run.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


RUNNER = load_runner()
TABLE = RUNNER.load()


def expand(method: str, name: str, **options: Any) -> Commands:
    """The arguments of each `hf-xmc` that a recipe starts where nothing is there yet."""
    return [command[1:] for command, _ in RUNNER.expand(method, name, encoder="an/encoder", **options)]


def run(method: str, name: str, folder: Path, *options: str, fails: str = "") -> tuple[int, Commands, str]:
    """Run a recipe with a stub in place of `hf-xmc`: exit code, commands started, what was printed."""
    stub, records = folder / "bin/hf-xmc", folder / "records"
    for path in (stub.parent, records):
        path.mkdir(exist_ok=True)
    stub.write_text(STUB)
    stub.chmod(0o755)
    done = subprocess.run(
        [sys.executable, RECIPES / "run.py", method, name, *options],
        cwd=folder,
        env={**os.environ, "PATH": f"{stub.parent}:{os.environ['PATH']}", "RECORDS": str(records), "FAILS": fails},
        capture_output=True,
        text=True,
    )
    started = [record.read_text().splitlines() for record in sorted(records.iterdir())]
    return done.returncode, started, done.stdout + done.stderr


@pytest.fixture(params=BOTH, ids="-".join)
def recipe(request: pytest.FixtureRequest) -> tuple[str, str]:
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


def gpus(method: str, name: str) -> int:
    return int(TABLE[method][name].get("gpus", 0))


def row(name: str) -> list[str]:
    """The cells of a set in the table of the README: NGAME, batch, clusters, needs, DEXML, batch, needs."""
    readme = (RECIPES / "README.md").read_text(encoding="utf-8")
    (line,) = [line for line in readme.splitlines() if line.startswith(f"| {name} |")]
    return [cell.strip() for cell in line.strip("|").split("|")][1:]


def test_every_set_has_both_recipes() -> None:
    assert set(TABLE) == {"kinds", "ngame", "dexml", "rae_xmc"}
    assert set(TABLE["ngame"]) == set(TABLE["dexml"]) == set(NAMES)


def test_each_says_where_settings_come_from(recipe: tuple[str, str]) -> None:
    """The source or "ours", whether it was run, and the same in the README."""
    method, name = recipe
    entry = TABLE[method][name]
    repository = "Extreme-classification/ngame" if method == "ngame" else "nilesh2797/DEXML"
    ours = entry["source"].startswith("ours")
    assert ours or repository in entry["source"]
    for other in re.findall(r"those of ([\w-]+[\w])", entry["source"]):
        assert other in TABLE[method], "a set that settings are borrowed from"
        assert not TABLE[method][other]["source"].startswith("ours")
    text = RUNNER.describe(method, name)
    assert entry["source"] in text
    assert ("has not been run" in text) == (entry.get("run") != "true")
    assert not (gpus(method, name) and entry.get("run")), "no recipe for a GPU was run"
    cells = row(name)
    said = cells[0] if method == "ngame" else cells[4]
    assert said == ("ours" if ours else "paper") + (", run" if entry.get("run") else "")
    needs = cells[3] if method == "ngame" else cells[6]
    assert needs.split(";")[0] == {0: "2 cores", 1: "1 GPU", 4: "4 GPUs"}[gpus(method, name)]
    card = RECIPES.parents[1] / "model_cards" / f"{method}_{name}.md"
    assert card.is_file() == (entry.get("run") == "true")


def test_prepared_with_the_constants_of_the_set(recipe: tuple[str, str]) -> None:
    first, *others = expand(*recipe)
    given = options(first)
    assert first[0] == "prepare"
    assert given["builder"] == recipe[1]
    prepared = str(given["output_dir"])
    assert [value(argv, "--dataset") for argv in others] == [prepared] * len(others)
    other_method = "ngame" if recipe[0] == "dexml" else "dexml"
    other = expand(other_method, recipe[1])[0]
    if recipe[1] == "LF-Wikipedia-500K":
        assert value(other, "--output_dir") != prepared, "DEXML reads other texts"
    else:
        assert first == other, "prepared once for both"


def test_lf_wikipedia_is_prepared_as_the_notebook_of_dexml_does(tmp_path: Path) -> None:
    """Title twice, lower case, letters, digits and full stops: their `preprocess`, written out here."""

    def preprocess(text: str) -> str:
        return " ".join([x for x in re.split(r"[^a-zA-Z0-9.]", text.lower()) if len(x) > 0])

    raw = tmp_path / "raw"
    raw.mkdir()
    titles = ["Anarchism (politics)", "Zürich -- Stadt", "C++, v2.0"]
    for split, first in (("trn", 0), ("tst", 1)):
        rows = [
            {"uid": f"{split}{i}", "title": title, "content": f"{title}'s history:\tA_B, 1.5 km²", "target_ind": [i]}
            for i, title in enumerate(titles)
            if i >= first
        ]
        (raw / f"{split}.json").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    labels = [{"uid": f"l{i}", "title": f"Label: {title}"} for i, title in enumerate(titles)]
    (raw / "lbl.json").write_text("".join(json.dumps(row) + "\n" for row in labels), encoding="utf-8")
    prepare = expand("dexml", "LF-Wikipedia-500K", data=str(raw), dataset=str(tmp_path / "data"))[0]
    assert CliRunner().invoke(app, prepare).exit_code == 0
    data = load_xmc_dataset(tmp_path / "data")
    seen = {
        uid: text
        for queries in data.queries.values()
        for uid, text in zip(queries["uid"], queries["text"], strict=True)
    }
    expected = {
        f"trn{i}": preprocess(f"{title} {title} {title}'s history:\tA_B, 1.5 km²") for i, title in enumerate(titles)
    }
    assert {uid: text for uid, text in seen.items() if uid.startswith("trn")} == expected
    assert seen["tst2"] == "c v2.0 c v2.0 c v2.0 s history a b 1.5 km"
    assert data.labels["text"][:] == [preprocess(f"Label: {title}") for title in titles]


def test_trainings_parse_and_follow_each_other(recipe: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    method, name = recipe
    commands = expand(*recipe)
    stages = [trained(argv, monkeypatch) for argv in commands if argv[0] == "train"]
    assert len(stages) == (2 if method == "ngame" else 1)
    source = "an/encoder"
    sizes = []
    for model, args, processes in stages:
        assert model.model_name_or_path == source
        source = args.output_dir or ""
        sizes.append(args.per_device_train_batch_size * processes)
        assert args.resume_from_checkpoint == "auto"
        assert args.save_strategy != "no"
    said = row(name)[1 if method == "ngame" else 5]
    assert [int(size.replace(",", "")) for size in said.split(";")] == sizes
    assert options(commands[-1])["run"] == source
    if method == "ngame":
        check_ngame(name, commands, *stages)
    else:
        check_dexml(name, commands, *stages)


def check_ngame(name: str, commands: Commands, first: Any, second: Any) -> None:
    """Three stages: encoder on clustered batches, classifier, fusion."""
    assert [argv[0] for argv in commands] == ["prepare", "train", "train", "fuse", "evaluate"]
    _, _, _, fuse, evaluate = commands
    (_, one, _), (model, two, _) = first, second
    clusters = row(name)[2]
    assert (one.train_sampling_strategy, one.label_strategy) == ("clustered", "in_batch")
    assert one.freeze_encoder == (gpus("ngame", name) == 0)
    if one.freeze_encoder:  # those of the small sets, whose settings are ours
        assert (one.loss, one.num_positives) == ("decoupled_softmax", None)
        assert clusters == str(one.cluster_size)
    else:
        assert (one.loss, one.num_positives) == ("triplet_margin", 1)
        assert one.cluster_growth_epochs == sorted(set(one.cluster_growth_epochs))
        assert one.cluster_start_epoch <= one.cluster_growth_epochs[0]
        assert one.cluster_growth_epochs[-1] < one.num_train_epochs
        largest = one.cluster_size * 2 ** len(one.cluster_growth_epochs)
        assert largest <= one.per_device_train_batch_size
        assert clusters == f"2 to {largest}"
    assert model.label_head == "classifier"
    assert (two.freeze_encoder, two.label_head_loss_weight) == (True, 1), "the classifier alone"
    assert two.label_strategy in ("mined", "mixed") or two.train_sampling_strategy == "clustered"
    assert two.num_hard_negatives <= two.mining_depth
    assert Path(options(fuse)["run"]) == Path(two.output_dir or "")
    assert options(evaluate)["against"] == one.output_dir
    assert options(evaluate)["split"] == "test"


def check_dexml(name: str, commands: Commands, stage: Any) -> None:
    """One stage over all labels."""
    assert [argv[0] for argv in commands] == ["prepare", "train", "evaluate"]
    _, train, evaluate = commands
    _, args, processes = stage
    assert (args.label_strategy, args.loss) == ("all", "decoupled_softmax")
    assert args.train_sampling_strategy == "random"
    assert args.metric_for_best_model == "nDCG@5"
    assert processes == 1 or value(train, "--accelerate_config") == "multi_gpu"
    assert processes == max(1, gpus("dexml", name))
    assert options(evaluate)["split"] == "test"


@pytest.mark.parametrize("name", TABLE["rae_xmc"])
def test_rae_xmc_trains_with_queries_as_keys_and_then_fits_the_memory(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands = expand("rae_xmc", name)
    assert [argv[0] for argv in commands] == ["prepare", "train", "calibrate", "evaluate"]
    prepare, train, calibrate, evaluate = commands
    assert prepare == expand("dexml", name)[0]
    model, args, _ = trained(train, monkeypatch)
    assert (args.query_keys, args.label_strategy, args.num_positives) == (True, "mixed", 1)
    assert args.freeze_encoder == (gpus("rae_xmc", name) == 0)
    assert model.model_settings()["temperature"] == 0.04
    assert options(calibrate)["channels"] == "memory"
    assert Path(options(calibrate)["run"]) == Path(options(evaluate)["run"]) == Path(args.output_dir or "")
    assert "has not been run" in RUNNER.describe("rae_xmc", name)


# Of the published settings, those that differ in more than sizes: set, a loss in place of the recipe's, stages.
PUBLISHED = [
    ("dexml", "LF-AmazonTitles-131K", None, 1),
    ("dexml", "LF-AmazonTitles-131K", "soft_top_k", 1),
    ("dexml", "LF-Wikipedia-500K", "softmax", 1),
    ("ngame", "LF-AmazonTitles-131K", None, 2),
    ("ngame", "LF-WikiSeeAlso-320K", None, 2),
    ("rae_xmc", "LF-AmazonTitles-131K", None, 1),
]
SMALL = {
    **{"per_device_train_batch_size": 8, "num_train_epochs": 1, "max_steps": 2, "use_cpu": True, "report_to": []},
    **{"eval_strategy": "no", "save_strategy": "no", "load_best_model_at_end": False, "disable_tqdm": True},
    **{"cluster_start_epoch": 0, "cluster_growth_epochs": [], "mining_factory": "flat", "bf16": False},
}


@pytest.mark.parametrize(("method", "name", "loss", "stages"), PUBLISHED)
def test_published_settings_train_on_made_data(
    method: str,
    name: str,
    loss: str | None,
    stages: int,
    tiny_encoder: str,
    toy: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A trio of queries and label texts, as those sets are: each stage trains with its flags, only smaller."""
    commands = expand(method, name, **({} if loss is None else {"loss": loss}))
    source, found = tiny_encoder, []
    for argv in commands:
        if argv[0] != "train":
            continue
        script, args, _ = trained(argv, monkeypatch)
        for key, small in SMALL.items():
            setattr(args, key, small)
        settings = script.model_settings()
        tagger = train_tagger(str(toy), source, tmp_path / str(len(found)), args, **settings)
        assert tagger is not None
        source = str(tmp_path / str(len(found)))
        found.append((args.loss, args.num_positives))
    assert len(found) == stages
    expected = {
        None: [("triplet_margin", 1), ("triplet_hardest" if "Titles" in name else "prob_contrastive", None)],
        "soft_top_k": [("soft_top_k", 5)],
        "softmax": [("softmax", 1)],
    }
    assert found == ([("decoupled_softmax", 1)] if method in ("dexml", "rae_xmc") and loss is None else expected[loss])


def test_every_published_setting_is_in_the_documentation() -> None:
    table = (RECIPES.parents[1] / "docs/experiments.md").read_text(encoding="utf-8").split("### Published")[1]
    for method, repository in (("dexml", "DEXML"), ("ngame", "ngame")):
        for name in NAMES:
            if TABLE[method][name]["source"].startswith("github"):
                assert re.search(r"\b[0-9a-f]{7}\b", TABLE[method][name]["source"]), "a commit"
                assert method == "ngame" or f"{name}" in table
        assert f"| {repository} " in table


def test_the_hard_negatives_of_dexml_train_by_the_flags_of_the_documentation(
    tiny_encoder: str, toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one published kind of DEXML that no recipe has."""
    text = (RECIPES.parents[1] / "docs/experiments.md").read_text(encoding="utf-8")
    (flags,) = re.findall(r"\| DEXML `dist-de-hnm_decoupled-softmax`[^|]*\| `(--config [^`]*)`", text)
    where = ["--dataset", str(toy), "--model_name_or_path", tiny_encoder, "--output_dir", str(tmp_path)]
    monkeypatch.chdir(RECIPES.parents[1])
    script, args, _ = trained(["train", *flags.split(), *where], monkeypatch)
    assert (args.label_strategy, args.num_positives, args.num_hard_negatives) == ("mixed", 1, 1)
    assert (args.mining_start_epoch, args.mining_refresh_epochs, args.mining_depth) == (6, 5, 100)
    for key, small in {**SMALL, "mining_start_epoch": 1, "max_steps": -1, "num_train_epochs": 2}.items():
        setattr(args, key, small)
    tagger = train_tagger(str(toy), tiny_encoder, tmp_path, args, **script.model_settings())
    assert tagger is not None


def test_options_reach_the_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    prepare, train, evaluate = expand(
        "dexml", "bible_xref", data="raw set", dataset="tables", output_dir="a run", loss="soft_top_k"
    )
    assert prepare[1] == "raw set"
    script_args, args, _ = trained(train, monkeypatch)
    assert (script_args.dataset, args.output_dir, args.loss) == ("tables", "a run", "soft_top_k")
    assert options(evaluate)["output_dir"] == Path("a run/evaluation")
    _, train, _ = expand("dexml", "EURLEX57K", gpus=2, learning_rate="7e-4")
    _, args, processes = trained(train, monkeypatch)
    assert (args.learning_rate, processes) == (7e-4, 2)


def test_values_are_passed_on_as_they_are_written() -> None:
    _, train, _ = expand("dexml", "LF-AmazonTitles-1.3M")
    assert value(train, "--learning_rate") == "1.2e-3"
    assert value(train, "--normalize") == "false"


@pytest.mark.parametrize("method", ["ngame", "dexml"])
def test_what_is_done_is_not_done_again(method: str, tmp_path: Path) -> None:
    code, first, _ = run(method, "bible_xref", tmp_path)
    assert code == 0
    assert [argv for argv, _ in RUNNER.expand(method, "bible_xref")] == [["hf-xmc", *argv] for argv in first]
    for argv in first:
        if argv[0] in ("prepare", "train"):
            done = tmp_path / value(argv, "--output_dir")
            done.mkdir(parents=True, exist_ok=True)
            (done / ("dataset.json" if argv[0] == "prepare" else "run.json")).touch()
    code, both, printed = run(method, "bible_xref", tmp_path)
    assert both[len(first) :] == [argv for argv in first if argv[0] not in ("prepare", "train")]
    assert printed.count("skipping") == len(first) - len(both[len(first) :])


def test_a_stage_that_fails_ends_the_recipe(tmp_path: Path) -> None:
    code, started, _ = run("ngame", "EURLex-4K", tmp_path, fails="train")
    assert code == 1
    assert [argv[0] for argv in started] == ["prepare", "train"]


def test_show_prints_what_would_run(tmp_path: Path) -> None:
    code, started, printed = run("ngame", "EURLex-4K", tmp_path, "--show")
    assert (code, started) == (0, [])
    said, *lines = printed.splitlines()
    assert "has not been run" in said
    assert [line.split()[:2] for line in lines] == [
        ["hf-xmc", command] for command in ("prepare", "train", "train", "fuse", "evaluate")
    ]


def test_mistakes_are_one_line(tmp_path: Path) -> None:
    code, started, printed = run("dexml", "EURLex-5K", tmp_path)
    assert code == 1
    assert not started
    assert "EURLex-4K" in printed
    assert "Traceback" not in printed
    code, _, printed = run("ngame", "EURLex-4K", tmp_path, "--loss", "softmax")
    assert code == 2
    assert "for dexml" in printed


def test_links_of_the_readme_lead_somewhere() -> None:
    text = (RECIPES / "README.md").read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([\w/.]+)\)", text):
        assert (RECIPES / link).exists(), link
