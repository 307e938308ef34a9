"""Long texts as bags of passages: a tagger that reads all of a text."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset
from typer.testing import CliRunner

from hf_xmc import LabelIndex, Passages, Positives, XMCPipeline
from hf_xmc.cli.main import app
from hf_xmc.cli.predict import quick_pipeline
from hf_xmc.data.dataset import XMCDataset
from hf_xmc.errors import SettingsError
from hf_xmc.inference.batch import predict_file
from hf_xmc.inference.explain.passages import evidence
from hf_xmc.inference.fitting.calibration import calibrate
from hf_xmc.inference.fitting.channels import Held
from hf_xmc.inference.fitting.passages import choose_pool
from hf_xmc.inference.options import SearchOptions
from hf_xmc.retrieval.bags import Bags
from hf_xmc.retrieval.preference import Preference

LONG = "a red car. " * 9 + "It is a long text about a blue house and a tree. " * 6 + "a white bird. " * 9
TEXTS = ["a red car", LONG, "", "a blue house"]


@pytest.fixture(scope="module")
def cutting(numbers_pipeline: XMCPipeline) -> XMCPipeline:
    return XMCPipeline(numbers_pipeline.model, numbers_pipeline.index, passages=Passages(overlap=3))


def test_short_texts_are_tagged_exactly_as_without_passages(
    cutting: XMCPipeline, numbers_pipeline: XMCPipeline, numbers_data: XMCDataset
) -> None:
    texts = [text for text in numbers_data.queries["test"]["text"][:] if len(cutting.passages_of(text)) == 1][:40]
    assert len(texts) == 40
    found, plain = cutting.predict(texts, 12), numbers_pipeline.predict(texts, 12)
    np.testing.assert_array_equal(found.ids, plain.ids)
    np.testing.assert_array_equal(found.scores, plain.scores)


def test_passages_are_read_whole(cutting: XMCPipeline) -> None:
    found = cutting.passages_of(LONG)
    assert (found[0].start, found[-1].end) == (0, len(LONG))
    assert len(found) > 20
    tokenize = cutting.model.tokenizer
    assert all(len(tokenize(one.text)["input_ids"]) <= 16 for one in found)  # nothing is truncated
    assert cutting.passages_of("")[0] == (0, 0, "")


def test_scores_are_those_of_the_passages(cutting: XMCPipeline) -> None:
    vectors = cutting.model.encode_queries([one.text for one in cutting.passages_of(LONG)]).numpy()
    scores = vectors @ cutting.index.vectors().T  # [T, L]
    expected = np.log(np.exp(50 * scores).mean(axis=0)) / 50
    found = cutting.predict([LONG], 12)
    np.testing.assert_array_equal(found.ids[0], np.argsort(-expected, kind="stable"))
    np.testing.assert_allclose(found.scores[0], np.sort(expected)[::-1], atol=1e-5)


def test_batches_do_not_change_scores(cutting: XMCPipeline) -> None:
    whole = cutting.predict(TEXTS, 5)
    for batch_size in (1, 7):
        found = cutting.predict(TEXTS, 5, batch_size)
        np.testing.assert_array_equal(found.ids, whole.ids)
        np.testing.assert_allclose(found.scores, whole.scores, atol=1e-5)
    alone = np.concatenate([cutting.predict([text], 5).scores for text in TEXTS])
    np.testing.assert_allclose(alone, whole.scores, atol=1e-5)


def test_saved_loaded_and_calibrated(
    cutting: XMCPipeline, numbers_data: XMCDataset, numbers_folder: Path, tmp_path: Path
) -> None:
    cutting.save_pretrained(tmp_path)
    assert XMCPipeline.from_pretrained(tmp_path).passages == Passages(overlap=3)
    command = ["calibrate", str(tmp_path), "--dataset", str(numbers_folder), "--passages", "max,tokens=8"]
    command += ["--channels", "memory"]
    done = CliRunner().invoke(app, command, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert "passages.json" in done.output.replace("\n", "")
    loaded = XMCPipeline.from_pretrained(tmp_path)
    assert loaded.passages == Passages("max", tokens=8)
    assert loaded.confidence_for() is not None
    assert isinstance(loaded.encode([LONG]), Bags)
    assert loaded.memory is not None
    tagged = loaded(TEXTS, 3)
    assert all("probability" in tag for tags in tagged for tag in tags)
    lines = "".join(f"{text}\n" for text in TEXTS)
    (tmp_path / "texts.txt").write_text(lines, encoding="utf-8")
    assert predict_file(loaded, tmp_path / "texts.txt", tmp_path / "tags.csv", k=3) == 4
    row = (tmp_path / "tags.csv").read_text(encoding="utf-8").splitlines()[2]
    assert all(tag["uid"] in row for tag in tagged[1])
    quick = quick_pipeline(tmp_path)  # without torch
    assert quick is not None
    np.testing.assert_allclose(quick.predict(TEXTS, 3).scores, loaded.predict(TEXTS, 3).scores, atol=1e-5)
    before = loaded.ranking_fingerprint()
    loaded.passages = None  # another ranking: its probabilities are not those of this one
    assert loaded.ranking_fingerprint() != before
    assert loaded.confidence_for() is None
    given = calibrate(tmp_path, numbers_data, passages="off", output_dir=tmp_path / "off").pipeline
    assert given.passages is None
    assert not (tmp_path / "off" / "passages.json").exists()


def test_passages_that_speak_for_a_label(cutting: XMCPipeline, tmp_path: Path) -> None:
    tags = cutting(TEXTS, 2, explain="channels")
    assert all("passages" not in tag for tag in tags[0])  # a short text
    vectors = cutting.encode([LONG])[0]
    for tag in tags[1]:
        own = vectors @ cutting.index.vectors([tag["id"]])[0]
        near = np.abs(np.subtract.outer(np.arange(len(own)), np.arange(len(own)))) <= 2
        weights = np.where(near, np.exp(vectors @ vectors.T / 0.3), 0)  # the vectors have length 1
        scores = weights @ own / weights.sum(axis=1)
        best = tag["passages"][0]
        span = cutting.passages_of(LONG)[int(scores.argmax())]
        assert (best["start"], best["end"]) == (span.start, span.end)
        assert best["text"] == LONG[span.start : span.end].strip()
        assert best["score"] == pytest.approx(scores.max(), abs=1e-5)
    cutting.save_pretrained(tmp_path)
    command = ["explain", str(tmp_path), "--text", LONG, "--k", "2", "--measure", "--output"]
    done = CliRunner().invoke(app, [*command, str(tmp_path / "why.json")], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    found = json.loads((tmp_path / "why.json").read_text(encoding="utf-8"))
    assert [one["id"] for one in found] == [tag["id"] for tag in tags[1]]
    for one in found:
        best = one["passages"][0]
        assert f"characters {best['start']:,} to {best['end']:,}" in done.output
        assert all(LONG[word["start"] : word["end"]] == word["text"] for word in one["words"])
        assert all(best["start"] <= word["start"] < word["end"] <= best["end"] for word in one["words"])
    done = CliRunner().invoke(app, [*command, str(tmp_path / "why.html")], catch_exceptions=False)
    assert "Passages that speak for the label" in (tmp_path / "why.html").read_text(encoding="utf-8")


def test_a_passage_is_judged_with_those_beside_it_that_are_like_it() -> None:
    """Three passages on one subject, whose label is in none of them alone, against one of another subject."""
    vectors = np.array([[1.0, 0, 0], [0.9, 0.436, 0], [0.9, -0.436, 0], [0, 0, 1.0], [0, 0.6, 0.8]])
    own = np.array([0.5, 0.4, 0.5, 0.55, 0.0])[:, None]
    found = evidence(vectors, own)[:, 0]
    assert own.argmax() == 3
    assert set(np.argsort(-found)[:3].tolist()) == {0, 1, 2}
    np.testing.assert_allclose(evidence(2 * vectors, own)[:, 0], found)  # lengths do not count
    assert evidence(vectors[:1], own[:1]) == own[:1]
    far = evidence(np.tile(vectors[:1], (6, 1)), np.array([[-np.inf], *5 * [[0.5]]]))[:, 0]
    np.testing.assert_allclose(far, 3 * [-np.inf] + 3 * [0.5])  # two passages away, and no further


def test_other_rankings_of_bags(cutting: XMCPipeline) -> None:
    near = cutting.predict(TEXTS, 3, search=SearchOptions(geometry="embeddings"))
    assert (near.ids >= 0).all()


def test_passages_that_do_not_fit(numbers_pipeline: XMCPipeline) -> None:
    tagger = XMCPipeline(numbers_pipeline.model, numbers_pipeline.index, passages=Passages(tokens=40))
    with pytest.raises(SettingsError, match="longer than the encoder reads"):
        tagger(LONG)


def test_calibrate_keeps_passages_only_if_they_help(
    cutting: XMCPipeline, numbers_folder: Path, tmp_path: Path
) -> None:
    XMCPipeline(cutting.model, cutting.index).save_pretrained(tmp_path)
    command = ["calibrate", str(tmp_path), "--dataset", str(numbers_folder), "--passages", "auto"]
    done = CliRunner().invoke(app, [*command, "--channels", "names"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    said = " ".join(done.output.split())
    assert "On validation texts" in said
    kept = "Passages are kept" in said
    assert kept == (XMCPipeline.from_pretrained(tmp_path).passages is not None)


def test_the_pooling_is_the_best_one_on_the_queries_that_choose() -> None:
    """The label of a text is in one of its passages alone, and another label is a little in all of them."""
    vectors = np.tile([[0.9, 0.0, 0.436]] + 3 * [[0.0, 0.5, 0.866]], (10, 1))
    bags = Bags(vectors, np.arange(0, 41, 4), Passages())
    labels = Dataset.from_dict({"uid": ["a", "b"], "text": ["one", "all"]})
    index = LabelIndex.build(np.eye(3)[:2], labels)
    for label, expected in ((0, {"lse", "max"}), (1, {"mean", "lse"})):
        best, tried = choose_pool(index, Held(bags, Positives.from_lists(10 * [[label]]), None), Preference())
        assert best.pool in expected
        assert max(one["P@1"] for one in tried) == 1
        assert min(one["P@1"] for one in tried) == 0
