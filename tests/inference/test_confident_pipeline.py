"""The pipeline with memory and confidence: what is given out, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hf_xmc import TopK, XMCPipeline, load_xmc_dataset
from hf_xmc.inference.batch import predict_file
from hf_xmc.inference.selection import select
from hf_xmc.inference.text_files import read_rows
from hf_xmc.retrieval.rerank import CrossEncoderReranker
from tests.agree import closest_scores

TEXT = "a red car is here"


def test_probabilities_stand_beside_scores(fitted: XMCPipeline, plain: XMCPipeline) -> None:
    tags = fitted(TEXT, k=4)
    assert set(tags[0]) == {"label", "uid", "id", "score", "probability"}
    assert {tag["uid"] for tag in tags[:2]} == {"red", "car"}  # the memory has seen such texts; the encoder is random
    expected = fitted.confidence.probabilities(fitted.predict([TEXT], fitted.confidence.depth))[0, :4]
    assert [tag["probability"] for tag in tags] == pytest.approx(expected.tolist())
    assert "probability" not in plain(TEXT)[0]


def test_a_number_is_compared_with_the_probability(fitted: XMCPipeline, plain: XMCPipeline) -> None:
    everything = fitted(TEXT, k=12)
    limit = everything[2]["probability"]
    assert [t["id"] for t in fitted(TEXT, k=12, threshold=limit)] == [
        t["id"] for t in everything if t["probability"] >= limit
    ]
    scores = [tag["score"] for tag in plain(TEXT, k=12)]
    assert len(plain(TEXT, k=12, threshold=scores[4])) == 5


def test_fitted_thresholds(fitted: XMCPipeline) -> None:
    everything = fitted(TEXT, k=12)
    limit = fitted.confidence.threshold("f1")
    assert fitted(TEXT, k=12, threshold="f1") == [tag for tag in everything if tag["score"] >= limit]
    limits = fitted.confidence.threshold("f1", by="label")
    assert fitted(TEXT, k=12, threshold="f1@label") == [t for t in everything if t["score"] >= limits[t["id"]]]
    exact = fitted.confidence.threshold("precision", 0.5)
    assert fitted(TEXT, k=12, threshold="precision=0.5") == [tag for tag in everything if tag["score"] >= exact]
    with pytest.raises(ValueError, match=r"'f1' or 'precision=0\.9'"):
        fitted(TEXT, threshold="recall")


def test_labels_that_came_later_have_the_common_threshold(fitted: XMCPipeline) -> None:
    (new,) = fitted.add_labels([TEXT])
    fitted.memory.settings = replace(fitted.memory.settings, weight=0.01)  # labels by their text, then
    first = fitted(TEXT, k=13, threshold="f1@label")[0]
    assert first["id"] == new
    assert first["score"] > fitted.confidence.threshold("f1")


def test_conformal_sets_are_those_of_the_confidence(fitted: XMCPipeline, toy: Path) -> None:
    data = load_xmc_dataset(toy)
    texts = data.queries["test"]["text"][:]
    topk = fitted.predict(texts, fitted.confidence.depth)
    for level in (0.8, 0.9):
        sets = fitted.confidence.sets(topk, "fnr", level)
        found = fitted(texts, k=1, conformal=level)  # k says nothing here
        assert [{tag["id"] for tag in tags} for tags in found] == [set(sets.row(i).tolist()) for i in range(len(sets))]
        truth = data.positives("test")
        covered = [np.isin(truth.row(i), [tag["id"] for tag in tags]).mean() for i, tags in enumerate(found)]
        assert np.mean(covered) >= level
    assert fitted(texts[:3], conformal=True) == fitted(texts[:3], conformal=fitted.confidence.level)
    assert fitted(texts[0], conformal=0.9, set_method="all")
    with pytest.raises(ValueError, match="both given"):
        fitted(TEXT, conformal=0.9, threshold=0.5)


def test_k_does_not_change_a_set(fitted: XMCPipeline, toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fitted.confidence.settings["depth"] = 6
    depths = []
    rank = fitted.rank
    monkeypatch.setattr(fitted, "rank", lambda queries, k, **options: depths.append(k) or rank(queries, k, **options))
    texts = load_xmc_dataset(toy).queries["test"]["text"][:]
    assert fitted(texts, k=12, conformal=0.8) == fitted(texts, k=1, conformal=0.8)
    assert set(depths) == {6}  # the search that was calibrated: votes and scores are put together at this depth
    monkeypatch.setattr("hf_xmc.inference.pipeline.CELLS", 18)
    at_once = fitted(texts, k=4)
    assert len(depths) > 10  # three texts at a time
    for text, tags in zip(texts, at_once, strict=True):
        alone = fitted(text, k=4)
        assert [tag["score"] for tag in tags] == pytest.approx([tag["score"] for tag in alone], abs=1e-5)
        assert [tag["id"] for tag in tags] == [tag["id"] for tag in alone] or closest_scores(alone) < 1e-5


def test_without_its_ranking_there_is_no_confidence(fitted: XMCPipeline, plain: XMCPipeline) -> None:
    tags = fitted(TEXT, k=3, memory=False)
    assert tags == plain(TEXT, k=3)
    for options in ({"conformal": True}, {"threshold": "f1"}):
        with pytest.raises(ValueError, match="hf-xmc calibrate"):
            fitted(TEXT, memory=False, **options)
        with pytest.raises(ValueError, match="hf-xmc calibrate"):
            plain(TEXT, **options)


def test_filters_and_removed_labels_hold_for_the_memory_too(fitted: XMCPipeline) -> None:
    red, car = fitted(TEXT, k=2)
    assert {tag["id"] for tag in fitted(TEXT, k=12, allowed=[0, 1, 7])} == {0, 1, 7}
    assert red["id"] not in {tag["id"] for tag in fitted(TEXT, k=12, forbidden=[red["id"]])}
    fitted.remove_labels([red["uid"]])
    left = fitted(TEXT, k=12)
    assert len(left) == 11
    assert left[0]["id"] == car["id"]
    assert red["uid"] not in {tag["uid"] for tag in left}


def test_all_parts_are_saved_and_loaded(fitted: XMCPipeline, tmp_path: Path) -> None:
    fitted.save_pretrained(tmp_path / "whole")
    again = XMCPipeline.from_pretrained(tmp_path / "whole")
    for options in ({}, {"threshold": "f1"}, {"conformal": 0.9}, {"memory": False}):
        assert again(TEXT, **options) == fitted(TEXT, **options)
    assert again.fingerprint() == fitted.fingerprint()
    again.memory = None
    assert again.fingerprint() != fitted.fingerprint()


def test_files_have_probabilities_and_sets(fitted: XMCPipeline, tmp_path: Path) -> None:
    source, target = tmp_path / "in.txt", tmp_path / "out.jsonl"
    texts = [TEXT, "the blue river"]
    source.write_text("\n".join(texts) + "\n")
    predict_file(fitted, source, target, conformal=0.8)
    assert [row["labels"] for _, row in read_rows(target)] == fitted(texts, conformal=0.8)


def test_an_empty_selection() -> None:
    nothing = TopK(np.zeros((2, 0), np.int64), np.zeros((2, 0), np.float32))
    assert select(nothing, None, threshold=0.5).shape == (2, 0)


def test_the_middle_of_the_likely_labels(fitted: XMCPipeline) -> None:
    found = fitted([TEXT, "the blue river"], k=3, geometry="embeddings")
    assert [len(tags) for tags in found] == [3, 3]
    assert "probability" not in found[0][0]  # another kind of score
    with pytest.raises(ValueError, match="column parents"):
        fitted(TEXT, geometry="hierarchy")
    with pytest.raises(ValueError, match="'embeddings' or 'hierarchy'"):
        fitted(TEXT, geometry="torus")


def test_the_reranker_reorders(fitted: XMCPipeline, tiny_encoder: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no reranker"):
        fitted(TEXT, rerank=True)
    fitted.reranker = CrossEncoderReranker.from_encoder(tiny_encoder, max_length=32)
    first = {tag["id"] for tag in fitted(TEXT, k=4)}
    again = fitted([TEXT], k=4, rerank=4)[0]
    assert {tag["id"] for tag in again} == first
    scores = fitted.reranker.predict([(TEXT, tag["label"]) for tag in again])
    assert [tag["score"] for tag in again] == pytest.approx(sorted(scores.tolist(), reverse=True), abs=1e-5)
    assert "probability" not in again[0]
    fitted.save_pretrained(tmp_path)
    loaded = XMCPipeline.from_pretrained(tmp_path)([TEXT], k=4, rerank=4)[0]
    assert [tag["id"] for tag in loaded] == [tag["id"] for tag in again]
    assert fitted.predict([TEXT], 2, rerank=True).k == 2
    with pytest.raises(ValueError, match="reads the texts"):
        fitted.rank(fitted.model.encode_queries([TEXT]), 2, rerank=True)
