from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import TrainingArguments

from hf_xmc import XMCDataset, XMCDualEncoderModel, XMCTrainer, XMCTrainingArguments, load_xmc_dataset
from hf_xmc.training.callbacks import QueryProgressCallback
from hf_xmc.training.preparation import disable_dropout
from tests.training.made import make_trainer


@pytest.fixture
def data(toy: Path) -> XMCDataset:
    return load_xmc_dataset(toy)


def test_bf16_autocast_reaches_both_sides(tiny_encoder: str, data: XMCDataset, tmp_path: Path) -> None:
    trainer = make_trainer(tiny_encoder, data, tmp_path, bf16=True, use_cpu=True, max_steps=2)
    seen: dict[str, set[torch.dtype]] = {"query": set(), "label": set()}
    side_of_call = []
    trainer.model.register_forward_pre_hook(
        lambda module, args, kwargs: side_of_call.append(kwargs["side"]), with_kwargs=True
    )
    trainer.model.query_encoder.encoder.layer[0].attention.self.query.register_forward_hook(
        lambda module, args, output: seen[side_of_call[-1]].add(output.dtype)
    )
    trainer.train()
    assert seen == {"query": {torch.bfloat16}, "label": {torch.bfloat16}}
    assert all(torch.isfinite(p).all() and p.dtype == torch.float32 for p in trainer.model.parameters())


def test_batch_larger_than_the_set(tiny_encoder: str, five_rows: Path, tmp_path: Path) -> None:
    data = load_xmc_dataset(five_rows)
    trainer = make_trainer(tiny_encoder, data, tmp_path, per_device_train_batch_size=64, eval_k=10, max_steps=2)
    trainer.train()
    metrics = trainer.evaluate(data.queries["test"])
    assert metrics["eval_P@10"] == pytest.approx(0.15)  # one and two of three labels, all of them returned
    assert metrics["eval_R@10"] == 1.0


def test_a_batch_without_any_positive(tiny_encoder: str, data: XMCDataset, tmp_path: Path) -> None:
    table = data.queries["train"]
    last = len(table) - 1
    one = table.map(
        lambda row, i: {"labels": row["labels"] if i == last else []}, with_indices=True, features=table.features
    )
    for strategy in ("all", "in_batch"):
        trainer = make_trainer(tiny_encoder, data, tmp_path, label_strategy=strategy, max_steps=1)
        trainer.train_dataset = trainer.tokenize(trainer.model, one, None)
        before = [p.clone() for p in trainer.model.parameters()]
        trainer.train()
        assert trainer.state.log_history[0]["loss"] == 0
        for old, new in zip(before, trainer.model.parameters(), strict=True):
            torch.testing.assert_close(new, old)  # AdamW without weight decay moves nothing on a gradient of zero


def test_progress_counts_queries(tiny_encoder: str, data: XMCDataset, tmp_path: Path) -> None:
    trainer = make_trainer(tiny_encoder, data, tmp_path, disable_tqdm=False, max_steps=2)
    bars = [c for c in trainer.callback_handler.callbacks if isinstance(c, QueryProgressCallback)]
    assert len(bars) == 1
    trainer.train()
    assert bars[0].queries_per_step == 16


def test_errors_say_what_to_do(tiny_encoder: str, data: XMCDataset, tmp_path: Path) -> None:
    model = XMCDualEncoderModel.from_encoder(tiny_encoder)
    args = XMCTrainingArguments(str(tmp_path), report_to="none")
    with pytest.raises(ValueError, match="label_dataset"):
        XMCTrainer(model, args, data.queries["train"])
    with pytest.raises(ValueError, match="projection_dim"):
        make_trainer(tiny_encoder, data, tmp_path, freeze_encoder=True)
    with pytest.raises(ValueError, match="label table has 3 rows"):
        XMCTrainer(model, args, data.queries["train"], label_dataset=data.labels.select(range(3)))
    with pytest.raises(ValueError, match=r"need \['labels'\]"):
        XMCTrainer(model, args, data.queries["train"].remove_columns("labels"), label_dataset=data.labels)
    with pytest.raises(ValueError, match="expected one of"):
        XMCTrainingArguments(str(tmp_path), label_strategy="some")
    with pytest.raises(ValueError, match="at least 1"):
        XMCTrainingArguments(str(tmp_path), encode_chunk_size=0)


