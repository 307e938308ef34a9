"""`fit_tagger` and `hf-xmc fit` from a table to a folder."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path

import pytest
from typer.testing import CliRunner

from hf_xmc import XMCPipeline
from hf_xmc.cli.main import app
from hf_xmc.errors import DataError, ModelFolderError
from hf_xmc.fit.fit import Fitted, fit_tagger
from hf_xmc.fit.machine import Machine
from hf_xmc.fit.plan import Plan
from hf_xmc.fit.survey import Survey
from hf_xmc.fit.watcher import Silent
from hf_xmc.inference.evaluation.evaluate import evaluate
from hf_xmc.inference.fitting.passages import LEAST_GAIN
from tests.conftest import write_lines
from tests.fit.conftest import COLOURS, THINGS, rows, write_table

SMALL = {"static_dim": 16, "static_buckets": 2**12, "batch_size": 64, "epochs": 4}
# These say how long the run took.
TIMES = ("fit.json", "fit.html", "run.json", "README.md", "metrics.json", "manifest.json", "index/index.json")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Fitted]:
    """A table, the folder of the tagger that was fitted on it, and what `fit_tagger` returned."""
    folder = tmp_path_factory.mktemp("made")
    table = write_table(folder / "things.csv", 600)
    return table, folder / "tagger", fit_tagger(table, folder / "tagger", "fast", test=0.2, config=SMALL)


def contents(folder: Path) -> dict[str, str]:
    """A hash of each file of a tagger that does not say how long the run took."""
    return {
        path.relative_to(folder).as_posix(): sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        and not (name := path.relative_to(folder).as_posix()).startswith("fit/")
        and name not in TIMES
    }


class Killed(BaseException):
    """Stands for a kill: nothing in the package catches it."""


class KillAt(Silent):
    """Kills the run at the n-th thing that it is told."""

    def __init__(self, number: int) -> None:
        self.left = number

    def count(self) -> None:
        self.left -= 1
        if self.left == 0:
            raise Killed

    def begin(self, stage: str) -> None:
        self.count()

    def advance(self, share: float) -> None:
        self.count()

    def end(self, stage: str, seconds: float) -> None:
        self.count()


def test_a_table_becomes_a_tagger(made: tuple[Path, Path, Fitted]) -> None:
    _, folder, fitted = made
    assert fitted.metrics["P@1"] > 0.9
    assert fitted.figures["queries"]["test"] > 50
    found = XMCPipeline.from_pretrained(folder)("an old blue boat", k=2)
    assert {tag["label"] for tag in found} == {"blue", "boat"}
    assert all(0 <= tag["probability"] <= 1 for tag in found)
    page = (folder / "fit.html").read_text()
    assert "popularity" in page
    assert "this tagger" in page
    assert (folder / "README.md").is_file()


def test_a_run_that_was_killed_goes_on_and_ends_with_the_same_folder(
    made: tuple[Path, Path, Fitted], tmp_path: Path
) -> None:
    table, whole, _ = made
    expected = contents(whole)
    assert "model.safetensors" in expected
    for number in (1, 20, 12, 2):  # before training, twice in it, after it
        with pytest.raises(Killed):
            fit_tagger(table, tmp_path / "killed", "fast", test=0.2, config=SMALL, watcher=KillAt(number))
    fit_tagger(table, tmp_path / "killed", "fast", test=0.2, config=SMALL)
    assert contents(tmp_path / "killed") == expected


def test_a_complete_run_is_not_repeated_and_another_one_is_refused(made: tuple[Path, Path, Fitted]) -> None:
    table, folder, first = made
    model = (folder / "model.safetensors").stat().st_mtime_ns
    again = fit_tagger(table, folder, "fast", test=0.2, config=SMALL)
    assert again.metrics == first.metrics
    assert (folder / "model.safetensors").stat().st_mtime_ns == model
    with pytest.raises(ModelFolderError, match="another settings"):
        fit_tagger(table, folder, "fast", test=0.2, seed=7, config=SMALL)


def test_a_folder_of_another_command_is_left_alone(table: Path, tmp_path: Path) -> None:
    (tmp_path / "trained").mkdir()
    (tmp_path / "trained" / "config.json").write_text("{}")
    with pytest.raises(ModelFolderError, match="did not make"):
        fit_tagger(table, tmp_path / "trained", "fast", config=SMALL)
    assert [path.name for path in (tmp_path / "trained").iterdir()] == ["config.json"]


def test_going_on_from_an_earlier_tagger_keeps_its_labels(made: tuple[Path, Path, Fitted], tmp_path: Path) -> None:
    _, first, _ = made
    week = tmp_path / "week.csv"
    week.write_text("text,labels\n" + "".join(f"a shiny orange kite {i},orange;kite\n" for i in range(40)))
    later = fit_tagger(week, tmp_path / "second", "fast", config=SMALL, from_tagger=first)
    names = later.tagger.index.labels["text"][:]
    assert names[:16] == XMCPipeline.from_pretrained(first).index.labels["text"][:]
    assert {"orange", "kite"} == set(names[16:])
    assert {tag["label"] for tag in later.tagger("an orange kite", k=2)} == {"orange", "kite"}
    assert {tag["label"] for tag in later.tagger("a heavy black stone", k=2)} == {"black", "stone"}


def test_a_test_file(table: Path, tmp_path: Path) -> None:
    test = write_table(tmp_path / "more.csv", 50, seed=5)
    fitted = fit_tagger(table, tmp_path / "tagger", "fast", test=test, config={**SMALL, "epochs": 1})
    assert fitted.figures["queries"]["test"] == 50
    with pytest.raises(DataError, match="no test file"):
        fit_tagger(table, tmp_path / "other", "fast", test=tmp_path / "missing.csv", config=SMALL)


def test_too_few_texts_to_calibrate_still_make_a_tagger(tmp_path: Path) -> None:
    table = write_table(tmp_path / "few.csv", 60)
    fitted = fit_tagger(table, tmp_path / "tagger", "fast", config=SMALL)
    assert "too few texts to calibrate" in fitted.figures["confidence"]
    assert "probability" not in fitted.tagger("an old blue boat")[0]


def test_the_help_page_has_eight_options() -> None:
    shown = CliRunner().invoke(app, ["fit", "--help"], env={"COLUMNS": "100"}).output
    options = {word for word in shown.split() if word.startswith("--") and word != "--help"}
    expected = {"--output_dir", "--minutes", "--memory", "--preset", "--encoder", "--test", "--seed", "--from"}
    assert options - {"--config"} == expected


def test_the_command_line_fits_two_screens(table: Path, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(json.dumps({**SMALL, "epochs": 1}))
    arguments = [
        "fit",
        str(table),
        "--output_dir",
        str(tmp_path / "tagger"),
        "--preset",
        "fast",
        "--config",
        str(config),
    ]
    found = CliRunner().invoke(app, arguments, env={"COLUMNS": "80"}, catch_exceptions=False)
    assert found.exit_code == 0
    assert len(found.output.splitlines()) <= 60
    assert "hf-xmc predict" in found.output


def test_synonyms_of_labels_are_used_where_they_help(tmp_path: Path) -> None:
    """Labels whose names say nothing, and whose synonyms are the words of the texts."""
    names = {word: f"code {number}" for number, word in enumerate((*COLOURS, *THINGS))}
    for split, count in (("trn", 300), ("val", 200)):
        found = [
            {"uid": f"{split}{n}", "text": text, "labels": [names[one] for one in labels.split(";")]}
            for n, (text, labels) in enumerate(rows(count, seed=count))
        ]
        write_lines(tmp_path / f"{split}.jsonl", found)
    given = [{"uid": name, "text": name, "texts": [word]} for word, name in names.items()]
    write_lines(tmp_path / "lbl.jsonl", given)
    settings = {**SMALL, "epochs": 1, "label_vectors": False}
    fitted = fit_tagger(tmp_path, tmp_path / "tagger", "fast", config=settings)
    index = XMCPipeline.from_pretrained(tmp_path / "tagger").index
    assert index.pooling is not None
    assert index.pooling.weights["synonym"] > 0
    assert fitted.tagger.index.labels["kinds"][0] == ["synonym"]
    assert fitted.figures["label_texts"]["kept"]
    assert "Labels are searched by the" in (tmp_path / "tagger" / "fit.html").read_text(encoding="utf-8")


def test_long_texts_are_read_in_passages_where_that_helps(tiny_encoder: str, tmp_path: Path) -> None:
    """Every other text begins with more words than the encoder reads, which say nothing."""
    table = tmp_path / "long.csv"
    labels = [labels for _, labels in rows(300, seed=1)]  # the tokens of a colour and a thing, one each
    texts = [f"{'x y z. ' * 10 * (number % 2)}a {its.replace(';', ' ')}." for number, its in enumerate(labels)]
    lines = [f"{text},{its}" for text, its in zip(texts, labels, strict=True)]
    table.write_text("\n".join(["text,labels", *lines]), encoding="utf-8")
    told = Told()
    config = {"encoder": tiny_encoder, "max_query_length": 24, "static_dim": 0, "batch_size": 64, "epochs": 4}
    fitted = fit_tagger(table, tmp_path / "tagger", test=0.2, config={**config, "channels": []}, watcher=told)
    tried = fitted.figures["passages"]
    assert 0.4 < tried["long"] < 0.6
    assert tried["kept"] == (tried["with"]["total"] >= tried["without"]["total"] + LEAST_GAIN)
    assert tried["kept"]
    assert "Passages are kept" in " ".join(told.notes)
    assert "also read in passages" in " ".join(told.plan.notes)
    assert any(stage["name"] == "passages" for stage in fitted.figures["stages"])
    loaded = XMCPipeline.from_pretrained(tmp_path / "tagger")
    assert loaded.passages is not None
    assert loaded.confidence_for() is not None
    vectors = fitted.figures["systems"]["test"]
    assert vectors["label vectors"]["P@1"][0] > vectors["label vectors, beginning of texts"]["P@1"][0]
    assert "Long texts" in (tmp_path / "tagger" / "fit.html").read_text(encoding="utf-8")
    evaluated = evaluate(tmp_path / "tagger", tmp_path / "tagger" / "fit" / "data", output_dir=tmp_path / "out")
    assert evaluated.metrics["P@1"] == pytest.approx(fitted.metrics["P@1"])
    assert "<small>characters" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


class Told(Silent):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def planned(self, survey: Survey, machine: Machine, plan: Plan) -> None:
        self.plan = plan

    def note(self, text: str) -> None:
        self.notes.append(text)
