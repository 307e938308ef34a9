"""Rerankers of any kind in the pipeline: given, kept, saved and loaded."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from hf_xmc import XMCPipeline
from hf_xmc.data.dataset import XMCDataset
from hf_xmc.errors import ModelFolderError, SettingsError
from hf_xmc.inference.fitting.confidence import fit_confidence
from hf_xmc.retrieval.rerank import (
    RERANKER,
    RERANKERS,
    CrossEncoderReranker,
    Reranker,
    load_reranker,
    register_reranker,
)

TEXT = "a red car is here"


class LongestLabel:
    """Prefers labels with a long text; `predict` is all that a pipeline needs."""

    def predict(self, pairs: list[tuple[str, str]]) -> Any:
        return [len(label) for _, label in pairs]


class Scaled(LongestLabel):
    """The same as a part of a trained folder."""

    kind: ClassVar[str] = "scaled"

    def __init__(self, scale: float) -> None:
        self.scale = scale

    def predict(self, pairs: list[tuple[str, str]]) -> Any:
        return [self.scale * length for length in super().predict(pairs)]

    def fingerprint(self) -> str:
        return str(self.scale)

    def save_pretrained(self, folder: str | os.PathLike[str], /) -> None:
        (Path(folder) / RERANKER).mkdir(exist_ok=True)
        (Path(folder) / RERANKER / "scale.json").write_text(json.dumps(self.scale))

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike[str], /, *, device: Any = None) -> Scaled:
        return cls(json.loads((Path(folder) / RERANKER / "scale.json").read_text()))


@pytest.fixture
def registered() -> Iterator[type[Reranker]]:
    yield register_reranker(Scaled)
    del RERANKERS["scaled"]


def test_any_scorer_of_pairs_reranks(plain: XMCPipeline) -> None:
    plain.reranker = LongestLabel()
    found = plain(TEXT, k=12, rerank=12)
    assert [tag["score"] for tag in found] == sorted((len(tag["label"]) for tag in found), reverse=True)


def test_a_scorer_that_cannot_be_loaded_again_is_not_saved(plain: XMCPipeline, tmp_path: Path) -> None:
    plain.reranker = LongestLabel()
    with pytest.raises(SettingsError, match="a LongestLabel, cannot be saved"):
        plain.save_pretrained(tmp_path)


def test_a_reranker_of_another_kind_is_saved_and_loaded(
    registered: type[Reranker], plain: XMCPipeline, tmp_path: Path
) -> None:
    plain.reranker = Scaled(0.5)
    plain.save_pretrained(tmp_path)
    again = XMCPipeline.from_pretrained(tmp_path)
    assert isinstance(again.reranker, Scaled)
    assert again(TEXT, rerank=True) == plain(TEXT, rerank=True)


def test_an_unknown_kind_of_reranker_is_said(plain: XMCPipeline, tmp_path: Path) -> None:
    register_reranker(Scaled)
    plain.reranker = Scaled(0.5)
    plain.save_pretrained(tmp_path)
    del RERANKERS["scaled"]
    with pytest.raises(
        ModelFolderError, match=r"'scaled', which is not known; known are cross-encoder, late-interaction; import"
    ):
        load_reranker(tmp_path)


def test_a_folder_of_version_0_1_0_has_a_cross_encoder(tiny_encoder: str, tmp_path: Path) -> None:
    made = CrossEncoderReranker.from_encoder(tiny_encoder, max_length=32)
    made.save_pretrained(tmp_path)  # as 0.1.0 did, without reranker.json
    loaded = load_reranker(tmp_path)
    assert isinstance(loaded, CrossEncoderReranker)
    assert loaded.fingerprint() == made.fingerprint()
    assert CrossEncoderReranker.from_encoder(tiny_encoder, max_length=16).fingerprint() != made.fingerprint()


def test_fitting_a_confidence_keeps_the_reranker(numbers_pipeline: XMCPipeline, numbers_data: XMCDataset) -> None:
    tagger = XMCPipeline(numbers_pipeline.model, numbers_pipeline.index, reranker=LongestLabel())
    fitted = fit_confidence(tagger, numbers_data, level=0.8, memory=False).pipeline
    assert fitted.reranker is tagger.reranker
    # A reranked search is another ranking: its fingerprint differs, and it has no probabilities.
    assert fitted.confidence_for() is not None
    assert fitted.confidence_for(rerank=True) is None
    assert "probability" not in fitted(TEXT, rerank=True)[0]
