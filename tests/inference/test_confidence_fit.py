"""Fitting memory and confidence to a pipeline, what it writes, and what the evaluation shows of it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from hf_xmc import Positives, TopK, XMCPipeline, load_xmc_dataset
from hf_xmc.cli.main import app
from hf_xmc.data.dataset import XMCDataset
from hf_xmc.errors import DataError
from hf_xmc.inference.evaluation.confidence import coverage, measure_confidence
from hf_xmc.inference.evaluation.report import confidence_section
from hf_xmc.inference.fitting.confidence import Held, choose_depth, fit_confidence, halves, some
from hf_xmc.retrieval.channels.query_memory import MEMORY, MEMORY_FILES, QueryMemory
from hf_xmc.retrieval.confidence import ARRAYS, CONFIDENCE, CONFIDENCE_FILES, Confidence
from hf_xmc.retrieval.index import INDEX
from tests.conftest import COLOURS

FITTED = (*CONFIDENCE_FILES, *MEMORY_FILES)


@pytest.fixture
def folder(numbers_folder: Path) -> Path:
    return numbers_folder


@pytest.fixture
def data(numbers_data: XMCDataset) -> XMCDataset:
    return numbers_data


@pytest.fixture
def pipeline(numbers_pipeline: XMCPipeline) -> XMCPipeline:
    return numbers_pipeline


def test_the_memory_knows_what_the_texts_of_labels_do_not_say(pipeline: XMCPipeline, data: XMCDataset) -> None:
    fitted = fit_confidence(pipeline, data, level=0.8)
    summary = fitted.summary
    assert (summary["tuned_on"], summary["calibrated_on"]) == (60, 60)
    assert summary["metrics"]["with"]["P@1"] > summary["metrics"]["without"]["P@1"] + 0.3
    assert fitted.pipeline.memory is not None
    assert len(fitted.pipeline.memory) == 300  # training queries only
    assert summary["tried"]["memory"][0]["weight"] == 0
    assert pipeline.memory is None  # what was given stays as it was
    assert summary["calibration"]["ECE@5 after"] < summary["calibration"]["ECE@5 before"]
    assert summary["depth"] == 12
    json.dumps(summary)


def test_save_writes_what_a_pipeline_loads(pipeline: XMCPipeline, data: XMCDataset, tmp_path: Path) -> None:
    pipeline.save_pretrained(tmp_path)
    before = (tmp_path / INDEX).read_bytes()
    fitted = fit_confidence(pipeline, data, level=0.8)
    fitted.save(tmp_path)
    assert (tmp_path / INDEX).read_bytes() == before
    again = XMCPipeline.from_pretrained(tmp_path)
    assert again.memory is not None
    assert again.confidence is not None
    texts = data.queries["test"]["text"][:]
    one, other = fitted.pipeline.predict(texts, 12), again.predict(texts, 12)
    assert np.array_equal(one.ids, other.ids)
    assert np.array_equal(fitted.pipeline.confidence.sets(one).indices, again.confidence.sets(other).indices)
    assert again.confidence.settings["memory"] is True
    # Fitted again without a memory: the old one goes, or the new confidence would be used on another ranking.
    fit_confidence(pipeline, data, level=0.8, memory=False).save(tmp_path)
    assert not (tmp_path / MEMORY).exists()
    last = XMCPipeline.from_pretrained(tmp_path)
    assert last.memory is None
    assert last.confidence.settings["memory"] is False


def test_what_was_fitted_goes_with_its_index_and_its_model(
    pipeline: XMCPipeline, data: XMCDataset, folder: Path, tiny_encoder: str, tmp_path: Path
) -> None:
    fitted = fit_confidence(pipeline, data, level=0.8).pipeline
    assert fitted.memory is not None
    other = XMCPipeline.build(pipeline.model, data.labels, "hnsw")
    train = (
        "train",
        "--dataset",
        folder,
        "--model_name_or_path",
        tiny_encoder,
        "--max_steps",
        "1",
        "--report_to",
        "none",
    )
    for args in (("index", tmp_path, "--factory", "hnsw"), (*train, "--output_dir", tmp_path), ()):
        fitted.save_pretrained(tmp_path)
        assert all((tmp_path / name).is_file() for name in FITTED)
        if args:
            result = CliRunner().invoke(app, [str(arg) for arg in args], catch_exceptions=False)
            assert result.exit_code == 0, result.output
        else:
            other.save_pretrained(tmp_path)
        assert not any((tmp_path / name).exists() for name in FITTED)
    # In Python too: probabilities and sets are those of the search that was calibrated.
    swapped = XMCPipeline(pipeline.model, other.index, memory=fitted.memory, confidence=fitted.confidence)
    assert "probability" not in swapped("a red car")[0]
    with pytest.raises(ValueError, match="needs a confidence"):
        swapped("a red car", conformal=True)
    few = XMCPipeline.build(pipeline.model, data.labels.select(range(4)))
    with pytest.raises(ValueError, match="memory votes for 12 labels"):
        XMCPipeline(pipeline.model, few.index, memory=fitted.memory)


def test_centroids_make_another_index(pipeline: XMCPipeline, data: XMCDataset, tmp_path: Path) -> None:
    pipeline.save_pretrained(tmp_path)
    fitted = fit_confidence(pipeline, data, level=0.8, memory=False, centroids=True)
    assert fitted.summary["centroids"] is not None
    assert fitted.summary["metrics"]["with"]["P@1"] > fitted.summary["metrics"]["without"]["P@1"]
    fitted.save(tmp_path)
    texts = data.queries["test"]["text"][:]
    loaded = XMCPipeline.from_pretrained(tmp_path)
    assert np.array_equal(loaded.predict(texts).ids, fitted.pipeline.predict(texts).ids)
    assert not np.array_equal(loaded.predict(texts).ids, pipeline.predict(texts).ids)


def test_a_memory_that_does_not_help_is_left_out(pipeline: XMCPipeline, data: XMCDataset, tmp_path: Path) -> None:
    from hf_xmc.inference.fitting.confidence import fit_from_embeddings

    truth = data.positives("validation")
    axes = np.eye(32, dtype=np.float32)
    perfect = np.stack([axes[truth.row(i)].mean(axis=0) for i in range(len(truth))])
    index = type(pipeline.index).build(axes[:12], data.labels)
    noise = np.random.default_rng(0).normal(size=(300, 32)).astype(np.float32)
    made = XMCPipeline(pipeline.model, index)
    fitted = fit_from_embeddings(made, data, {"train": noise, "validation": perfect}, level=0.8)
    assert fitted.pipeline.memory is None
    assert fitted.summary["memory"] is None
    assert fitted.summary["metrics"]["with"]["P@1"] == fitted.summary["metrics"]["without"]["P@1"] == 1


def test_what_cannot_be_calibrated_is_said(pipeline: XMCPipeline, data: XMCDataset, toy: Path) -> None:
    other = load_xmc_dataset(toy)
    with pytest.raises(DataError, match=r"validation split of .* has \d+ queries"):
        fit_confidence(XMCPipeline.build(pipeline.model, other.labels), other)
    turned = XMCPipeline.build(pipeline.model, data.labels.select(range(11, -1, -1)))
    with pytest.raises(DataError, match="other labels"):
        fit_confidence(turned, data)


def test_halves_share_nothing_and_depth_is_as_large_as_needed(pipeline: XMCPipeline) -> None:
    first, second = halves(101, seed=3)
    assert sorted([*first, *second]) == list(range(101))
    assert not set(first) & set(second)
    assert [len(part) for part in halves(50_000, 0)] == [2000, 48_000]

    class Ranking:
        """A ranking in which the true label of query i is at rank 3 i + 1."""

        index = range(3000)

        @staticmethod
        def rank(queries: np.ndarray, k: int, texts: object = None) -> TopK:
            ids = np.arange(k)[None] - 3 * np.arange(len(queries))[:, None] + 5000
            return TopK(ids, np.broadcast_to(-np.arange(k, dtype=np.float32), ids.shape))

    held = Held(np.zeros((100, 1)), Positives.from_lists([[5000]] * 100), None)
    assert choose_depth(Ranking, held, 0.9, 2000) == 500  # ranks up to 298, of which 5 % may be missed
    assert choose_depth(Ranking, held, 0.9, 150) == 150
    assert len(some(np.arange(5000), 20_000, 0)) == 2500
    assert choose_depth(Ranking, held, 0.01, 2000) == 200  # nearly half may be


def test_measured_coverage_by_hand() -> None:
    sets, truth = Positives.from_lists([[1, 2], [3], [], [4]]), Positives.from_lists([[1, 5], [3], [], [9]])
    assert coverage(sets, truth) == (0.625, 0.5)


def test_the_report_says_what_cannot_be_promised() -> None:
    rng = np.random.default_rng(0)
    ids = np.argsort(rng.random((100, 30)), axis=1)[:, :10]
    topk = TopK(ids, -np.sort(-rng.random((100, 10)), axis=1))
    truth = Positives.from_lists(rng.choice(30, 2, replace=False) for _ in range(100))
    measured = measure_confidence(topk, truth, Confidence.fit(topk, truth))
    assert "cannot be promised" in measured["sets"]["fnr"]["error"]
    assert measured["sets"]["powerset"]["mean_size"] > 0
    section = confidence_section(measured)
    assert section["sets"][0]["error"] == measured["sets"]["fnr"]["error"]
    assert confidence_section(None) is None


def test_calibrate_and_evaluate_on_the_command_line(pipeline: XMCPipeline, folder: Path, tmp_path: Path) -> None:
    def invoke(*args: object) -> str:
        result = CliRunner().invoke(app, [str(arg) for arg in args], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.output

    run, out = tmp_path / "run", tmp_path / "out"
    pipeline.save_pretrained(run)
    output = invoke("calibrate", run, "--dataset", folder, "--level", "0.8")
    for expected in ("labels alone", "with memory", "ECE@5 before", "fnr", "hf-xmc evaluate"):
        assert expected in output
    assert all((run / name).is_file() for name in (CONFIDENCE, ARRAYS, MEMORY))
    output = invoke("evaluate", run, "--dataset", folder, "--output_dir", out, "--no_baselines")
    assert "true labels in it" in output
    assert "advised by calibrate" in " ".join(output.split())
    document = json.loads((out / "metrics.json").read_text())
    sets = document["confidence"]["sets"]
    assert set(sets) == {"fnr", "all", "frequency", "powerset"}
    assert sets["fnr"]["share_covered"] > 0.65
    errors = document["confidence"]["calibration"]
    assert errors["after"]["ECE@5"] < errors["before"]["ECE@5"]
    assert document["settings"]["predictions_a_query"] == 5
    page = (out / "report.html").read_text()
    assert ">Confidence</h2>" in page
    assert sets["all"]["promise"] in page
    details = json.loads((out / "details.json").read_text())
    assert sum(row["count"] for row in details["reliability"]["after"]) == 5 * 150
    assert len(QueryMemory.from_pretrained(run)) == 300
    result = CliRunner().invoke(app, ["calibrate", str(run)])
    assert result.exit_code == 2
    assert "--dataset" in result.output


def test_labels_that_came_and_went_before_a_calibration(
    pipeline: XMCPipeline, data: XMCDataset, folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    changed = XMCPipeline.build(pipeline.model, data.labels)
    changed.remove_labels(list(COLOURS))  # half of what is true
    changed.add_labels(["number 99"])
    fitted = fit_confidence(changed, data, level=0.8)
    assert fitted.pipeline.confidence.risks["fnr"].miss_rate == 0  # a label that is gone is not missed
    fitted.pipeline.save_pretrained(tmp_path / "run")
    args = ("evaluate", tmp_path / "run", "--dataset", folder, "--output_dir", tmp_path / "out", "--no_baselines")
    result = CliRunner().invoke(app, [str(arg) for arg in args], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert "1 labels were added" in caplog.text
    measured = json.loads((tmp_path / "out" / "metrics.json").read_text())["confidence"]["sets"]
    assert measured["fnr"]["share_covered"] > 0.65  # of what can be found; with the others half of it at most
    (new,) = changed.index.catalogue.ids_where(text="number 99")
    ids = [i for row in pq.read_table(tmp_path / "out" / "predictions.parquet")["ids"].to_pylist() for i in row]
    assert ids
    assert max(ids) < data.num_labels == new
