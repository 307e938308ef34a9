"""`hf-xmc evaluate` on files of predictions, and of one system against another."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from hf_xmc import TopK, XMCDualEncoderModel, XMCPipeline, evaluate, load_xmc_dataset
from hf_xmc.cli.main import app
from hf_xmc.errors import ModelFolderError
from hf_xmc.inference.evaluation.predictions import write_predictions
from hf_xmc.metrics import inverse_propensity, ranking_metrics


def invoke(*args: str | Path, code: int = 0) -> str:
    result = CliRunner().invoke(app, ["evaluate", *map(str, args)], catch_exceptions=code != 0)
    assert result.exit_code == code, result.output
    return result.output


@pytest.fixture
def files(toy: Path, tmp_path: Path) -> tuple[Path, Path]:
    """Predictions of a system that knows half of the truth, and of one that guesses."""
    data = load_xmc_dataset(toy)
    rows, truth, rng = data.queries["test"]["uid"][:], data.positives("test"), np.random.default_rng(0)
    guesses = np.stack([rng.permutation(data.num_labels)[:6] for _ in rows])
    knows = guesses.copy()
    for i in range(0, len(rows), 2):
        known = truth.row(i)[:1]
        knows[i, : len(known)] = known
    scores = np.broadcast_to(-np.arange(6.0), guesses.shape)
    return tuple(  # type: ignore[return-value]
        write_predictions(TopK(ids, scores), rows, tmp_path / name)
        for name, ids in (("knows.parquet", knows), ("guesses.parquet", guesses))
    )


def test_a_file_of_predictions_needs_no_model(toy: Path, files: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    output = invoke("--from_predictions", files[0], "--dataset", toy, "--output_dir", out, "--no_baselines")
    assert "report.html" in output
    data = load_xmc_dataset(toy)
    table = pq.read_table(out / "predictions.parquet")
    assert table.column_names == ["uid", "ids", "scores"]
    ids = np.array(table["ids"].to_pylist())
    q = inverse_propensity(data.train_label_counts, data.num_train_queries, **data.propensity)
    topk = TopK(ids, np.array(table["scores"].to_pylist()))
    expected = ranking_metrics(topk, data.positives("test"), (1, 3, 5), q)
    document = json.loads((out / "metrics.json").read_text())
    assert document["metrics"] == pytest.approx(expected)
    assert document["settings"]["num_true_pairs"] == len(data.positives("test").indices)
    assert "<title>knows.parquet on" in (out / "report.html").read_text()
    details = json.loads((out / "details.json").read_text())
    low, value, high = (details["intervals"]["P@1"][key] for key in ("low", "value", "high"))
    assert low < value == expected["P@1"] < high
    assert details["comparison"] == {}


def test_one_file_against_another(toy: Path, files: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    output = invoke(files[0], "--against", files[1], "--dataset", toy, "--output_dir", out, "--no_baselines")
    assert "minus" in output
    row = json.loads((out / "details.json").read_text())["comparison"]["P@1"]
    assert row["difference"] == pytest.approx(row["b"] - row["a"])
    assert row["low"] > 0
    assert row["p_value"] < 0.01
    assert "Against guesses.parquet" in (out / "report.html").read_text()
    again = tmp_path / "again"  # a folder that evaluate wrote stands for the predictions in it
    invoke(out, "--against", files[0], "--dataset", toy, "--output_dir", again, "--no_baselines")
    row = json.loads((again / "details.json").read_text())["comparison"]["P@1"]
    assert (row["difference"], row["p_value"]) == (pytest.approx(0), 1)


def test_a_hierarchy_adds_its_scores(toy: Path, files: tuple[Path, Path], tmp_path: Path) -> None:
    uids = load_xmc_dataset(toy).labels["uid"][:]
    pairs, out = tmp_path / "hierarchy.tsv", tmp_path / "out"
    pairs.write_text("child\tparent\n" + "".join(f"{uid}\tgroup {i % 3}\n" for i, uid in enumerate(uids)))
    with pairs.open("a") as file:
        file.writelines(f"group {i}\troot\n" for i in range(3))
    options = ("--dataset", toy, "--output_dir", out, "--no_baselines", "--hierarchy", pairs)
    invoke(files[0], *options)
    document = json.loads((out / "metrics.json").read_text())
    metrics = document["metrics"]
    assert metrics["P@1"] < metrics["h_micro_precision@1"] < 1  # a wrong label may share a group with a true one
    assert document["settings"]["num_roots_left_out"] == 1
    assert "h_micro_f1" in (out / "report.html").read_text()
    pairs.write_text("child\tparent\nnobody\tgroup\n")
    invoke(files[0], *options, code=1)


def test_what_evaluate_cannot_do_is_said(toy: Path, files: tuple[Path, Path], tmp_path: Path) -> None:
    assert "--dataset" in invoke(files[0], code=2)
    assert "RUN" in invoke("--dataset", toy, code=2)
    assert "RUN" in invoke(files[0], "--from_predictions", files[0], "--dataset", toy, code=2)
    invoke(tmp_path / "no.parquet", "--dataset", toy, code=1)


def test_a_file_that_is_too_shallow_is_said(
    toy: Path, files: tuple[Path, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    invoke(files[0], "--dataset", toy, "--output_dir", tmp_path / "out", "--no_baselines", "--k", "11")
    settings = json.loads((tmp_path / "out" / "metrics.json").read_text())["settings"]
    assert settings["fewer_predictions_than_needed"] is True
    assert "fewer than k = 11" in caplog.text


def test_labels_are_told_apart_by_uid_and_those_of_another_set_refused(
    tiny_encoder: str, toy: Path, tmp_path: Path
) -> None:
    labels = load_xmc_dataset(toy).labels
    model = XMCDualEncoderModel.from_encoder(tiny_encoder)
    backwards = labels.select(range(len(labels) - 1, -1, -1))
    XMCPipeline.build(model, backwards).save_pretrained(tmp_path / "run")
    one = evaluate(tmp_path / "run", toy, output_dir=tmp_path / "one", baselines=False)
    same = evaluate(XMCPipeline.build(model, labels), toy, output_dir=tmp_path / "same", baselines=False)
    assert one.metrics["nDCG@5"] == pytest.approx(same.metrics["nDCG@5"], abs=1e-6)
    XMCPipeline.build(model, backwards.select(range(5))).save_pretrained(tmp_path / "run")
    invoke(tmp_path / "run", "--dataset", toy, code=1)


def test_both_systems_are_found_before_anything_is_encoded(
    tiny_encoder: str, toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tagger = XMCPipeline.build(XMCDualEncoderModel.from_encoder(tiny_encoder), load_xmc_dataset(toy).labels)
    monkeypatch.setattr(tagger.model, "encode_queries", lambda *_, **__: pytest.fail("it encoded first"))
    with pytest.raises(ModelFolderError, match="no such folder"):
        evaluate(tagger, toy, output_dir=tmp_path / "out", against=tmp_path / "nowhere")
