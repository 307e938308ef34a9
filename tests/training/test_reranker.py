"""A tiny cross-encoder that learns which colour a text names."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import TrainingArguments, set_seed

from hf_xmc import Positives, TopK
from hf_xmc.retrieval.rerank import CrossEncoderReranker, rerank
from hf_xmc.training.reranker import candidates_of, regularised_softmax, train_cross_encoder
from tests.conftest import COLOURS, THINGS

LABELS = Dataset.from_dict({"uid": list(COLOURS), "text": list(COLOURS)})


def queries(things: tuple[str, ...]) -> tuple[list[str], Positives, TopK]:
    """Texts that name a colour, and candidates in an order that says nothing."""
    texts = [f"{colour} {thing}" for thing in things for colour in COLOURS]
    rng = np.random.default_rng(0)
    ids = rng.permuted(np.tile(np.arange(6), (len(texts), 1)), axis=1)
    scores = np.tile(np.linspace(0.5, 0.3, 6, dtype=np.float32), (len(texts), 1))
    return texts, Positives.from_lists([[i % 6] for i in range(len(texts))]), TopK(ids, scores)


def precision(topk: TopK, positives: Positives) -> float:
    return float((topk.ids[:, 0] == positives.indices).mean())


def arguments(folder: Path, **more: object) -> TrainingArguments:
    settings = {"per_device_train_batch_size": 6, "learning_rate": 3e-3, "report_to": "none", "disable_tqdm": True}
    return TrainingArguments(str(folder), save_strategy="no", use_cpu=True, **{**settings, **more})  # type: ignore[arg-type]


def test_the_worked_number_of_xmen() -> None:
    z, y, s0 = torch.tensor([[2.0, 0, -1]]), torch.tensor([[1.0, 0, 0]]), torch.tensor([[0.9, 0.8, 0.7]])
    assert float(regularised_softmax(z, y, s0)) == pytest.approx(2.34700, abs=1e-5)
    assert float(regularised_softmax(z, y, s0, rho=0)) == pytest.approx(0.16985, abs=1e-5)
    wide = [torch.cat([x, torch.full((1, 2), 7.0)], 1) for x in (z, 0 * y + y, s0)]
    wide[1][:, 3:] = 0
    mask = torch.tensor([[True, True, True, False, False]])
    assert float(regularised_softmax(*wide, mask=mask)) == pytest.approx(2.34700, abs=1e-5)


def test_several_positives_share() -> None:
    z, y = torch.tensor([[2.0, 1.0, -1.0]], requires_grad=True), torch.tensor([[1.0, 1.0, 0.0]])
    loss = regularised_softmax(z, y, z.detach(), rho=0)
    log_p = z.detach().log_softmax(1)[0]
    assert float(loss.detach()) == pytest.approx(-float(log_p[0] + log_p[1]) / 2)
    regularised_softmax(z, y, torch.zeros(1, 3), rho=3.0).backward()
    pull = z.grad - (z.detach().softmax(1) - y / 2)
    assert float(pull.norm()) == pytest.approx(3.0, rel=1e-4)  # a norm pulls with the same force everywhere


def test_training_beats_its_own_start_on_new_texts(tiny_encoder: str, tmp_path: Path) -> None:
    set_seed(0)
    reranker = CrossEncoderReranker.from_encoder(tiny_encoder)
    train, new = queries(THINGS[:4]), queries(THINGS[4:])
    start = precision(rerank(reranker, new[0], new[2], LABELS), new[1])
    train_cross_encoder(
        reranker, *(train[0], train[2], train[1]), LABELS, arguments(tmp_path, num_train_epochs=30), rho=0.1
    )
    end = rerank(reranker, new[0], new[2], LABELS)
    assert precision(end, new[1]) > max(start, 1 / 6) + 0.3
    reranker.save_pretrained(tmp_path / "model")
    again = CrossEncoderReranker.from_pretrained(tmp_path / "model")
    assert again.max_length == reranker.max_length
    np.testing.assert_allclose(rerank(again, new[0], new[2], LABELS).scores, end.scores, atol=1e-5)


def test_missed_positives_are_candidates_and_empty_queries_are_not() -> None:
    topk = TopK(
        np.array([[3, 1, -1], [2, 4, 5], [0, 1, 2]]), np.array([[0.9, 0.5, -np.inf], [0.9, 0.8, 0.7], [3, 2, 1]])
    )
    rows = candidates_of(["a", "b", "c"], topk, Positives.from_lists([[1, 7], [], [0]]), temperature=0.5)
    assert [row["row"] for row in rows] == [0, 2]
    assert rows[0]["ids"].tolist() == [3, 1, 7]
    assert rows[0]["truth"].tolist() == [False, True, True]
    np.testing.assert_allclose(rows[0]["scores"], [1.8, 1.0, 1.0])
    with pytest.raises(ValueError, match="nothing to learn"):
        candidates_of(["b"], TopK.from_lists([[1]]), Positives.from_lists([[]]), 1.0)
    with pytest.raises(ValueError, match="2 texts, 1 rows of predictions"):
        candidates_of(["a", "b"], TopK.from_lists([[1]]), Positives.from_lists([[1]]), 1.0)


def test_order_of_pairs_and_padding_do_not_matter(tiny_encoder: str) -> None:
    reranker = CrossEncoderReranker.from_encoder(tiny_encoder)
    texts, _, topk = queries(THINGS[:1])
    texts[0] = "red " * 90  # longer than the encoder has places for
    ids = topk.ids.copy()
    ids[:, 4:] = -1
    found = rerank(reranker, texts, TopK(ids, topk.scores), list(COLOURS))
    assert (found.ids[:, 4:] == -1).all()
    assert np.isneginf(found.scores[:, 4:]).all()
    assert np.array_equal(np.sort(found.ids, 1), np.sort(ids, 1))
    for row in (0, 3):
        alone = reranker.predict([(texts[row], COLOURS[i]) for i in found.ids[row, :4]], batch_size=1)
        np.testing.assert_allclose(alone, found.scores[row, :4], atol=1e-5)
    with pytest.raises(ValueError, match="1 texts for 6 rows"):
        rerank(reranker, ["one"], topk, LABELS)
    reranker.model.config.num_labels = 2
    with pytest.raises(ValueError, match="2 outputs"):
        CrossEncoderReranker(reranker.model, reranker.tokenizer)
