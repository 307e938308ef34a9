"""The static tower: ten dense lines say the same, and the whole life of a model without a transformer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import normalize
from transformers import AutoModel

from hf_xmc import XMCDualEncoderModel
from hf_xmc.modeling.ngrams_xmc import Features, features, words_of
from hf_xmc.modeling.static_tower_xmc import StaticTower
from hf_xmc.retrieval.fingerprint import encoder_fingerprint, same_encoder

TEXTS = ["a red car is a red car", "the blue house", "", "!?", "redness of houses", "東京都 car"]
UNKNOWN = "zzz qqq"


def grown(model: XMCDualEncoderModel) -> XMCDualEncoderModel:
    assert model.static_tower is not None
    model.grow_static_tower(model.static_tower.features(TEXTS))
    return model


@given(st.lists(st.text(max_size=30), max_size=5), st.sampled_from([1, 7, 2**18, 2**31]), st.booleans())
def test_features_of_texts_do_not_depend_on_their_neighbours(texts: list[str], buckets: int, pairs: bool) -> None:
    ids, indptr = features(texts, buckets, pairs)
    assert len(indptr) == len(texts) + 1
    assert ((ids >= 0) & (ids < buckets)).all()
    for i, text in enumerate(texts):
        own = features([text], buckets, pairs)[0]
        assert own.tolist() == ids[indptr[i] : indptr[i + 1]].tolist()
        words = words_of(text)
        stems = sum(len(word) > 5 for word in words)
        assert len(own) == len(words) + stems + (max(len(words) - 1, 0) if pairs else 0)


def test_words_in_any_script() -> None:
    assert words_of("".join(chr(0xFEE0 + ord(c)) for c in "Full") + "\u3000wide") == ["full", "wide"]
    assert words_of("हिन्दी पाठ") == ["हिन्दी", "पाठ"]
    assert words_of("Straße_naïve e\u0301te") == ["straße", "naïve", "éte"]
    assert words_of("日本 2020年") == ["日", "本", "2020", "年"]
    assert words_of("\ud800 half") == ["half"]


@pytest.mark.parametrize("buckets", [2**10, 2**30])
def test_a_text_is_the_weighted_sum_of_its_features(buckets: int) -> None:
    tower = StaticTower(8, buckets)
    tower.grow(Features.of(TEXTS, buckets), Features.of(TEXTS[:2], buckets))
    row_of = {int(bucket): row for row, bucket in enumerate(tower.buckets)}
    held = [set(features([text], buckets)[0].tolist()) for text in TEXTS + TEXTS[:2]]
    for text in [*TEXTS, UNKNOWN, "a red UNKNOWN car"]:
        expected = torch.zeros(8)
        ids = features([text], buckets)[0].tolist()
        for feature in set(ids) & set(row_of):
            idf = max(np.log((len(held) + 1) / (1 + sum(feature in some for some in held))), 0.1)
            expected += idf * (1 + np.log(ids.count(feature))) * tower.table[row_of[feature]]
        torch.testing.assert_close(tower.encode([text])[0], normalize(expected, dim=0))


def test_what_gets_a_vector() -> None:
    tower, buckets = StaticTower(4, 2**18), 2**18
    tower.grow(Features.of(["common rare", "common"], buckets), least=2, always=Features.of(["label"], buckets))
    assert len(tower) == 2  # the word, and its stem; what `always` names must occur as well
    tower.grow(Features.of(["label"], buckets), least=2, always=Features.of(["label"], buckets))
    assert len(tower) == 3
    before, rows = tower.encode(["common"]), tower.buckets.tolist()
    tower.grow(Features.of(["common new words"], buckets))
    assert set(rows) < set(tower.buckets.tolist())
    assert torch.equal(tower.encode(["common"]), before)
    assert tower.buckets.tolist() == sorted(tower.buckets.tolist())


@pytest.mark.parametrize("joint", [True, False], ids=["joint", "alone"])
@pytest.mark.parametrize("load", [XMCDualEncoderModel, AutoModel])
def test_save_and_load(tiny_encoder: str, tmp_path: Path, joint: bool, load: type) -> None:
    settings = {"static_dim": 8, "static_weight": 0.25}
    model = grown(XMCDualEncoderModel.from_encoder(tiny_encoder if joint else None, seed=0, **settings))
    expected = model.encode_queries([*TEXTS, UNKNOWN])
    model.save_pretrained(tmp_path)
    found = load.from_pretrained(tmp_path)  # type: ignore[attr-defined]
    assert torch.equal(found.encode_queries([*TEXTS, UNKNOWN]), expected)
    assert not found.static_tower.table.requires_grad
    assert same_encoder(encoder_fingerprint(found), encoder_fingerprint(model))
    assert (found.query_encoder is None) == (not joint)
    assert expected.shape[1] == model.config.embedding_dim == 8 + 32 * joint


def test_a_score_is_the_weighted_mean_of_two_cosines(tiny_encoder: str) -> None:
    model = grown(XMCDualEncoderModel.from_encoder(tiny_encoder, seed=0, static_dim=8, static_weight=0.25))
    assert model.static_tower is not None
    queries, labels = ["a red car", "house"], ["red", "", "a blue car"]
    dense = [
        model.encode_tokens(model.tokenize(texts, "query"), "query", output="dense") for texts in (queries, labels)
    ]
    static = [model.static_tower.encode(texts) for texts in (queries, labels)]
    expected = 0.75 * dense[0] @ dense[1].T + 0.25 * static[0] @ static[1].T
    torch.testing.assert_close(model.encode_queries(queries) @ model.encode_labels(labels).T, expected)


def test_settings_that_are_not_possible(tiny_encoder: str) -> None:
    for settings, message in (
        ({"static_dim": 0}, "static_dim"),
        ({"static_dim": 4, "static_weight": 0.0}, "static_weight"),
        ({"static_dim": 4, "static_buckets": 2**32}, "static_buckets"),
        ({"static_dim": 4, "normalize": False}, "normalize"),
    ):
        with pytest.raises(ValueError, match=message):
            XMCDualEncoderModel.from_encoder(tiny_encoder, **settings)
    with pytest.raises(ValueError, match="static_dim"):
        XMCDualEncoderModel.from_encoder(None)
    with pytest.raises(ValueError, match="projection_dim"):
        XMCDualEncoderModel.from_encoder(None, static_dim=4, projection_dim=4)
    with pytest.raises(ValueError, match="features"):
        grown(XMCDualEncoderModel.from_encoder(None, static_dim=4)).encode_tokens([[1]], "query")
