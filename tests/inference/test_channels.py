"""A third ranking channel takes one file and one line: this file, and `CHANNELS.append`."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from hf_xmc import TopK, XMCPipeline
from hf_xmc.data.dataset import XMCDataset
from hf_xmc.errors import SettingsError
from hf_xmc.hub.folder import files_to_push
from hf_xmc.inference.fitting.confidence import fit_confidence
from hf_xmc.retrieval.channels import CHANNELS, FusedChannel, QueryMemory, TrainQueries
from hf_xmc.retrieval.confidence import Confidence
from hf_xmc.retrieval.fusion import fuse_channels

TEXT = "a red car is here"


class UidChannel:
    """Labels whose uid is a word of the text."""

    name: ClassVar[str] = "uids"
    files: ClassVar[tuple[str, ...]] = ("uids.json",)
    complete: ClassVar[bool] = True

    def __init__(self, uids: Sequence[str], weight: float = 0.5) -> None:
        self.uids, self.weight = list(uids), weight

    @classmethod
    def fit(cls, train: TrainQueries) -> UidChannel:
        assert len(train.texts) == len(train.embeddings) == len(train.positives)
        return cls(train.labels["uid"][:])

    def rank(self, texts: Sequence[str] | None, embeddings: Any, k: int, allowed: np.ndarray | None = None) -> TopK:
        if texts is None:
            raise SettingsError("The channel uids reads the texts of the queries")
        found = [[i for i, uid in enumerate(self.uids) if uid in text.split()] for text in texts]
        topk = TopK.from_lists(found)
        return TopK(topk.ids, np.where(topk.ids < 0, -np.inf, 1.0).astype(np.float32))

    def versions(self, texts: Sequence[str] | None, embeddings: Any) -> Iterator[tuple[UidChannel, TopK]]:
        yield self, self.rank(texts, embeddings, 100)

    def describe(self) -> dict[str, Any]:
        return {"weight": self.weight}

    def fingerprint(self) -> str:
        return f"{len(self.uids)} {self.weight}"

    def save_pretrained(self, folder: str | os.PathLike[str], /) -> None:
        (Path(folder) / "uids.json").write_text(json.dumps({"uids": self.uids, "weight": self.weight}))

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike[str], /) -> UidChannel:
        return cls(**json.loads((Path(folder) / "uids.json").read_text()))


@pytest.fixture
def registered() -> Iterator[type[FusedChannel]]:
    CHANNELS.append(UidChannel)
    yield UidChannel
    CHANNELS.remove(UidChannel)


def test_a_third_channel_is_fitted_saved_and_loaded(
    registered: type[FusedChannel], numbers_pipeline: XMCPipeline, numbers_data: XMCDataset, tmp_path: Path
) -> None:
    fitted = fit_confidence(numbers_pipeline, numbers_data, level=0.8, channels=["memory", "uids"], fusion="weights")
    memory, uids = fitted.pipeline.channels
    assert isinstance(memory, QueryMemory)
    assert isinstance(uids, registered)
    assert memory.weight > 0
    assert uids.weight > 0
    assert memory.weight + uids.weight < 1
    assert [(row["name"], row["kept"]) for row in fitted.summary["channels"]] == [("memory", True), ("uids", True)]
    assert fitted.summary["tried"]["uids"][0]["weight"] == 0
    alone = fit_confidence(numbers_pipeline, numbers_data, level=0.8, channels=["memory"], fusion="weights")
    assert fitted.summary["metrics"]["with"]["nDCG@5"] > alone.summary["metrics"]["with"]["nDCG@5"]

    fitted.pipeline.save_pretrained(tmp_path)
    assert (tmp_path / "uids.json").is_file()
    assert "uids.json" in files_to_push(tmp_path)
    loaded = XMCPipeline.from_pretrained(tmp_path)
    texts = numbers_data.queries["test"]["text"][:]
    one, other = fitted.pipeline.predict(texts, 12), loaded.predict(texts, 12)
    assert np.array_equal(one.ids, other.ids)
    assert np.array_equal(one.scores, other.scores)
    assert "probability" in loaded(TEXT)[0]
    assert loaded(TEXT, threshold="f1") == fitted.pipeline(TEXT, threshold="f1")
    assert loaded.confidence.settings["channels"] == ["memory", "uids"]

    # Fitted again without the channel: its file goes with it.
    alone.save(tmp_path)
    assert not (tmp_path / "uids.json").exists()
    again = XMCPipeline.from_pretrained(tmp_path)
    assert [channel.name for channel in again.channels] == ["memory"]


def test_the_confidence_belongs_to_the_ranking_of_all_channels(
    registered: type[FusedChannel], numbers_pipeline: XMCPipeline, numbers_data: XMCDataset
) -> None:
    given = {"channels": ["memory", "uids"], "fusion": "weights"}
    tagger = fit_confidence(numbers_pipeline, numbers_data, level=0.8, **given).pipeline
    fingerprint = tagger.ranking_fingerprint()
    assert tagger.confidence_for() is not None
    for options in ({"channels": ["memory"]}, {"channels": []}, {"memory": False}, {"geometry": "embeddings"}):
        assert tagger.confidence_for(**options) is None
        assert "probability" not in tagger(TEXT, **options)[0]
    assert tagger.confidence_for(channels=["memory", "uids"], allowed=[1, 2]) is not None
    uids = tagger.channels[1]
    uids.weight /= 2
    assert tagger.confidence_for() is None
    assert tagger.ranking_fingerprint() != fingerprint
    uids.weight *= 2
    tagger.memory.embeddings = -np.asarray(tagger.memory.embeddings)
    del tagger.memory.content
    assert tagger.confidence_for() is None
    with pytest.raises(SettingsError, match="no channel 'words'; the pipeline has memory, uids"):
        tagger(TEXT, channels=["words"])


def test_no_channel_predicts_what_is_removed_or_not_allowed(
    registered: type[FusedChannel], numbers_pipeline: XMCPipeline, numbers_data: XMCDataset
) -> None:
    channel = UidChannel(numbers_data.labels["uid"][:], weight=0.9)
    tagger = XMCPipeline.build(numbers_pipeline.model, numbers_data.labels)
    tagger.channels.append(channel)
    assert {tag["uid"] for tag in tagger(TEXT, k=2)} == {"red", "car"}
    assert "red" not in {tag["uid"] for tag in tagger(TEXT, k=12, forbidden=[0])}
    allowed = [1, 2, 7]
    assert {tag["id"] for tag in tagger(TEXT, k=12, allowed=allowed)} == set(allowed)
    tagger.remove_labels(["red"])
    left = tagger(TEXT, k=12)
    assert len(left) == 11
    assert left[0]["uid"] == "car"
    with pytest.raises(SettingsError, match="reads the texts"):
        tagger.rank(tagger.model.encode_queries([TEXT]), 3)


def test_a_confidence_of_version_0_1_0_is_matched_by_its_settings(fitted: XMCPipeline, tmp_path: Path) -> None:
    assert "ranking" not in fitted.confidence.settings
    fitted.save_pretrained(tmp_path)
    again = XMCPipeline.from_pretrained(tmp_path)
    assert "probability" in again(TEXT)[0]
    again.channels.append(UidChannel(again.index.labels["uid"][:], weight=0.1))
    assert "probability" not in again(TEXT)[0]
    assert "probability" in again(TEXT, channels=["memory"])[0]


def test_the_fingerprint_survives_live_labels_but_not_another_catalogue(
    numbers_pipeline: XMCPipeline, numbers_data: XMCDataset
) -> None:
    tagger = fit_confidence(numbers_pipeline, numbers_data, level=0.8).pipeline
    other = XMCPipeline.build(tagger.model, numbers_data.labels.select(range(11, -1, -1)))
    other.channels, other.fusion, other.confidence = tagger.channels, tagger.fusion, tagger.confidence
    assert other.confidence_for() is None
    assert isinstance(tagger.confidence, Confidence)
    changed = XMCPipeline(tagger.model, XMCPipeline.build(tagger.model, numbers_data.labels).index)
    changed.channels, changed.fusion, changed.confidence = tagger.channels, tagger.fusion, tagger.confidence
    changed.add_labels(["number 99"])
    changed.update_labels({"red": "number 100"})
    changed.remove_labels(["blue"])
    assert changed.confidence_for() is not None


def test_weights_beyond_one_are_refused() -> None:
    labels = TopK(np.array([[0, 1]]), np.array([[0.8, 0.6]]))
    channels = [UidChannel(["a"], 0.7), UidChannel(["b"], 0.6)]
    with pytest.raises(SettingsError, match=r"sum to 1\.3 \(uids 0\.7, uids 0\.6\)"):
        fuse_channels(labels, channels, ["a"], np.zeros((1, 2)), 2)
