"""Texts of megabytes: cut before they are tokenised, with the tokens of the whole texts."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from hf_xmc import LabelIndex, XMCDualEncoderModel, XMCPipeline, load_xmc_dataset
from hf_xmc.errors import SettingsError
from hf_xmc.inference.given_texts import MOST_CHARACTERS
from hf_xmc.inference.numpy_model import NumpyModel
from hf_xmc.modeling.long_texts_xmc import CHARACTERS, token_ids
from hf_xmc.modeling.tokens_xmc import tokenize

LENGTH = 16
ROOM = CHARACTERS * LENGTH
TEXTS = [
    "a red car " * 1000,
    "a red car. " * (ROOM // 11) + "greenhouse",  # the cut falls into a word
    " " * 5 * ROOM + "a red car",  # more than what is read at first
    "x" * 5 * ROOM + " a red car",  # one token, far longer than a part
    "東京" * ROOM,  # without spaces
    ("naïve " * 3 + "\n\n") * ROOM,
    "red",
    "",
]


@pytest.fixture(scope="module")
def model(tiny_encoder: str) -> XMCDualEncoderModel:
    return XMCDualEncoderModel.from_encoder(tiny_encoder, query_prefix="query: ", max_query_length=LENGTH)


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_tokens_of_the_whole_texts(model: XMCDualEncoderModel, side: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = model.tokenizer
    assert tokenizer is not None
    monkeypatch.setattr(tokenizer, "truncation_side", side)
    whole = tokenizer([f"query: {text}" for text in TEXTS], truncation=True, max_length=LENGTH)["input_ids"]
    assert tokenize(tokenizer, TEXTS, model.config, "query") == whole


def test_byte_pairs_without_spaces() -> None:
    pieces = Tokenizer(
        models.BPE({letter: i for i, letter in enumerate(["a", "b", "ab", "abab"])}, [("a", "b"), ("ab", "ab")])
    )
    pieces.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=pieces)
    texts = ["ab" * 2000, "ab" * 2000 + "b", "a" + "ab" * 2000]

    def read(texts: list[str]) -> list[list[int]]:
        return tokenizer(texts, truncation=True, max_length=8)["input_ids"]

    assert token_ids(texts, 8, read) == read(texts)


def test_the_numpy_model_reads_the_same(model: XMCDualEncoderModel, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    quick = NumpyModel.of(tmp_path)
    assert quick is not None
    assert quick.tokenize(TEXTS) == [[*ids] for ids in model.tokenize(TEXTS, "query")]


def test_little_of_ten_megabytes_is_tokenised(model: XMCDualEncoderModel) -> None:
    seen: list[int] = []

    def read(texts: list[str]) -> list[list[int]]:
        seen.extend(len(text) for text in texts)
        return [[0] * LENGTH for _ in texts]

    token_ids(["a red car " * 2**20], LENGTH, read)
    assert len(seen) == 1
    assert ROOM - 10 <= seen[0] <= ROOM


def test_the_pipeline_reads_a_million_characters_and_refuses_what_is_no_text(
    model: XMCDualEncoderModel, toy: Path, caplog: pytest.LogCaptureFixture
) -> None:
    labels = load_xmc_dataset(toy).labels
    pipeline = XMCPipeline(model, LabelIndex.build(model.encode_labels(labels["text"][:]), labels))
    with caplog.at_level(logging.WARNING, "hf_xmc"):
        long = pipeline("a red car " * 2**20, k=3)
    assert f"the first {MOST_CHARACTERS} are read" in caplog.text
    assert long == pipeline("a red car " * 100, k=3)
    for texts, said in (
        ([None], "text 0 is of type NoneType; expected a string"),
        (["a", 3.5], "text 1 is of type float"),
        ([["a"]], "text 0 is of type list"),
        (["caf\udce9"], "text 0 holds half of a character"),
    ):
        with pytest.raises(SettingsError, match=said):
            pipeline(texts)  # type: ignore[arg-type]  # as a mistake would be
        with pytest.raises(SettingsError, match=said):
            pipeline.predict(texts)  # type: ignore[arg-type]  # as above
    with pytest.raises(SettingsError, match="texts is one string; expected a list"):
        pipeline.predict("a red car")
    for k in (0, -5):
        with pytest.raises(SettingsError, match=f"k is {k}; it must be at least 1"):
            pipeline("a red car", k=k)
        with pytest.raises(SettingsError, match=f"k is {k}; it must be at least 1"):
            pipeline.predict(["a red car"], k)
