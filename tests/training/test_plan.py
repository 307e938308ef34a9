"""What a training would take: each part of the estimate against what can be counted."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hf_xmc import XMCDataset, XMCDualEncoderModel, XMCTrainingArguments, load_xmc_dataset
from hf_xmc.training.planning.encoder_cost import Cost, forward_flops, kept_bytes
from hf_xmc.training.planning.measure import measure
from hf_xmc.training.planning.plan import (
    Choice,
    Measured,
    chunk_bytes,
    difference,
    fitting,
    memory,
    mining_seconds,
    peak,
    step,
    work,
)
from hf_xmc.training.preparation import prepare


@pytest.fixture(scope="module")
def data(toy: Path) -> XMCDataset:
    return load_xmc_dataset(toy)


@pytest.fixture(scope="module")
def measured(tiny_encoder: str, data: XMCDataset, tmp_path_factory: pytest.TempPathFactory) -> Measured:
    args = XMCTrainingArguments(str(tmp_path_factory.mktemp("plan")), report_to="none", disable_tqdm=True)
    model = XMCDualEncoderModel.from_encoder(tiny_encoder, projection_dim=16)
    return measure(prepare(model, args, None), args, data, base=1000, seconds=0.2)


def test_defaults_are_those_of_the_arguments() -> None:
    arguments = {field.name: field.default for field in fields(XMCTrainingArguments)}
    own = ("per_device_train_batch_size", "encode_chunk_tokens", "gradient_checkpointing")
    for field in fields(Choice):
        if field.name in arguments and field.name not in own:
            assert field.default == arguments[field.name], field.name


def test_weights_optimizer_and_lengths_are_counted(tiny_encoder: str, data: XMCDataset, measured: Measured) -> None:
    model = XMCDualEncoderModel.from_encoder(tiny_encoder, projection_dim=16)
    numbers = sum(p.numel() for p in model.parameters())
    assert measured.weights == measured.trainable == 4 * numbers
    assert measured.optimizer == pytest.approx(2, abs=1e-3)  # AdamW: two moments (and a count)
    lengths = [len(row) for row in model.tokenize(data.labels["text"][:], "label")]
    assert measured.label_lengths.tolist() == lengths
    assert measured.dim == 16
    parts = memory(Choice(8), measured)
    assert parts["weights"] == parts["gradients"] == 4 * numbers
    assert parts["index"] == len(lengths) * 16 * 4
    assert "label bank" not in parts
    assert memory(Choice(8, label_strategy="selective"), measured)["label bank"] == len(lengths) * (16 * 2 + 8)


def test_vectors_of_labels_are_counted(tiny_encoder: str, data: XMCDataset, tmp_path: Path) -> None:
    model = XMCDualEncoderModel.from_encoder(tiny_encoder, projection_dim=16, label_head="classifier")
    settings = {"freeze_encoder": True, "label_head_loss_weight": 1.0, "label_head_dtype": "float16"}
    args = XMCTrainingArguments(str(tmp_path), report_to="none", disable_tqdm=True, **settings)
    found = measure(prepare(model, args, None), args, data, base=1000, seconds=0.2)
    assert found.trainable == 0  # a classifier alone
    assert memory(Choice(8), found)["label vectors"] == data.num_labels * (16 * 2 + 4)
    assert memory(Choice(8, num_processes=5), found)["label vectors"] == -(-data.num_labels // 5) * (16 * 2 + 4)
    assert peak(memory(Choice(8), found)) > peak(memory(Choice(8), replace(found, vector_bytes=0)))


def test_what_is_kept_for_the_backward_pass_is_predicted(tiny_encoder: str) -> None:
    model = XMCDualEncoderModel.from_encoder(tiny_encoder).train()
    cost = Cost.fit(lambda n, t: kept_bytes(model, n, t), 64)
    for texts, tokens in ((3, 20), (7, 33), (16, 50)):
        assert cost(texts, tokens) == pytest.approx(kept_bytes(model, texts, tokens), rel=0.05)
    model.activation_checkpointing_enable()
    assert kept_bytes(model, 7, 33) < cost(7, 33) / 2


def test_flops_are_those_of_the_products(tiny_encoder: str) -> None:
    model = XMCDualEncoderModel.from_encoder(tiny_encoder).eval()
    linear = 2 * (4 * 32 * 32 + 2 * 32 * 64)  # for a token in a layer: q, k, v, out, up, down
    attention = 2 * 2 * 20 * 32  # scores and values, for a token of a text of 20
    assert forward_flops(model, 3, 20) == 2 * 60 * (linear + attention)


def test_candidates_of_each_strategy(data: XMCDataset, measured: Measured) -> None:
    def candidates(**settings: Any) -> int:
        return work(Choice(4, **settings), measured)[2].candidates

    labels = data.num_labels
    counts = {
        name: candidates(label_strategy=name, label_budget=10, num_hard_negatives=1)
        for name in ("all", "in_batch", "selective")
    }
    assert counts["all"] == labels
    assert 4 <= counts["in_batch"] <= 8  # two labels a query
    assert counts["selective"] == 10
    for hard in (
        {"label_strategy": "mixed", "negative_source": "label_bank"},
        {"label_strategy": "mixed"},
        {"label_strategy": "mined"},
    ):
        assert candidates(**hard, num_hard_negatives=1) == counts["in_batch"] + 4
        assert candidates(**hard, num_hard_negatives=1, num_positives=1) <= 4 + 4
    one_each = candidates(label_strategy="in_batch", num_positives=1)
    assert 1 <= one_each <= 4, "half of what all positives are"
    assert candidates(num_processes=3) == labels
    with pytest.raises(ValueError, match=r"label_strategy is 'hardest'; expected one of all, in_batch"):
        candidates(label_strategy="hardest")
    one, three = (step(Choice(4, num_processes=n), measured) for n in (1, 3))
    assert three["label_tokens"] == pytest.approx(one["label_tokens"] / 3)


def test_mining_takes_time_and_memory_between_epochs(data: XMCDataset, measured: Measured) -> None:
    plain, mined = Choice(4, label_strategy="in_batch"), Choice(4, label_strategy="mixed", mining_depth=50)
    queries, labels = len(measured.query_lengths), data.num_labels
    parts = memory(mined, measured)
    assert parts["mined negatives"] == queries * 50 * 4
    assert parts["mining"] == (queries + 2 * labels) * 16 * 4
    assert memory(plain, measured)["mining"] == 0
    assert "mined negatives" not in memory(plain, measured)
    large = {**parts, "mining": 10**9}
    assert peak(large) > 10**9
    assert peak({**large, "loss tiles": 10**10}) == peak({**parts, "loss tiles": 10**10}), "not at the same time"
    seconds = mining_seconds(mined, measured)
    assert seconds > measured.query_lengths.sum() * measured.forward_seconds
    assert mining_seconds(replace(mined, mining_refresh_epochs=4), measured) == pytest.approx(seconds / 4)
    assert 0 < mining_seconds(mined, measured, frozen=True) < seconds
    assert mining_seconds(plain, measured) == 0


def test_passes_over_labels_are_counted(measured: Measured) -> None:
    tokens = int(measured.label_lengths.sum())
    found = step(Choice(4, gradient_caching=True), measured)
    assert found["label_tokens"] == pytest.approx(tokens)
    assert found["label_token_passes"] == pytest.approx(4 * tokens)
    plain = step(Choice(4, gradient_caching=False), measured)
    assert plain["label_token_passes"] == pytest.approx(3 * tokens)
    again = found["labels_seconds"] - plain["labels_seconds"]
    assert again == pytest.approx(tokens * measured.forward_seconds)
    banked = step(Choice(4, label_strategy="selective", label_budget=6, label_refresh=3), measured)
    assert banked["label_tokens"] == pytest.approx(9 * measured.label_lengths.mean())
    assert banked["seconds"] > 0
    assert banked["flops"] < found["flops"]


def test_few_labels_are_kept_where_caching_is_left_open(measured: Measured) -> None:
    """As in a step: up to four chunks on a CPU, one on a GPU."""
    for size, passes, gpu_passes in ((100, 3, 3), (3, 3, 4), (2, 4, 4)):  # 12 labels: 1, 4 and 6 chunks
        for device, expected in (("cpu", passes), ("cuda", gpu_passes)):
            of, choices = replace(measured, device=device), [Choice(4, encode_chunk_size=size)]
            choices.append(replace(choices[0], gradient_caching=expected == 4))
            left_open, given = (step(choice, of)["label_token_passes"] for choice in choices)
            assert left_open == given
            assert left_open == pytest.approx(expected * int(of.label_lengths.sum()))
            assert memory(choices[0], of) == memory(choices[1], of)


def test_chunks_are_those_of_the_encoder(measured: Measured) -> None:
    lengths = np.array([3, 9, 3, 2])
    flat = Cost(0.0, 1.0, 0.0)
    padded = replace(measured, packed=False)
    assert chunk_bytes(lengths, Choice(1, encode_chunk_tokens=8), padded, flat).tolist() == [6, 3, 9]
    assert chunk_bytes(lengths, Choice(1, encode_chunk_tokens=8), replace(measured, packed=True), flat).tolist() == [
        8,
        9,
    ]


def test_what_is_suggested_fits(measured: Measured) -> None:
    large = replace(measured, kept={key: Cost(0.0, 1e6, 0.0) for key in measured.kept}, layers=12)
    large = replace(large, kept={**large.kept, (True, False): Cost(0.0, 1e5, 0.0)})
    choice = Choice(64, encode_chunk_tokens=2048, gradient_caching=False)
    needed = peak(memory(choice, large))
    assert fitting(choice, large, needed) == choice
    last = needed
    for limit in (0.6, 0.3, 0.15):
        found = fitting(choice, large, int(limit * needed))
        assert found is not None
        assert peak(memory(found, large)) <= limit * needed
        assert found.window == choice.window, "the same batch to the optimizer"
        assert difference(choice, found)["gradient_caching"] is True
        size = peak(memory(found, large))
        assert size <= last
        last = size
    assert fitting(choice, large, 100) is None


def test_a_frozen_encoder_costs_one_pass(tiny_encoder: str, data: XMCDataset, tmp_path: Path) -> None:
    args = XMCTrainingArguments(str(tmp_path), report_to="none", freeze_encoder=True, disable_tqdm=True)
    model = XMCDualEncoderModel.from_encoder(tiny_encoder, projection_dim=16)
    found = measure(prepare(model, args, None), args, data, seconds=0.1)
    parts = memory(Choice(8), found)
    assert parts["query batch activations"] == parts["label activations"] == 0
    assert found.trainable == 2 * 16 * 32 * 4
    assert found.forward_seconds > 0
    assert step(Choice(8), found)["queries_seconds"] == 0


def test_adapters(tiny_encoder: str, data: XMCDataset, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    args = XMCTrainingArguments(str(tmp_path), report_to="none", disable_tqdm=True)
    plain = XMCDualEncoderModel.from_encoder(tiny_encoder)
    whole = measure(prepare(plain, args, None), args, data, seconds=0.1)
    model = prepare(XMCDualEncoderModel.from_encoder(tiny_encoder), args, peft.LoraConfig(r=4))
    found = measure(model, args, data, seconds=0.1, lora_rank=4)
    assert found.weights == whole.weights
    assert (
        found.adapted
        == whole.adapted
        == sum(4 * (m.in_features + m.out_features) for m in plain.modules() if isinstance(m, torch.nn.Linear))
    )
    assert memory(Choice(8, lora_rank=4), found)["gradients"] == found.trainable


@pytest.mark.parametrize("joint", [True, False], ids=["joint", "alone"])
def test_a_static_tower_is_part_of_the_plan(tiny_encoder: str, data: XMCDataset, tmp_path: Path, joint: bool) -> None:
    args = XMCTrainingArguments(str(tmp_path), report_to="none", disable_tqdm=True, freeze_encoder=joint)
    encoder, more = (tiny_encoder, {"projection_dim": 16}) if joint else (None, {})
    model = XMCDualEncoderModel.from_encoder(encoder, static_dim=8, **more)
    of = measure(prepare(model, args, None), args, data, seconds=0.2)
    rows = model.config.static_rows
    assert rows > 12
    assert of.weights == sum(p.nbytes for p in model.parameters()) >= rows * 8 * 4
    assert of.trainable == sum(p.nbytes for p in model.parameters() if p.requires_grad)
    found = step(Choice(8), of)
    assert found["static_seconds"] > 0
    assert found["seconds"] == pytest.approx(sum(v for k, v in found.items() if k.endswith("_seconds")))
    assert memory(Choice(8), of)["optimizer states"] >= 4 * rows


def test_passages_are_known(tiny_encoder: str, data: XMCDataset, measured: Measured, tmp_path: Path) -> None:
    """Texts of five times the length: five times the tokens and scores, in about the memory of a chunk."""
    train = data.queries["train"].map(lambda row: {"text": ". ".join([row["text"]] * 5)})
    long = replace(data, queries={**data.queries, "train": train})
    args = XMCTrainingArguments(str(tmp_path), use_cpu=True, passages="lse,tokens=8,overlap=0,title=no")
    model = prepare(XMCDualEncoderModel.from_encoder(tiny_encoder), args, None)
    of = measure(model, args, long, speed=False)
    assert of.num_queries == len(train) == len(of.passage_counts)
    assert len(of.query_lengths) == of.passage_counts.sum()
    assert of.query_lengths.max() <= 10
    assert of.passages_per_query > 2
    one, many = step(Choice(4), measured), step(Choice(4), of)
    assert one["queries"] == many["queries"] == 4
    assert many["query_tokens"] > 3 * one["query_tokens"]
    assert many["flops"] > one["flops"]
    chunks = Choice(4, encode_chunk_tokens=16)
    kept = [
        memory(replace(chunks, gradient_caching=caching), of)["query batch activations"] for caching in (True, False)
    ]
    assert kept[0] < kept[1] / 2
