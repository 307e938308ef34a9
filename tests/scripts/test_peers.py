"""The comparison with other systems, on a set that they can learn in a second."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hf_xmc import Positives, load_xmc_dataset

BENCHMARKS = Path(__file__).parents[2] / "scripts/benchmarks"
LEARNERS = ("tfidf-knn", "linear", "omikuji-parabel", "omikuji-bonsai", "omikuji-bonsai-pairs")


@pytest.fixture(autouse=True)
def beside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)


@pytest.fixture
def job(toy: Path, tmp_path: Path) -> Any:
    """A job on the 160 texts of the toy set, of which the last 40 are to be tagged."""
    peers, data = import_module("peers"), load_xmc_dataset(toy)
    peers.known_part(data).save(tmp_path / "data")
    (tmp_path / "texts.json").write_text(json.dumps(list(data.queries["test"]["text"])))
    paths = {"data": str(tmp_path / "data"), "texts": str(tmp_path / "texts.json"), "folder": str(tmp_path / "job")}
    Path(paths["folder"]).mkdir()
    return import_module("peer_systems").Job("", seed=0, minutes=1, threads=1, k=4, **paths)


def metrics(job: Any, toy: Path) -> dict[str, float]:
    """Train, tag and score one system in this process."""
    peers, running = import_module("peers"), import_module("peer_job")
    system = running.SYSTEMS[job.system]
    trained = running.train(system, job)
    assert "skipped" not in trained, trained
    assert trained["model_bytes"] > 0
    assert trained["train_memory_bytes"] > 2**20
    assert 0 < trained["train_seconds"] < 600
    tagged = running.tag(system, job)
    assert tagged["texts_per_second"] > 0
    data = load_xmc_dataset(toy)
    topk = peers.keep_predictions(Path(job.folder), data)
    assert (Path(job.folder) / "predictions.parquet").is_file()
    assert topk.ids.shape == (40, 4)
    assert (np.diff(topk.scores, axis=1) <= 0).all()
    return peers.ranking_metrics(topk, *peers.judged(data, len(topk), (1, 2)))


@pytest.mark.parametrize("name", LEARNERS)
def test_a_peer_learns_from_examples(name: str, job: Any, toy: Path) -> None:
    if "omikuji" in name:
        pytest.importorskip("omikuji")
    found = metrics(replace(job, system=name), toy)
    assert found["P@1"] > 0.9
    assert found["R@2"] > 0.9, "each text has two labels, which its words name"


def test_omikuji_without_a_known_word(job: Any) -> None:
    """A training text, and one to tag, none of whose words occurs twice."""
    pytest.importorskip("omikuji")
    systems, bonsai = import_module("peer_systems"), import_module("peer_job").SYSTEMS["omikuji-bonsai-pairs"]
    examples = systems.Examples(["unheard", "red car", "red car"], Positives.from_lists([[0], [1], [1]]), ["a", "b"])
    words = systems.Words.fit(examples.texts, pairs=True)
    assert sorted(words.vectorizer.vocabulary_) == ["car", "red", "red car"]
    bonsai.write(examples, words, Path(job.folder) / "file.txt")
    header, *rows = (Path(job.folder) / "file.txt").read_text().splitlines()
    assert (header, len(rows)) == ("2 3 2", 2)
    found = bonsai.predict(None, words(["unheard"]), 0, 2)
    assert found == [(-1, -np.inf), (-1, -np.inf)]


def test_those_that_learn_nothing(job: Any, toy: Path) -> None:
    assert metrics(replace(job, system="tfidf-labels"), toy)["P@1"] == 1.0, "the words stand in the texts"
    assert metrics(replace(job, system="popularity"), toy)["P@1"] < 0.5


def test_no_system_sees_what_is_scored(job: Any) -> None:
    assert sorted(load_xmc_dataset(job.data).queries) == ["train", "validation"]


def test_what_does_not_fit_says_why(job: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    running = import_module("peer_job")
    linear, job = running.SYSTEMS["linear"], replace(job, system="linear")
    monkeypatch.setattr(type(linear), "cells", 10)
    assert "weights (labels times words)" in running.train(linear, job)["skipped"]
    monkeypatch.undo()
    assert "not finished within 0 minutes" in running.train(linear, replace(job, minutes=0))["skipped"]


def test_validation_takes_the_place_of_test(toy: Path) -> None:
    peers, data = import_module("peers"), load_xmc_dataset(toy)
    other = peers.split_for(data, "validation")
    assert other.queries["test"]["uid"] == data.queries["validation"]["uid"]
    parts = [*other.queries["train"]["uid"], *other.queries["validation"]["uid"]]
    assert sorted(parts) == sorted(data.queries["train"]["uid"])
    assert other.num_train_queries == data.num_train_queries, "the propensities stay"


def test_results_and_going_on(
    toy: Path, tmp_path: Path, python: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    peers, output = import_module("peers"), tmp_path / "peers.json"
    monkeypatch.setattr(sys, "executable", python)
    options = ["--workdir", str(tmp_path / "work"), "--output", str(output), "--threads", "1"]
    arguments = ["peers.py", str(toy), "--systems", "popularity", "--seeds", "0", "1", *options]
    monkeypatch.setattr(sys, "argv", arguments)
    peers.main()
    [(name, part)] = json.loads(output.read_text()).items()
    assert name == "toy" or name == toy.name
    assert (part["split"], part["num_texts"], part["counts"]["labels"]) == ("test", 40, 12)
    assert {"hf-xmc", "torch"} <= part["versions"].keys()
    [run] = part["runs"]  # without chance, one seed is enough
    assert (run["system"], run["seed"], run["threads"]) == ("popularity", 0, 1)
    tables = import_module("peer_tables")
    assert set(run["metrics"]) == set(tables.SHOWN)
    assert all(run[cost] >= 0 for cost in tables.COSTS)
    assert part["systems"]["popularity"]["P@1"] == {"mean": run["metrics"]["P@1"], "sd": None}
    assert f"| popularity | {100 * run['metrics']['P@1']:.1f} |" in output.with_suffix(".md").read_text()
    assert "40 texts, 12 labels" in capsys.readouterr().out

    def started(*_: Any) -> str:
        raise AssertionError("what is finished must not run again")

    monkeypatch.setattr(peers, "start", started)
    peers.main()
    [again] = json.loads(output.read_text())[name]["runs"]
    assert again == run
    monkeypatch.setattr(peers, "start", lambda *_: "exit code 1: no memory")
    monkeypatch.setattr(sys, "argv", [*arguments, "--minutes", "7"])  # other settings: another result
    peers.main()
    assert json.loads(output.read_text())[name]["systems"]["popularity"] == {"failed": "exit code 1: no memory"}


def test_means_of_several_seeds() -> None:
    tables = import_module("peer_tables")
    costs = dict.fromkeys(tables.COSTS, 2.0)
    runs = [
        {"system": "omikuji-bonsai", "seed": seed, "metrics": dict.fromkeys(tables.SHOWN, value), **costs}
        for seed, value in ((0, 0.4), (1, 0.6))
    ]
    found = tables.summary([*runs, {"system": "linear", "seed": 0, "skipped": "too large"}])
    assert found["omikuji-bonsai"]["P@1"] == {"mean": 0.5, "sd": pytest.approx(0.2 / 2**0.5)}
    assert found["omikuji-bonsai"]["seeds"] == 2
    assert found["linear"] == {"skipped": "too large"}


def test_differences_are_from_the_best_peer_at_each_metric(toy: Path, tmp_path: Path) -> None:
    peers, data = import_module("peers"), load_xmc_dataset(toy)
    truth = data.positives("test")
    names = {"fit-fast": 2, "popularity": 0, "omikuji-bonsai": 1}  # how many of the two true labels each finds
    systems: dict[str, Any] = {"linear": {"skipped": "too large"}}
    for name, right in names.items():
        rows = [
            [*truth.row(i)[:right], *(label for label in range(12) if label not in truth.row(i))] for i in range(40)
        ]
        topk = peers.TopK.from_lists([row[:5] for row in rows])
        (tmp_path / f"{name}-3").mkdir()
        np.savez(tmp_path / f"{name}-3" / "predictions.npz", ids=topk.ids, scores=topk.scores)
        peers.keep_predictions(tmp_path / f"{name}-3", data)
        found = peers.ranking_metrics(topk, *peers.judged(data, 40, peers.CUTOFFS))
        systems[name] = {"seeds": 1, **{metric: {"mean": found[metric]} for metric in peers.COMPARED}}
    found = peers.differences(systems, data, data.queries["test"]["uid"], tmp_path, seed=3)
    assert list(found) == ["fit-fast"]
    assert {row["peer"] for row in found["fit-fast"].values()} == {"omikuji-bonsai"}
    assert found["fit-fast"]["P@5"]["difference"] == pytest.approx(0.2)
    assert found["fit-fast"]["P@5"]["low"] == pytest.approx(0.2), "the same for every text"


def test_the_picture_shows_every_system(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tables = import_module("peer_tables")
    figures = {key: {"mean": 0.375, "sd": None} for key in (*tables.SHOWN, *tables.COSTS)}
    systems = {"fit-fast": {"seeds": 1, **figures}, "linear": {"skipped": "too large"}}
    (tmp_path / "peers.json").write_text(json.dumps({"a set": {"counts": {"labels": 1234}, "systems": systems}}))
    monkeypatch.syspath_prepend(BENCHMARKS.parent)
    monkeypatch.setattr(sys, "argv", ["plot_results.py", "--peers", str(tmp_path / "peers.json")])
    plot = import_module("plot_results")
    with plot.plt.rc_context({"svg.fonttype": "none"}):  # text as text
        plot.main()
    picture = (tmp_path / "peers.svg").read_text()
    for text in ("a set", "1,234 labels", "hf-xmc fit --preset fast", "linear one-vs-rest", "37.5", "not run"):
        assert text in picture


def test_annif_files(job: Any) -> None:
    annif = import_module("peer_annif")
    examples = import_module("peer_systems").Examples.of(job.data, "train")
    file = annif.write_documents(Path(job.folder) / "a.csv", examples, annif.uris_of(job.data), np.array([0]))
    text, header = examples.texts[0], "text,subject_uris"
    uris = " ".join(f"<urn:label:{label}>" for label in examples.positives.row(0))
    assert file.read_text().splitlines() == [header, f"{text},{uris}"]
    tags = Path(job.folder) / "tags.jsonl"
    tags.write_text('{"results": [{"uri": "urn:label:7", "score": 0.5}]}\n{"results": []}\n')
    topk = annif.read_tags(tags, {"urn:label:7": 7}, 2)
    assert topk.ids.tolist() == [[7, -1], [-1, -1]]
    assert topk.scores[0, 0] == 0.5


@pytest.mark.slow
@pytest.mark.skipif(not find_spec("sentence_transformers"), reason="sentence-transformers is not installed")
def test_sentence_transformers_learns(job: Any, toy: Path) -> None:
    assert metrics(replace(job, system="sentence-transformers"), toy)["P@1"] > 0.8
