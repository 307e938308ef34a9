"""Sparse linear classifiers over exact words."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset

from hf_xmc import Positives, TopK
from hf_xmc.errors import ModelFolderError, SettingsError
from hf_xmc.retrieval.channels import LexicalLabels, TrainQueries
from hf_xmc.retrieval.channels.lexical import ARRAYS, LEXICAL, RAREST, vocabulary
from hf_xmc.retrieval.words import Stems

LABELS = 12


def made(number: int, seed: int = 0) -> tuple[list[str], Positives]:
    """Texts of common words and one rare word for each label."""
    rng = np.random.default_rng(seed)
    truth = [sorted({*rng.choice(LABELS - 1, 2).tolist()}) for _ in range(number)]
    common = [[f"common{i}" for i in rng.choice(20, 6)] for _ in range(number)]
    texts = [" ".join([*words, *(f"rare{i}" for i in its)]) for words, its in zip(common, truth, strict=True)]
    return texts, Positives.from_lists(truth)


@pytest.fixture(scope="module")
def channel() -> LexicalLabels:
    texts, truth = made(300)
    labels = Dataset.from_dict({"uid": [f"u{i}" for i in range(LABELS)], "text": ["x"] * LABELS})
    asked: list[int] = []

    def search(embeddings: np.ndarray, k: int) -> TopK:
        asked.append(len(embeddings))
        ids = np.random.default_rng(len(asked)).permuted(np.tile(np.arange(LABELS), (len(embeddings), 1)), axis=1)
        return TopK(ids[:, :k], np.zeros((len(embeddings), k), np.float32))

    fitted = LexicalLabels.fit(TrainQueries(texts, np.zeros((300, 2)), truth, labels, search=search))
    assert sum(asked) == 300
    return fitted


def test_words_say_what_a_text_is_about(channel: LexicalLabels) -> None:
    texts, truth = made(60, seed=1)
    found = channel.rank(texts, None, 2)
    for row in range(60):
        its = truth.row(row).tolist()
        assert set(found.ids[row, : len(its)].tolist()) == set(its)
    assert LABELS - 1 not in found.ids  # no training text has it
    best, worst = found.scores[:, 0], np.where(found.ids >= 0, found.scores, 1).min(axis=1)
    assert ((worst > 0) & (worst < best) & (best < 1)).all()


def test_texts_without_a_known_word_find_nothing(channel: LexicalLabels) -> None:
    found = channel.rank(["", "zzz"], None, 5)
    assert (found.ids == -1).all()
    assert channel.rank([], None, 5).ids.shape[0] == 0
    with pytest.raises(SettingsError, match="reads the texts"):
        channel.rank(None, np.zeros((1, 2)), 5)


def test_words_are_counted_by_text() -> None:
    stems = Stems()
    words, counts = vocabulary(stems, ["cars car boat", "a car", "a plane"])
    assert dict(zip(words.tolist(), counts.tolist(), strict=True)) == {stems.number("car"): 2, stems.number("a"): 2}
    assert RAREST == 2


def test_save_and_load(channel: LexicalLabels, tmp_path: Path) -> None:
    texts, _ = made(20, seed=2)
    channel.save_pretrained(tmp_path)
    again = LexicalLabels.from_pretrained(tmp_path)
    one, other = channel.rank(texts, None, 5), again.rank(texts, None, 5)
    assert np.array_equal(one.ids, other.ids)
    assert np.array_equal(one.scores, other.scores)
    assert again.fingerprint() == channel.fingerprint()
    assert again.describe() == channel.describe()
    about = json.loads((tmp_path / LEXICAL).read_text())
    (tmp_path / LEXICAL).write_text(json.dumps({**about, "num_labels": 3}))
    with pytest.raises(ModelFolderError, match=r"the classifiers cannot be read .*hf-xmc calibrate"):
        LexicalLabels.from_pretrained(tmp_path)
    (tmp_path / ARRAYS).unlink()
    with pytest.raises(ModelFolderError, match=r"no lexical/lexical.safetensors"):
        LexicalLabels.from_pretrained(tmp_path)
