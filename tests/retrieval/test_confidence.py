"""Probabilities, thresholds, and the saved confidence: the worked numbers, and what must hold for any data."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.special import expit

from hf_xmc import Positives, TopK
from hf_xmc.errors import ModelFolderError, SettingsError
from hf_xmc.metrics import calibration_metrics, ranking_metrics, reliability
from hf_xmc.metrics.hits import drop_pairs
from hf_xmc.retrieval.calibration import METHODS, RankedMap, ScoreMap, fit_score_map
from hf_xmc.retrieval.confidence import ARRAYS, CONFIDENCE, Confidence
from hf_xmc.retrieval.thresholds import ThresholdTable, shrink


def predictions(seed: int = 0, num_queries: int = 400, num_labels: int = 30, k: int = 20) -> tuple[TopK, Positives]:
    """Scores in (-1, 1) whose chance to be right is sigmoid(8 s - 4)."""
    rng = np.random.default_rng(seed)
    scores = rng.uniform(-1, 1, (num_queries, num_labels))
    true = rng.random(scores.shape) < expit(8 * scores - 4)
    ids = np.argsort(-scores, axis=1)[:, :k]
    truth = Positives.from_lists(np.flatnonzero(row).tolist() for row in true)
    return TopK(ids, np.take_along_axis(scores, ids, 1)), truth


def test_isotonic_by_hand() -> None:
    fitted = fit_score_map(np.arange(1, 7) / 10, np.array([0, 1, 0, 0, 1, 1]))
    assert fitted(np.arange(1, 7) / 10) == pytest.approx([0, 1 / 3, 1 / 3, 1 / 3, 1, 1])
    assert fitted(0.45) == pytest.approx(2 / 3)
    assert fitted(np.array([-5.0, 5.0, -np.inf])).tolist() == [0, 1, 0]


@pytest.mark.parametrize(
    ("method", "parameters", "score", "probability"),
    [
        ("beta", {"a": 1.2, "b": 0.8, "c": -0.3, "low": 0.0, "high": 1.0}, 0.7, 0.5585),
        ("temperature", {"temperature": 0.5}, 0.7, 0.8022),
    ],
)
def test_maps_that_are_fitted_no_more_still_load_and_apply(
    method: str, parameters: dict[str, float], score: float, probability: float, tmp_path: Path
) -> None:
    made = ScoreMap(method, parameters)
    assert made(score) == pytest.approx(probability, abs=1e-4)
    with pytest.raises(SettingsError, match="expected one of isotonic, platt"):
        fit_score_map(np.array([0.1, 0.2]), np.array([False, True]), method)
    topk, truth = predictions(num_queries=50)
    confidence = Confidence.fit(topk, truth)
    old = replace(confidence, score_map=RankedMap(made, 0.1))
    old.save_pretrained(tmp_path)
    again = Confidence.from_pretrained(tmp_path)
    assert again.score_map.score_map.method == method
    assert np.array_equal(again.probabilities(topk), old.probabilities(topk))
    assert again.probabilities(topk).max() > again.probabilities(topk).min()
    about = json.loads((tmp_path / CONFIDENCE).read_text())
    about["score_map"]["method"] = "spline"
    (tmp_path / CONFIDENCE).write_text(json.dumps(about))
    with pytest.raises(ModelFolderError, match="is 'spline', expected"):
        Confidence.from_pretrained(tmp_path)


def test_platt_finds_an_offset() -> None:
    rng = np.random.default_rng(0)
    scores = rng.uniform(-2, 2, 50_000)
    hits = rng.random(50_000) < expit(2 * scores - 1)
    platt = fit_score_map(scores, hits, "platt")
    assert platt(0.0) == pytest.approx(0.27, abs=0.01)
    turned = fit_score_map(-scores, hits, "platt")  # rank worse than chance: no order is reversed
    assert turned.parameters["slope"] == 0
    assert [platt.parameters["slope"], platt.parameters["offset"]] == pytest.approx([2, -1], abs=0.05)


def test_platt_uses_soft_targets() -> None:
    fitted = fit_score_map(np.array([0.0, 1.0]), np.array([False, True]), "platt")
    assert fitted(np.array([0.0, 1.0])) == pytest.approx([1 / 3, 2 / 3], abs=1e-4)  # separable, and still finite


@pytest.mark.parametrize("method", METHODS)
def test_maps_never_fall_and_calibrate(method: str) -> None:
    topk, truth = predictions()
    confidence = Confidence.fit(topk, truth, method=method)
    new, new_truth = predictions(seed=1, num_queries=3000)
    p = confidence.probabilities(new)
    assert (np.diff(p, axis=1) <= 0).all()
    assert ((p >= 0) & (p <= 1)).all()
    before = calibration_metrics(new, new_truth, ks=(20,))["ECE@20"]
    after = calibration_metrics(TopK(new.ids, p), new_truth, ks=(20,))["ECE@20"]
    assert after < 0.3 * before
    if method != "isotonic":  # a strictly rising map keeps every ranking metric
        assert ranking_metrics(TopK(new.ids, p), new_truth) == ranking_metrics(new, new_truth)


def test_maps_that_cannot_be_fitted() -> None:
    with pytest.raises(ValueError, match="expected one of isotonic"):
        fit_score_map(np.zeros(2), np.array([0, 1]), "softmax")
    for hits in (np.zeros(3), np.ones(3), np.zeros(0)):
        with pytest.raises(ValueError, match="needs true and false ones"):
            fit_score_map(np.zeros(len(hits)), hits)
    for method in METHODS:  # scores that say nothing
        assert fit_score_map(np.ones(4), np.array([0, 0, 0, 1]), method)(np.ones(2)).shape == (2,)


def test_calibration_errors_by_hand() -> None:
    topk = TopK(np.arange(6)[None], np.array([[0.9, 0.8, 0.7, 0.3, 0.2, 0.1]]))
    truth = Positives.from_lists([[0, 1, 4]])
    found = calibration_metrics(topk, truth, ks=(1, 6), num_bins=2)
    assert [found["ECE@6"], found["ACE@6"]] == pytest.approx([0.1333, 0.1333], abs=1e-4)
    assert [found["over@6"], found["under@6"]] == pytest.approx([0.0667, 0.0667], abs=1e-4)
    assert found["ECE@1"] == pytest.approx(0.1)
    assert reliability(np.zeros(0), np.zeros(0)) == []
    assert reliability(np.array([-1.0, 2.0]), np.array([0, 1]), 5)[-1]["mean_score"] == 2
    filtered = calibration_metrics(topk, truth, ks=(6,), filters=Positives.from_lists([[0, 3]]), num_bins=2)
    assert filtered["Brier@6"] == pytest.approx(np.mean(np.square([0.2, 0.7, 0.8, 0.1])))


def test_thresholds_against_a_search_of_all() -> None:
    topk, truth = predictions(num_queries=60)
    topk = TopK(topk.ids, topk.scores.round(1))  # with ties
    table = ThresholdTable.of(topk, truth, np.arange(30))
    true = np.array([np.isin(ids, truth.row(i)) for i, ids in enumerate(topk.ids)])

    def f1(threshold: float, labels: np.ndarray) -> float:
        kept = (topk.scores >= threshold - 1e-12) & np.isin(topk.ids, labels)
        total = kept.sum() + np.isin(truth.indices, labels).sum()
        return 2 * (kept & true).sum() / max(total, 1)

    grid = np.unique(topk.scores)
    everything = np.arange(30)
    best = table.thresholds()
    assert f1(best, everything) == pytest.approx(max(f1(t, everything) for t in grid))
    for name, labels in (("torso", np.arange(20, 30)), ("tail", np.arange(20))):
        found = table.thresholds(by="frequency")[labels]
        assert len(set(found)) == 1, name
        assert f1(found[0], labels) == pytest.approx(max(f1(t, labels) for t in grid))
    own = table.best(table.labels, 2, table.true, None)
    for label in range(30):
        expected = max(f1(t, np.array([label])) for t in grid)
        assert f1(own[label], np.array([label])) == pytest.approx(expected)
    assert table.thresholds(by="label") == pytest.approx(shrink(own, table.true, best))
    reached = [t for t in grid if true[topk.scores >= t].mean() >= 0.8]
    assert table.thresholds("precision", 0.8) == pytest.approx(min(reached))


def test_thresholds_that_there_are_not() -> None:
    topk, truth = (
        TopK(np.array([[0, 1], [1, 0]]), np.array([[0.9, 0.8], [0.7, 0.6]])),
        Positives.from_lists([[1], [1]]),
    )
    table = ThresholdTable.of(topk, truth, np.ones(3, dtype=int))
    assert table.thresholds("precision", 0.6) == 0.7
    with pytest.raises(ValueError, match=r"precision of 0.9: the best on 2 true pairs is 0.667"):
        table.thresholds("precision", 0.9)
    for wrong in ({"target": "recall"}, {"target": "precision"}, {"value": 0.5}, {"by": "scheme"}):
        with pytest.raises(ValueError, match="expected"):
            table.thresholds(**wrong)
    with pytest.raises(ValueError, match="not above 1"):
        table.thresholds("precision", 1.5)
    assert table.thresholds(by="label")[2] == table.thresholds()  # a label without examples takes the common one


def test_thresholds_of_labels_are_shrunk_by_hand() -> None:
    assert shrink(np.array([0.8, 0.8]), np.array([2, 40]), 0.5) == pytest.approx([0.55, 0.74])


@pytest.mark.parametrize("method", ["isotonic", "platt"])
def test_save_and_load(tmp_path: Path, method: str) -> None:
    topk, truth = predictions()
    counts = np.arange(30) * 10
    confidence = Confidence.fit(topk, truth, counts, method=method, level=0.6, fitted_on="validation")
    confidence.save_pretrained(tmp_path)
    assert sorted(p.name for p in tmp_path.glob("[!.]*")) == [CONFIDENCE, ARRAYS]
    again = Confidence.from_pretrained(tmp_path)
    assert again.settings == confidence.settings
    assert (again.depth, again.level, again.settings["fitted_on"]) == (20, 0.6, "validation")
    new, _ = predictions(seed=1)
    assert np.array_equal(again.probabilities(new), confidence.probabilities(new))
    for name in ("fnr", "all", "frequency", "powerset"):
        for level in (None, 0.5):  # levels that were not asked for when it was fitted
            one, other = confidence.sets(new, name, level), again.sets(new, name, level)
            assert np.array_equal(one.indptr, other.indptr)
            assert np.array_equal(one.indices, other.indices)
            one.validate(30)
    for by in ("global", "frequency", "label"):
        assert np.array_equal(again.threshold(by=by), confidence.threshold(by=by))
    assert [r.sets for r in again.regions(topk, 0.5, 5)] == [r.sets for r in confidence.regions(topk, 0.5, 5)]


def test_folders_without_or_with_a_broken_confidence(tmp_path: Path) -> None:
    with pytest.raises(ModelFolderError, match="hf-xmc calibrate"):
        Confidence.from_pretrained(tmp_path)
    topk, truth = predictions()
    Confidence.fit(topk, truth).save_pretrained(tmp_path)
    about = json.loads((tmp_path / CONFIDENCE).read_text())
    for wrong in ({}, about | {"format": 99}):
        (tmp_path / CONFIDENCE).write_text(json.dumps(wrong))
        with pytest.raises(ModelFolderError, match=r'confidence.json: ("format" is missing|format 99)'):
            Confidence.from_pretrained(tmp_path)
    Confidence.fit(topk, truth).save_pretrained(tmp_path)
    (tmp_path / ARRAYS).write_bytes(b"broken")
    with pytest.raises(ModelFolderError, match="not a sound safetensors file"):
        Confidence.from_pretrained(tmp_path)


def test_sets_refuse_predictions_that_are_cut_off() -> None:
    topk, truth = predictions()
    confidence = Confidence.fit(topk, truth)
    whole = confidence.sets(topk, "fnr", 0.8)
    enough = TopK(topk.ids[:, :15], topk.scores[:, :15])
    assert (enough.scores[:, -1] < confidence.risks["fnr"].threshold(0.8)).all()
    assert np.array_equal(confidence.sets(enough, "fnr", 0.8).indices, whole.indices)
    with pytest.raises(ValueError, match="k=20"):
        confidence.sets(TopK(topk.ids[:, :2], topk.scores[:, :2]), "fnr", 0.8)
    with pytest.raises(ValueError, match="expected one of fnr"):
        confidence.sets(topk, "some")


def test_labels_added_later_are_tail_and_bins_that_cannot_reach_keep_all() -> None:
    topk, truth = predictions()
    counts = np.full(30, 500)
    counts[:3] = 1
    confidence = Confidence.fit(topk, truth, counts)
    assert confidence.risks["torso"].num_queries == 0
    new = TopK(np.array([[30, 0, 5, -1]]), np.array([[-0.5, -0.9, -0.9, -np.inf]]))
    limits = {name: confidence.bin_threshold(name, 0.5) for name in ("head", "tail")}
    found = confidence.sets(new, "frequency", 0.5).row(0).tolist()
    assert found == [
        label for label, bin_, s in ((0, "tail", -0.9), (5, "head", -0.9), (30, "tail", -0.5)) if s >= limits[bin_]
    ]
    assert confidence.bin_threshold("torso", 0.5) == -np.inf


def test_what_fit_refuses() -> None:
    topk, truth = predictions(num_queries=50)
    for wrong in ({"level": 1.0}, {"candidates": 21}, {"label_counts": np.ones(5)}, {"method": "histogram"}):
        with pytest.raises(ValueError, match=r"level|candidates|label counts|method"):
            Confidence.fit(topk, truth, **wrong)
    with pytest.raises(ValueError, match="queries"):
        Confidence.fit(topk, truth.take(np.arange(10)))


def test_dropped_pairs_are_padding() -> None:
    topk = TopK(np.array([[3, 1, -1]]), np.array([[0.9, 0.8, -np.inf]]))
    left = drop_pairs(topk, Positives.from_lists([[3]]))
    assert left.ids.tolist() == [[-1, 1, -1]]
    assert left.scores.tolist() == [[-np.inf, 0.8, -np.inf]]
    assert drop_pairs(topk, None) is topk
