from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset
from transformers import AutoTokenizer

from hf_xmc import load_xmc_dataset
from hf_xmc.data import tokenized
from hf_xmc.data.collator import QueryCollator, unpack
from hf_xmc.data.tokenized import TokenizedQueries, TokenTable, tokenizer_key
from tests.data.made import text, xc_pairs


class Letters:
    """A tokenizer of letters that counts its calls."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def __call__(self, texts: Sequence[str]) -> list[list[int]]:
        self.texts += texts
        return [[ord(letter) for letter in text] for text in texts]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return tmp_path / "cache"


def table(texts: list[str]) -> Dataset:
    return Dataset.from_dict({"text": texts})


@pytest.mark.parametrize("chunk", [1, 2, 3, 1000])
def test_rows_are_the_tokens_of_their_text(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenized, "CHUNK", chunk)
    texts = ["abc", "", "b", "abc", "b", "zz", "", "abc"]
    letters = Letters()
    found = TokenTable.build(table(texts), letters)
    assert ["".join(map(chr, row)) for row in found] == texts
    assert found.lengths.tolist() == [len(t) for t in texts]
    assert letters.texts == ["abc", "", "b", "zz"]
    assert found.num_texts == 4


def test_tokenised_once_and_found_again() -> None:
    first, second, third, fourth = Letters(), Letters(), Letters(), Letters()
    texts = table(["one", "two"])
    a = TokenTable.build(texts, first, key="k")
    b = TokenTable.build(texts, second, key="k")
    TokenTable.build(texts, third, key="another")
    TokenTable.build(table(["one", "two!"]), fourth, key="k")
    assert len(first.texts) == len(third.texts) == len(fourth.texts) == 2
    assert second.texts == []
    assert [row.tolist() for row in a] == [row.tolist() for row in b]


def test_without_a_key_nothing_stays(cache: Path) -> None:
    found = TokenTable.build(table(["one"]), Letters())
    assert found.folder is not None
    folder = Path(found.folder.name)
    assert folder.is_dir()
    assert "".join(map(chr, found[0])) == "one"
    del found
    assert not folder.exists()
    assert not cache.exists()


def test_tables_are_mapped_and_empty_ones_work() -> None:
    found = TokenTable.build(table(["one", "two"]), Letters(), key="k")
    assert isinstance(found.lengths, np.memmap)
    assert not found[0].flags.owndata
    assert not found[0].flags.writeable
    assert len(TokenTable.build(table([]).cast_column("text", __import__("datasets").Value("string")), Letters())) == 0


def test_a_selection_is_its_own_table() -> None:
    part = table(["a", "b", "c", "d"]).select([3, 1])
    assert ["".join(map(chr, row)) for row in TokenTable.build(part, Letters(), key="k")] == ["d", "b"]


def test_the_key_follows_tokenizer_prefix_and_length(tiny_encoder: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_encoder)
    key = tokenizer_key(tokenizer, "", 16)
    tokenizer(["a text"], truncation=True, max_length=5, padding=True)
    assert tokenizer_key(tokenizer, "", 16) == key, "a call leaves no trace"
    assert tokenizer_key(AutoTokenizer.from_pretrained(tiny_encoder), "", 16) == key
    assert tokenizer_key(tokenizer, "query: ", 16) != key
    assert tokenizer_key(tokenizer, "", 17) != key
    tokenizer.add_tokens(["xmc"])
    assert tokenizer_key(tokenizer, "", 16) != key
    assert tokenizer_key(object(), "", 16) is None


def test_weights_reach_the_batch(tmp_path: Path) -> None:
    xc_pairs(tmp_path)
    text(tmp_path / "tst_X_Y.txt", ["2 3", "2:3.0 0:0.5", "1:2.0"])
    data = load_xmc_dataset(tmp_path)
    split = TokenizedQueries(data.queries["test"], Letters())
    positives = unpack(QueryCollator()([split[1], split[0]]), "positives")
    assert positives is not None
    assert positives.indices.tolist() == [1, 0, 2]
    assert positives.weights.tolist() == [2.0, 0.5, 3.0]


def test_the_real_tokenizer_gives_the_same_ids(tiny_encoder: str, toy: Path) -> None:
    from hf_xmc import XMCDualEncoderModel

    model = XMCDualEncoderModel.from_encoder(tiny_encoder)
    queries = load_xmc_dataset(toy).queries["train"]
    found = TokenizedQueries(queries, lambda texts: model.tokenize(texts, "query"), key="k")
    assert [row.tolist() for row in found.tokens] == model.tokenize(queries["text"][:], "query")
    assert pickle.dumps(found.positives)
