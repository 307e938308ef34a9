"""What a person at a terminal reads: mistyped names, notices of libraries, tables that fit, labels by their text."""

from __future__ import annotations

import logging
import os
import shutil
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from transformers.utils import logging as notices
from typer.testing import CliRunner

from hf_xmc import LabelIndex, XMCDualEncoderModel, XMCPipeline, XMCTrainingArguments, load_xmc_dataset
from hf_xmc.cli import tables
from hf_xmc.cli.main import app, main
from hf_xmc.cli.quiet import quiet_libraries
from hf_xmc.errors import SettingsError
from hf_xmc.metrics import inverse_propensity
from hf_xmc.training.callbacks import LogLines, QueryProgressCallback

LONG = "the automation of libraries, archives and museums in small towns and in the countryside " * 2


@pytest.fixture(scope="module")
def folder(tiny_encoder: str, toy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    labels = load_xmc_dataset(toy).labels
    model = XMCDualEncoderModel.from_encoder(tiny_encoder)
    folder = tmp_path_factory.mktemp("runs") / "run"
    tagger = XMCPipeline(model, LabelIndex.build(model.encode_labels(labels["text"][:]), labels))
    tagger.save_pretrained(folder)
    return folder


def invoke(*args: str | Path) -> str:
    result = CliRunner().invoke(app, [str(arg) for arg in args], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def error_of(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *args: str | Path) -> str:
    monkeypatch.setattr(sys, "argv", ["hf-xmc", *map(str, args)])
    with pytest.raises(SystemExit):
        main()
    error = capsys.readouterr().err
    assert error.count("\n") == 1, error
    return error


def test_mistyped_names(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    mistyped = folder.with_name("runn")
    for args in (("predict", mistyped, "--text", "x"), ("labels", mistyped, "--list"), ("push", mistyped, "a/b")):
        error = error_of(capsys, monkeypatch, *args)
        assert f"{mistyped}: no such folder; did you mean {folder}?" in error
    assert "did you mean --model_name_or_path?" in error_of(capsys, monkeypatch, "train", "--model", "x")
    unknown = error_of(capsys, monkeypatch, "train", "--dataset", "d", "--model_name_or_path", "x", "--sede", "3")
    assert unknown == "Error there is no option --sede; did you mean --seed?\n"
    assert "--dataset" in error_of(capsys, monkeypatch, "train")


def test_a_threshold_is_checked_before_the_model_is_loaded(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(XMCPipeline, "from_pretrained", lambda *_, **__: pytest.fail("the model was loaded"))
    (tmp_path / "in.csv").write_text("a,b\nx y,z z\n")
    (tmp_path / "there.csv").write_text("")
    args = ("predict", folder, "--text", "x")
    assert "threshold is 'foo'" in error_of(capsys, monkeypatch, *args, "--threshold", "foo")
    assert "needs a calibrated folder; run hf-xmc calibrate" in error_of(
        capsys, monkeypatch, *args, "--threshold", "f1"
    )
    assert "needs a calibrated folder" in error_of(capsys, monkeypatch, *args, "--conformal", "0.9")
    files = ("predict", folder, "--input", tmp_path / "in.csv", "--output")
    assert "choose one or more with --text_column" in error_of(capsys, monkeypatch, *files, tmp_path / "out.csv")
    files = (*files, tmp_path / "there.csv", "--text_column", "a")
    assert "--overwrite" in error_of(capsys, monkeypatch, *files)
    assert "no column 'c'" in error_of(capsys, monkeypatch, *files[:-1], "c")


def test_the_encoding_that_an_error_names_is_an_option(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "cp.txt").write_bytes("blå himmel\n".encode("cp1252"))
    output = invoke("predict", folder, "--input", tmp_path / "cp.txt", "--output", tmp_path / "a.jsonl")
    assert "read as cp1252" in output
    assert "--encoding" in output
    args = ("--input", tmp_path / "cp.txt", "--output", tmp_path / "b.csv", "--encoding", "cp1252")
    assert "read as" not in invoke("predict", folder, *args)
    assert "blå himmel" in (tmp_path / "b.csv").read_text(encoding="utf-8")


def test_labels_are_listed_found_and_changed(folder: Path, tmp_path: Path) -> None:
    run = shutil.copytree(folder, tmp_path / "run")
    listed = invoke("labels", run, "--list").splitlines()
    assert len(listed) == 12
    assert "red\tthe red" in listed
    assert invoke("labels", run, "--search", "RÉD the").splitlines() == ["red\tthe red"]
    assert "No label contains 'mauve'" in invoke("labels", run, "--search", "mauve")
    added = invoke("labels", run, "--add", "Library automation", "--add", "Archives")
    assert "2 added; 14 in" in " ".join(added.split())
    assert "12\tLibrary automation\n" in added
    assert "1 removed" in invoke("labels", run, "--remove", "library AUTOMATION")
    result = CliRunner().invoke(app, ["labels", str(run), "--remove", "archivs"])
    assert "did you mean 'archives'" in str(result.exception)
    result = CliRunner().invoke(app, ["labels", str(run), "--add", "new_labels.csv"])
    assert "no such file" in str(result.exception)


def test_a_text_that_several_labels_have(folder: Path, tmp_path: Path) -> None:
    run = shutil.copytree(folder, tmp_path / "run")
    (tmp_path / "new.csv").write_text("uid,text\na,the red\n")
    invoke("labels", run, "--add", tmp_path / "new.csv")
    result = CliRunner().invoke(app, ["labels", str(run), "--remove", "the red"])
    assert "2 labels are called 'the red'; give one of their uids: red, a" in str(result.exception)


def test_one_string_is_no_list_of_labels(folder: Path) -> None:
    tagger = XMCPipeline.from_pretrained(folder)
    for change in (tagger.add_labels, tagger.remove_labels):
        with pytest.raises(SettingsError, match="expected a list"):
            change("a new label")
    assert len(tagger.index) == 12
    assert tagger("a red car", top_k=2) == tagger("a red car", k=2)


def test_libraries_are_quiet_while_a_command_runs(capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    for name in ("TRANSFORMERS_VERBOSITY", "HF_XMC_DEBUG"):
        monkeypatch.delenv(name, raising=False)
    logger = notices.get_logger("transformers.somewhere")
    handlers = logging.getLogger("transformers").handlers
    notice = logging.LogRecord("transformers.somewhere", logging.WARNING, "x.py", 1, "Updated tokens", None, None)
    own = logging.LogRecord("hf_xmc.somewhere", logging.WARNING, "x.py", 1, "to act on", None, None)
    with quiet_libraries():
        assert not any(handler.filter(notice) for handler in handlers)
        assert all(handler.filter(own) for handler in handlers)
        assert not notices.is_progress_bar_enabled()
        assert logger.getEffectiveLevel() <= logging.WARNING, "else TrainingArguments turns the progress bar off"
        with warnings.catch_warnings(record=True) as caught:
            warnings.warn_explicit("old", FutureWarning, "x.py", 1, module="transformers.models")
        assert not caught
    assert all(handler.filter(notice) for handler in handlers)
    assert notices.is_progress_bar_enabled()
    assert os.environ.get("HF_DATASETS_DISABLE_PROGRESS_BARS") is None


def test_logs_of_a_training_are_words(capsys: pytest.CaptureFixture[str]) -> None:
    state: Any = SimpleNamespace(is_world_process_zero=True, is_local_process_zero=True, epoch=1.0)
    nothing: Any = None
    logs = {"eval_P@1": 0.606, "eval_P@5": 0.3, "eval_loss": 2.0, "epoch": 1.0}
    LogLines().on_log(nothing, state, nothing, logs)
    LogLines().on_log(nothing, state, nothing, {"train_runtime": 3.0})
    assert capsys.readouterr().out == "Epoch 1.00: P@1 60.6 %, P@5 30.0 %\n"
    bar = QueryProgressCallback()
    bar.training_bar = SimpleNamespace(set_postfix_str=lambda text: print(text))
    bar.on_log(nothing, state, nothing, {"loss": 2.3456})
    bar.on_log(nothing, state, nothing, logs)
    assert capsys.readouterr().out.splitlines() == ["loss 2.35", "loss 2.35, P@1 60.6 %, P@5 30.0 %"]


def test_tables_fit_the_screen_and_cut_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    full = dict.fromkeys(tables.COLUMNS, 1.0)
    tables.print_metrics("a set", {"/home/someone/outputs/a_run_with_a_long_name": full, "tf-idf": full})
    tables.print_tags("a text", [{"label": LONG, "uid": f"http://example.org/{'x' * 60}", "score": 0.3}])
    tables.print_tags("a text", [{"label": "cars", "uid": "cars", "score": 0.3, "probability": 0.61}])
    row = {"name": "memory", "kept": True, "weight": 0.3, "seconds": 12.0, "bytes": 10**9}
    row |= {"with": full, "without": {name: 0.0 for name in full}}
    tables.print_channels([row], learned=False)
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    assert "".join(LONG.split()) in "".join(
        line.split("http")[0].split("x" * 4)[0].replace("0.300", "") for line in text.splitlines()
    ).replace(" ", "")
    assert text.count("cars") == 1, "a uid that is the label is not repeated"
    assert "61 %" in text


def test_a_baseline_that_is_better_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    model = {"P@1": 0.048, "nDCG@5": 0.05}
    tables.print_beaten("run", model, {"tf-idf": {"P@1": 0.286, "nDCG@5": 0.3}, "popularity": {"P@1": 0, "nDCG@5": 0}})
    text = " ".join(capsys.readouterr().out.split())
    assert "tf-idf is better than run (P@1 28.6 against 4.8, nDCG@5 30.0 against 5.0)" in text
    assert "popularity" not in text


@pytest.mark.parametrize(("metric", "greater"), [("nDCG@5", False), ("eval_nDCG@5", False), ("loss", True)])
def test_the_worst_checkpoint_is_not_kept_in_silence(
    metric: str, greater: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hf_xmc.training import arguments

    said: list[str] = []
    monkeypatch.setattr(arguments.logger, "warning", said.append)
    for given in (greater, not greater, None):
        arguments.XMCTrainingArguments(str(tmp_path), metric_for_best_model=metric, greater_is_better=given)
    assert len(said) == 1
    assert "the worst checkpoint is kept as the best" in said[0]


def test_the_best_metric_is_checked_before_training(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"metric_for_best_model is 'P@10'; expected one of P@1, .*--eval_k"):
        XMCTrainingArguments(str(tmp_path), metric_for_best_model="P@10")
    for name in ("eval_P@10", "toy_nDCG@5", "eval_loss"):
        XMCTrainingArguments(str(tmp_path), metric_for_best_model=name, eval_k=10)


def test_propensities_of_tiny_sets_are_not_negative() -> None:
    assert inverse_propensity(np.array([1, 0]), 1).tolist() == [1, 1]
    assert inverse_propensity(np.array([1, 1]), 2).tolist() == [1, 1]
