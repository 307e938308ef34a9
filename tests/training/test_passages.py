"""Training on texts of several passages: however a step is cut, and like predictions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset

from hf_xmc import XMCDataset, XMCPipeline, XMCTrainer, load_xmc_dataset
from hf_xmc.data.collator import unpack
from hf_xmc.data.tokenized import TokenBags
from hf_xmc.errors import SettingsError
from hf_xmc.inference.evaluation.evaluate import predict_split, score
from hf_xmc.inference.fitting.tagger import train_tagger
from hf_xmc.losses import PositiveUnlabelledLoss
from hf_xmc.retrieval.cutting import Cutter
from hf_xmc.retrieval.passages import Passages
from hf_xmc.training.arguments import XMCTrainingArguments
from tests.training.made import gradients, make_trainer, one_batch
from tests.training.test_label_step import history, train

PASSAGES = "lse,sharpness=20,tokens=8,overlap=0"


def joined(queries: Dataset) -> Dataset:
    """Texts of one to four sentences, each with labels of its own."""
    rows, texts, labels = [], queries["text"][:], queries["labels"][:]
    for i in range(len(queries)):
        own = [(i + j) % len(queries) for j in range(1 + i % 4)]
        of_all = sorted({label for j in own for label in labels[j]})
        rows.append({"uid": f"b{i}", "text": ". ".join(texts[j].capitalize() for j in own) + ".", "labels": of_all})
    return Dataset.from_list(rows, features=queries.features)


@pytest.fixture(scope="module")
def data(toy: Path) -> XMCDataset:
    given = load_xmc_dataset(toy)
    return replace(given, queries={split: joined(queries) for split, queries in given.queries.items()})


def test_texts_are_cut_as_for_predictions(tiny_encoder: str, data: XMCDataset, tmp_path: Path) -> None:
    trainer = make_trainer(tiny_encoder, data, tmp_path, passages=PASSAGES)
    tokens = trainer.train_dataset.tokens
    assert isinstance(tokens, TokenBags)
    assert set(tokens.counts.tolist()) >= {1, 2, 3}
    cutter = Cutter(trainer.model, Passages.parse(PASSAGES))
    cut = [[passage.text for passage in cutter(text)] for text in data.queries["train"]["text"][:9]]
    assert [len(its) for its in cut] == tokens.counts[:9].tolist()
    expected = trainer.model.token_ids([one for its in cut for one in its], "query")
    assert [tokens.passages[place].tolist() for place in range(tokens.indptr[9])] == expected


def test_the_loss_is_the_definition(tiny_encoder: str, data: XMCDataset, tmp_path: Path) -> None:
    trainer = make_trainer(tiny_encoder, data, tmp_path, passages=PASSAGES, disable_dropout=True)
    batch, model = one_batch(trainer), trainer.model
    positives = unpack(batch, "positives")
    assert positives is not None
    labels, scores = trainer.encoder.labels(), []
    for row in batch["row"].tolist():
        own = range(*trainer.train_dataset.tokens.indptr[row : row + 2])
        z = model(**model.pad([trainer.train_dataset.tokens.passages[i] for i in own])).embeddings @ labels.T
        scores.append((20 * z).exp().mean(0).log() / 20 / model.config.temperature)
    terms = []
    for row, its in enumerate(scores):
        true = torch.zeros(data.num_labels, dtype=torch.bool)
        true[positives.row(row)] = True
        against = its[~true].logsumexp(0)
        terms.append((torch.logaddexp(its[true], against) - its[true]).mean())
    expected = torch.stack(terms).mean()
    found = trainer.compute_loss(model, batch)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    ours, theirs = gradients(trainer, found), gradients(trainer, expected)
    for name, gradient in theirs.items():
        torch.testing.assert_close(ours[name], gradient, rtol=1e-3, atol=1e-4, msg=lambda m, n=name: f"{n}: {m}")


def test_gradient_caching_changes_nothing(tiny_encoder: str, data: XMCDataset, tmp_path: Path) -> None:
    """With dropout, and passages in chunks of two."""
    found = []
    for caching in (True, False):
        torch.manual_seed(0)
        args: dict[str, Any] = {"gradient_caching": caching, "encode_chunk_size": 2, "passages": PASSAGES}
        trainer = make_trainer(tiny_encoder, data, tmp_path, **args)
        trainer.model.train()
        torch.manual_seed(1)
        loss = trainer.compute_loss(trainer.model, one_batch(trainer))
        found.append((loss.item(), gradients(trainer, loss)))
    assert found[0][0] == pytest.approx(found[1][0], abs=1e-6)
    for name, gradient in found[1][1].items():
        torch.testing.assert_close(found[0][1][name], gradient, atol=1e-5, rtol=1e-5, msg=name)


@pytest.mark.parametrize(
    ("strategy", "loss", "options"),
    [
        ("all", "decoupled_softmax", {}),
        ("selective", "softmax", {"label_budget": 10, "label_refresh": 2}),  # labels that stand for others
        ("hard", "soft_top_k", {"num_hard_negatives": 2, "label_refresh": 2}),
        ("mined", "decoupled_softmax", {"num_hard_negatives": 2, "num_positives": 1}),
        ("in_batch", "triplet_margin", {"train_sampling_strategy": "clustered", "cluster_size": 4}),
    ],
)
def test_eight_micro_batches_are_one_batch(
    strategy: str, loss: str, options: dict[str, Any], tiny_encoder: str, data: XMCDataset, tmp_path: Path
) -> None:
    args = {"label_strategy": strategy, "loss": loss, "passages": PASSAGES, "max_steps": 3, **options}
    large = train(tiny_encoder, data, tmp_path / "a", 16, 1, **args)
    small = train(tiny_encoder, data, tmp_path / "b", 2, 8, **args)
    assert history(small, "loss") == pytest.approx(history(large, "loss"), abs=1e-4)
    for (name, a), b in zip(large.model.named_parameters(), small.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-3, msg=name)


@pytest.mark.parametrize("model", [{}, {"static_dim": 8, "label_head": "residual"}], ids=["encoder", "tower and head"])
def test_short_texts_train_as_without_passages(
    model: dict[str, Any], tiny_encoder: str, toy: Path, tmp_path: Path
) -> None:
    """Each is one passage, as it is: the same weights, bit for bit."""
    found = []
    for passages in (None, "lse"):
        torch.manual_seed(0)
        trainer = make_trainer(tiny_encoder, load_xmc_dataset(toy), tmp_path, model, passages=passages, max_steps=3)
        trainer.train()
        found.append((history(trainer, "loss"), trainer.model.state_dict(), trainer.evaluate()))
    assert found[0][0] == found[1][0]
    assert all(torch.equal(found[0][1][name], found[1][1][name]) for name in found[0][1])
    assert found[0][2]["eval_P@1"] == found[1][2]["eval_P@1"]


def test_a_run_that_is_resumed_ends_as_one_that_was_not(tiny_encoder: str, data: XMCDataset, tmp_path: Path) -> None:
    args: dict[str, Any] = {"passages": PASSAGES, "save_strategy": "steps", "save_steps": 3, "max_steps": 6}
    whole = make_trainer(tiny_encoder, data, tmp_path / "run", **args)
    whole.train()
    again = make_trainer(tiny_encoder, data, tmp_path / "run", **args)
    again.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-3"))
    expected, found = whole.model.state_dict(), again.model.state_dict()
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_a_tagger_trains_on_passages_and_reads_them(tiny_encoder: str, data: XMCDataset, tmp_path: Path) -> None:
    """The folder holds the settings, evaluation in training is that of the tagger, and long texts are learned."""
    args = XMCTrainingArguments(
        str(tmp_path / "run"), passages=PASSAGES, learning_rate=3e-3, num_train_epochs=6, report_to="none",
        per_device_train_batch_size=16, disable_tqdm=True, eval_strategy="epoch", disable_dropout=True,
    )  # fmt: skip
    train_tagger(data, tiny_encoder, args=args)
    tagger = XMCPipeline.from_pretrained(tmp_path / "run")
    assert tagger.passages == Passages.parse(PASSAGES)
    measured = score(predict_split(tagger, data, "test", 5), data, "test")
    assert measured["R@5"] > 0.6
    trainer = make_trainer(None, data, tmp_path / "other", {"static_dim": 8}, passages=PASSAGES)
    pooled = trainer.evaluator.queries(trainer.eval_dataset)
    assert np.asarray(pooled).shape[0] == len(data.queries["validation"])
    beginnings = XMCPipeline(tagger.model, tagger.index)
    assert measured["R@5"] > score(predict_split(beginnings, data, "test", 5), data, "test")["R@5"]


def test_evaluation_ranks_as_the_tagger_does(tiny_encoder: str, data: XMCDataset, tmp_path: Path) -> None:
    trainer = make_trainer(tiny_encoder, data, tmp_path, passages=PASSAGES)
    tagger = XMCPipeline.build(trainer.model, data.labels)
    tagger.passages = Passages.parse(PASSAGES)
    found = trainer.predict(trainer.eval_dataset)
    expected = predict_split(tagger, data, "validation", 5)
    np.testing.assert_array_equal(found.predictions, expected.ids)
    assert np.isfinite(found.metrics["test_loss"])


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"passages": "sum"}, "pool is 'sum'"),
        ({"passages": "lse,words=3"}, "unknown setting of passages 'words'"),
        ({"passages": "lse", "query_keys": True}, "query_keys"),
        ({"passages": "lse", "label_correction": "ignore"}, "label_correction"),
        ({"passages": "lse,tokens=4000"}, "longer than the encoder reads"),
    ],
)
def test_settings_that_do_not_go_together(
    args: dict[str, Any], message: str, tiny_encoder: str, data: XMCDataset, tmp_path: Path
) -> None:
    with pytest.raises(SettingsError, match=message):
        make_trainer(tiny_encoder, data, tmp_path, **args)


def test_a_loss_that_takes_one_vector_per_query_is_refused(
    tiny_encoder: str, data: XMCDataset, tmp_path: Path
) -> None:
    trainer: XMCTrainer = make_trainer(tiny_encoder, data, tmp_path, passages=PASSAGES)
    trainer.given_loss = PositiveUnlabelledLoss()
    with pytest.raises(SettingsError, match="one vector per query"):
        trainer.connect()