def test_a_frozen_encoder_stays_as_the_user_left_it(tiny_encoder: str, data: XMCDataset, tmp_path: Path) -> None:
    trainer = make_trainer(tiny_encoder, data, tmp_path, {"projection_dim": 32}, freeze_encoder=True, max_steps=1)
    trainer.model.query_encoder.embeddings.requires_grad_(False)
    trainer.train()
    assert all(p.requires_grad for p in trainer.model.query_encoder.encoder.parameters())
    assert not any(p.requires_grad for p in trainer.model.query_encoder.embeddings.parameters())


def test_predict_gives_ids_and_metrics(tiny_encoder: str, data: XMCDataset, tmp_path: Path) -> None:
    output = make_trainer(tiny_encoder, data, tmp_path).predict(data.queries["test"])
    assert output.predictions.shape == (40, 5)
    assert 0 < output.metrics["test_R@5"] < 1


def test_an_empty_validation_split_is_no_error(tiny_encoder: str, data: XMCDataset, tmp_path: Path) -> None:
    trainer = XMCTrainer(
        XMCDualEncoderModel.from_encoder(tiny_encoder),
        XMCTrainingArguments(str(tmp_path), report_to="none", eval_strategy="epoch", max_steps=1, save_strategy="no"),
        data.queries["train"],
        data.queries["validation"].select([]),
        data.labels,
    )
    trainer.train()
    assert trainer.state.global_step == 1


def test_several_evaluation_splits_with_their_own_filters(tiny_encoder: str, data: XMCDataset, tmp_path: Path) -> None:
    splits = {"a": data.queries["validation"], "b": data.queries["test"]}
    ignored = {"b": data.positives("test")}  # every true label is filtered: nothing can be right
    trainer = XMCTrainer(
        XMCDualEncoderModel.from_encoder(tiny_encoder),
        XMCTrainingArguments(str(tmp_path), report_to="none"),
        eval_dataset=splits,
        label_dataset=data.labels,
        eval_ignored=ignored,
    )
    metrics = trainer.evaluate()
    assert metrics["eval_b_R@5"] == 0
    assert metrics["eval_a_R@5"] > 0


def test_arguments_of_another_kind_are_refused(tiny_encoder: str, data: XMCDataset, tmp_path: Path) -> None:
    model = XMCDualEncoderModel.from_encoder(tiny_encoder)
    with pytest.raises(TypeError, match="needs XMCTrainingArguments"):
        XMCTrainer(model, TrainingArguments(str(tmp_path)), label_dataset=data.labels)
    with pytest.raises(ValueError, match="compute_metrics"):
        XMCTrainer(model, label_dataset=data.labels, compute_metrics=len)


def test_disable_dropout_reaches_rates_that_are_plain_numbers(tiny_encoder: str, tmp_path: Path) -> None:
    from transformers import LlamaConfig, LlamaModel

    config = LlamaConfig(
        vocab_size=50,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        attention_dropout=0.5,
    )
    model = LlamaModel(config).train()
    disable_dropout(model)
    ids = torch.arange(6)[None]
    assert torch.equal(model(ids).last_hidden_state, model(ids).last_hidden_state)


def test_tables_that_cannot_be_trained_on_are_named(tiny_encoder: str, data: XMCDataset, tmp_path: Path) -> None:
    model, args = XMCDualEncoderModel.from_encoder(tiny_encoder), XMCTrainingArguments(str(tmp_path))
    queries = data.queries["train"]
    with pytest.raises(TypeError, match=r"Found a IterableDataset, .* without streaming"):
        XMCTrainer(model, args, queries.to_iterable_dataset(), label_dataset=data.labels)
    with pytest.raises(ValueError, match="needs label_dataset"):
        XMCTrainer(model, args, queries, label_dataset=data.labels.select([]))
