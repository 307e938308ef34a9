"""A pipeline whose channels are combined by a learned fusion: saving, filters, live labels, explanations."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from hf_xmc import XMCPipeline, load_xmc_dataset
from hf_xmc.data.dataset import XMCDataset
from hf_xmc.errors import SettingsError
from hf_xmc.hub.folder import files_to_push
from hf_xmc.inference.explain.explain import explain
from hf_xmc.inference.explain.page import render_explanations
from hf_xmc.inference.fitting.confidence import Fit, fit_confidence
from hf_xmc.inference.reindexing import change_labels
from hf_xmc.retrieval.channels import LabelNames, QueryMemory
from hf_xmc.retrieval.learned_fusion import FUSION

TEXT = "a red car is here"


@pytest.fixture(scope="module")
def colours(numbers_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> XMCDataset:
    """The same texts, over labels that are called by their colour or thing, but for three numbers."""
    folder = tmp_path_factory.mktemp("colours")
    for path in numbers_folder.glob("*.jsonl"):
        (folder / path.name).write_bytes(path.read_bytes())
    labels = [json.loads(line) for line in (folder / "lbl.jsonl").read_text().splitlines()]
    named = [{**label, "text": label["uid"] if i % 4 else label["text"]} for i, label in enumerate(labels)]
    (folder / "lbl.jsonl").write_text("\n".join(map(json.dumps, named)) + "\n")
    return load_xmc_dataset(folder)


@pytest.fixture(scope="module")
def fit(numbers_pipeline: XMCPipeline, colours: XMCDataset) -> Fit:
    tagger = XMCPipeline.build(numbers_pipeline.model, colours.labels)
    return fit_confidence(tagger, colours, level=0.8, channels=["memory", "names"], fusion="learned", prefer="tail")


@pytest.fixture
def tagger(fit: Fit, colours: XMCDataset) -> XMCPipeline:
    """Fused, calibrated, and free to be changed."""
    given = fit.pipeline
    return XMCPipeline(
        given.model,
        XMCPipeline.build(given.model, colours.labels).index,
        confidence=given.confidence,
        channels=given.channels,
        fusion=given.fusion,
    )


def test_the_summary_says_what_each_channel_brought(fit: Fit) -> None:
    rows = fit.summary["channels"]
    assert [row["name"] for row in rows] == ["memory", "names"]
    kept = [row for row in rows if row["kept"]]
    assert kept
    for row in rows:
        assert {"P@1", "P@5", "nDCG@5", "PSP@5"} <= {*row["with"]} & {*row["without"]}
        assert row["seconds"] >= 0
        assert row["bytes"] > 0
    assert kept[0]["with"] == fit.summary["metrics"]["with"]
    assert fit.summary["metrics"]["with"]["nDCG@5"] > fit.summary["metrics"]["without"]["nDCG@5"] + 0.1
    assert fit.summary["fusion"]["prefer"] == fit.summary["prefer"] == "tail"
    json.dumps(fit.summary)


def test_a_fused_tagger_is_saved_loaded_and_pushed(fit: Fit, colours: XMCDataset, tmp_path: Path) -> None:
    fit.pipeline.save_pretrained(tmp_path)
    assert {FUSION, "fusion.safetensors"} <= {*files_to_push(tmp_path)}
    again = XMCPipeline.from_pretrained(tmp_path)
    texts = colours.queries["test"]["text"][:40]
    one, other = fit.pipeline.predict(texts, 12), again.predict(texts, 12)
    assert np.array_equal(one.ids, other.ids)
    assert np.array_equal(one.scores, other.scores)
    assert "probability" in again(TEXT)[0]
    assert "linear model" in (tmp_path / "README.md").read_text()
    before = again(TEXT, k=3)
    change_labels(tmp_path, add=[{"text": "is here", "uid": "place"}])
    changed = XMCPipeline.from_pretrained(tmp_path)
    assert changed.fusion is not None
    assert "place" in {tag["uid"] for tag in changed(TEXT, k=13)}
    assert {tag["uid"] for tag in before} & {tag["uid"] for tag in changed(TEXT, k=3)}


def test_scores_do_not_depend_on_filters_or_k(tagger: XMCPipeline) -> None:
    score = {tag["id"]: tag["score"] for tag in tagger(TEXT, k=50)}
    assert set(score) == set(range(12))
    assert tagger(TEXT, k=2) == tagger(TEXT, k=50)[:2]
    some = tagger(TEXT, k=50, allowed=[0, 3, 8])
    assert {tag["id"]: tag["score"] for tag in some} == {id_: score[id_] for id_ in (0, 3, 8)}
    assert [tag["id"] for tag in tagger(TEXT, k=50, where={"uid": ["red", "car"]})] == sorted(
        (0, tagger.index.labels["uid"].index("car")), key=lambda id_: -score[id_]
    )
    tagger.remove_labels(["red"])
    assert "red" not in {tag["uid"] for tag in tagger(TEXT, k=50)}
    assert len(tagger(TEXT, k=50)) == 11
    assert len(tagger("?", k=3)) == 3  # a text without a word
    assert tagger.predict([], 3).ids.shape == (0, 3)


def test_other_channels_than_those_learned_with_are_summed(tagger: XMCPipeline) -> None:
    names = [channel.name for channel in tagger.channels]
    assert tagger.confidence_for() is not None
    for options in ({"channels": names[:-1]}, {"channels": []}, {"geometry": "embeddings"}):
        assert tagger.confidence_for(**options) is None
        plain = XMCPipeline(tagger.model, tagger.index, channels=tagger.channels)
        assert tagger(TEXT, **options) == plain(TEXT, **options)
    fused = tagger.ranking_fingerprint()
    tagger.fusion = None
    assert tagger.ranking_fingerprint() != fused
    assert tagger.confidence_for() is None


def test_a_new_label_is_found_by_its_name_at_once(numbers_pipeline: XMCPipeline, colours: XMCDataset) -> None:
    tagger = XMCPipeline.build(numbers_pipeline.model, colours.labels)
    names = LabelNames.of(tagger.index.labels)
    names.weight = 0.9
    tagger.channels.append(names)
    tagger.add_labels([{"uid": "zebra", "text": "zebra crossing"}])
    assert tagger("two zebra crossings", k=1)[0]["uid"] == "zebra"
    tagger.update_labels({"zebra": "ford"})
    assert tagger("the ford of a river", k=1)[0]["uid"] == "zebra"
    tagger.remove_labels(["zebra"])
    assert "zebra" not in {tag["uid"] for tag in tagger("the ford of a river", k=50)}


def test_a_tag_says_which_channels_found_it_only_when_asked(tagger: XMCPipeline) -> None:
    assert "channels" not in tagger(TEXT)[0]
    for tag in tagger(TEXT, k=12, explain="channels"):
        assert "explanation" not in tag
        said = tag["channels"]
        assert set(said) == {"labels", *(channel.name for channel in tagger.channels)}
        if "names" in said and "words" in said["names"]:
            assert said["names"]["words"] == [tag["label"]]
    (one,) = explain(tagger, TEXT, k=1)
    assert one.to_dict()["channels"] == tagger(TEXT, k=1, explain="channels")[0]["channels"]
    assert "Found by" in render_explanations([one])
    summed = XMCPipeline(tagger.model, tagger.index, channels=[LabelNames.of(tagger.index.labels)])
    summed.channels[0].weight = 0.5
    best = summed(TEXT, k=1, explain="channels")[0]["channels"]
    floor = summed.predict([TEXT], 12, channels=[]).scores.min()
    total = best["labels"]["contribution"] + best["names"]["contribution"] + 0.5 * floor
    assert total == pytest.approx(summed(TEXT, k=1)[0]["score"], abs=1e-5)


def test_auto_keeps_the_sum_where_nothing_is_learned(numbers_pipeline: XMCPipeline, numbers_data: XMCDataset) -> None:
    with pytest.raises(SettingsError, match="expected one of auto, weights, learned"):
        fit_confidence(numbers_pipeline, numbers_data, fusion="both")
    with pytest.raises(SettingsError, match="expected one of balanced, head, tail"):
        fit_confidence(numbers_pipeline, numbers_data, prefer="rare")
    found = fit_confidence(numbers_pipeline, numbers_data, level=0.8, channels=["names"])
    assert found.pipeline.channels == []  # labels are called by numbers: their names are in no text
    assert found.pipeline.fusion is None
    assert not any(isinstance(channel, QueryMemory) for channel in found.pipeline.channels)
