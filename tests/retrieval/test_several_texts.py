"""Labels with several texts, and the encoder that embeddings must come from."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset

from hf_xmc import LabelIndex, TopK, XMCDualEncoderModel
from hf_xmc.retrieval.catalogue import all_texts
from hf_xmc.retrieval.fingerprint import encoder_fingerprint, same_encoder
from tests.agree import assert_same_ranking

NAMES = [["car", "auto", "motor car"], ["boat"], ["train", "railway"]]
EXACT = ("flat", "hnsw", "ivf-flat")  # exact at this size


def catalogue() -> Dataset:
    columns = {"uid": ["a", "b", "c"], "text": [names[0] for names in NAMES], "texts": [n[1:] for n in NAMES]}
    return Dataset.from_dict(columns)


@pytest.fixture
def rows() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(6, 8)).astype(np.float32)


@pytest.mark.parametrize("factory", EXACT)
def test_a_label_scores_as_its_best_text_or_as_their_mean(factory: str, rows: np.ndarray, tmp_path: Path) -> None:
    ids, texts = all_texts(catalogue())
    assert texts == ["car", "auto", "motor car", "boat", "train", "railway"]
    queries = np.random.default_rng(1).normal(size=(20, 8)).astype(np.float32)
    scores = queries @ rows.T
    for name, combine in (("best", np.max), ("mean", np.mean)):
        index = LabelIndex.build(rows, catalogue(), factory=factory, label_ids=ids, texts=name)
        index.save_pretrained(tmp_path)
        expected = np.stack([combine(scores[:, ids == i], axis=1) for i in range(3)], 1)
        for one in (index, LabelIndex.from_pretrained(tmp_path)):
            topk = one.search(queries, 4)
            ranked = TopK(np.tile(np.arange(3), (20, 1)), expected)
            assert_same_ranking(topk.first(3), ranked, 1e-4)
            assert (topk.ids[:, 3] == -1).all()


def test_k_distinct_labels_come_back_however_many_texts_one_has() -> None:
    rng = np.random.default_rng(0)
    counts = np.array([200, *[1] * 99])
    ids = np.repeat(np.arange(100), counts)
    rows = rng.normal(size=(len(ids), 8)).astype(np.float32)
    rows[:200, 0] = 50  # every text of label 0 comes before any other
    index = LabelIndex.build(rows, [str(i) for i in range(100)], label_ids=ids)
    found = index.search(np.eye(8)[:1], 20, forbidden=[5]).ids[0]
    assert (found[0], len(set(found.tolist())), 5 in found) == (0, 20, False)


@pytest.mark.parametrize("factory", EXACT)
def test_texts_are_replaced_and_removed_together(factory: str, rows: np.ndarray) -> None:
    ids, _ = all_texts(catalogue())
    index = LabelIndex.build(rows, catalogue(), factory=factory, label_ids=ids)
    basis = 9 * np.eye(8, dtype=np.float32)
    index.update([0, 0], basis[:2], ["wagon", "cart"])
    assert index.labels[0] == {"uid": "a", "text": "wagon", "texts": ["cart"]}
    assert index.labels[2]["texts"] == ["railway"]
    topk = index.search(basis[:2], 1)
    assert (topk.ids.ravel().tolist(), topk.scores.ravel().tolist()) == ([0, 0], [81, 81])
    assert index.search(rows[:3], 3).scores.max() < (rows[:3] ** 2).sum(1).max() + 30  # the old vectors are gone
    new = index.add(basis[[2, 3, 4]], ["plane", "ship"], label_ids=[0, 1, 0])
    assert index.search(basis[2:5], 1).ids.ravel().tolist() == [new[0], new[1], new[0]]
    index.remove([new[0]])
    assert not (index.search(basis[2:5], 4).ids == new[0]).any()


def test_label_ids_that_do_not_fit_are_refused(rows: np.ndarray) -> None:
    for ids, message in (
        ([0, 0, 0, 1, 2], "6 embeddings and 5 label_ids"),
        ([0, 0, 0, 1, 1, 1], "row 2 has no embedding"),
        ([0, 0, 0, 1, 2, 3], "names row 3, but there are 3 labels"),
    ):
        with pytest.raises(ValueError, match=message):
            LabelIndex.build(rows, catalogue(), label_ids=ids)
    with pytest.raises(ValueError, match="expected one of best, mean"):
        LabelIndex.build(rows, catalogue(), label_ids=[0, 0, 0, 1, 2, 2], texts="worst")
    index = LabelIndex.build(rows[:3], catalogue())
    with pytest.raises(KeyError, match="3 is not in the index"):
        index.update([3], rows[:1])
    with pytest.raises(ValueError, match="1 texts for 2 embeddings"):
        index.update([0, 0], rows[:2], ["one"])


def test_a_fingerprint_names_the_encoder(tiny_encoder: str, tmp_path: Path) -> None:
    model = XMCDualEncoderModel.from_encoder(tiny_encoder)
    name = encoder_fingerprint(model)
    model.save_pretrained(tmp_path)
    assert encoder_fingerprint(XMCDualEncoderModel.from_pretrained(tmp_path)) == name
    for dtype in (torch.bfloat16, torch.float16):
        loaded = XMCDualEncoderModel.from_pretrained(tmp_path, dtype=dtype)
        assert encoder_fingerprint(loaded) != name
        assert same_encoder(encoder_fingerprint(loaded), name)
    settings = XMCDualEncoderModel.from_encoder(tiny_encoder, query_prefix="query: ")
    assert not same_encoder(encoder_fingerprint(settings), name)
    with torch.no_grad():
        next(model.parameters())[0, 0] += 0.1
    assert not same_encoder(encoder_fingerprint(model), name)


def test_embeddings_of_another_encoder_are_refused(rows: np.ndarray, tmp_path: Path) -> None:
    index = LabelIndex.build(rows[:3], catalogue(), encoder_fingerprint="aa-bb")
    index.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "index/index.json").read_text())["encoder_fingerprint"] == "aa-bb"
    for one in (index, LabelIndex.from_pretrained(tmp_path)):
        for change in (
            lambda: one.search(rows, encoder_fingerprint="cc-dd"),  # noqa: B023
            lambda: one.add(rows[:1], ["x"], encoder_fingerprint="cc-dd"),  # noqa: B023
            lambda: one.update([0], rows[:1], encoder_fingerprint="cc-dd"),  # noqa: B023
        ):
            with pytest.raises(ValueError, match=r"another encoder \(fingerprint cc-dd\) than the index \(aa-bb\)"):
                change()
        assert len(one.labels) == 3
        assert one.search(rows, encoder_fingerprint="aa-zz").ids.shape == (6, 5)
