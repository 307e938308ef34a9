"""Encoding in a step: repeated texts, autocast, compiled encoders, checkpointed layers."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hf_xmc import XMCDataset, XMCTrainer, load_xmc_dataset
from hf_xmc.modeling.packing_xmc import flatten
from hf_xmc.training.gradient_cache import encode_in_chunks
from tests.conftest import write_lines
from tests.training.made import gradients, make_trainer, one_batch


@pytest.fixture
def data(toy: Path) -> XMCDataset:
    return load_xmc_dataset(toy)


@pytest.fixture
def repeating(tmp_path: Path) -> XMCDataset:
    """Five labels with three texts, queries that repeat."""
    folder = tmp_path / "repeating"
    folder.mkdir()
    texts = ["red", "blue house", "red", "a green tree", "blue house"]
    write_lines(folder / "lbl.jsonl", [{"uid": f"l{i}", "text": text} for i, text in enumerate(texts)])
    queries = [{"uid": f"q{i}", "text": f"a {texts[i % 4]}", "labels": [i % 5, (i + 2) % 5]} for i in range(40)]
    write_lines(folder / "trn.jsonl", queries)
    write_lines(folder / "tst.jsonl", queries[:8])
    return load_xmc_dataset(folder)


def step(trainer: XMCTrainer, seed: int = 1) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and gradients of one batch, under the trainer's autocast."""
    trainer.model.train()
    torch.manual_seed(seed)
    with trainer.compute_loss_context_manager():
        loss = trainer.compute_loss(trainer.model, one_batch(trainer))
    return loss.item(), gradients(trainer, loss)


def assert_same(found: tuple[float, dict], expected: tuple[float, dict], tolerance: float = 1e-5) -> None:
    assert found[0] == pytest.approx(expected[0], abs=tolerance)
    assert found[1].keys() == expected[1].keys()
    for name, gradient in expected[1].items():
        scale = max(gradient.abs().max().item(), 1.0)
        torch.testing.assert_close(found[1][name], gradient, atol=tolerance * scale, rtol=1e-4, msg=name)


def count_texts(trainer: XMCTrainer) -> list[int]:
    """Grows by the number of texts in each forward pass."""
    counts: list[int] = []
    make = trainer.model.batch

    def batch(tokens: torch.Tensor, lengths: torch.Tensor, side: Any) -> dict[str, Any]:
        counts.append(len(lengths))
        return make(tokens, lengths, side)

    trainer.model.batch = batch  # type: ignore[method-assign]
    return counts


def test_label_texts_that_repeat_are_encoded_once(tiny_encoder: str, repeating: XMCDataset, tmp_path: Path) -> None:
    trainer = make_trainer(tiny_encoder, repeating, tmp_path, disable_dropout=True)
    trainer.model.train()
    counts = count_texts(trainer)
    texts = repeating.labels["text"]
    one_by_one = trainer.model(**trainer.model.pad(trainer.model.tokenize(texts, "label")), side="label").embeddings
    weights = torch.randn_like(one_by_one)
    expected = gradients(trainer, (one_by_one * weights).sum())
    for ids in (None, torch.tensor([0, 1, 2, 4])):
        counts.clear()
        labels = trainer.encoder.labels(ids)
        assert sum(counts) == (3 if ids is None else 2)
        torch.testing.assert_close(labels, one_by_one if ids is None else one_by_one[ids], atol=2e-6, rtol=1e-5)
        if ids is None:
            found = gradients(trainer, (labels * weights).sum())
            for name, gradient in expected.items():
                torch.testing.assert_close(found[name], gradient, atol=1e-5, rtol=1e-4, msg=name)
    counts.clear()
    table = trainer.encoder.table(trainer.train_dataset.tokens, "query")
    assert sum(counts) == 3 < len(table) == len(trainer.train_dataset)
    torch.testing.assert_close(table, trainer.model.encode_queries(repeating.queries["train"]["text"]))


@pytest.mark.parametrize("packing", [True, False], ids=["packed", "padded"])
@pytest.mark.parametrize("autocast", [{}, {"bf16": True}], ids=["fp32", "bf16"])
def test_both_passes_over_labels_see_the_same_autocast(
    tiny_encoder: str, data: XMCDataset, tmp_path: Path, autocast: dict, packing: bool
) -> None:
    results = []
    for caching in (True, False):
        torch.manual_seed(0)
        args = {**autocast, "use_cpu": True, "gradient_caching": caching}
        trainer = make_trainer(tiny_encoder, data, tmp_path, **args)
        trainer.model.packing = packing
        results.append(step(trainer))
    assert results[0][0] == results[1][0]
    # The cast weights of all chunks gather one gradient in bf16 without caching, and one each with it.
    assert_same(results[0], results[1], 2e-2 if autocast else 1e-5)


def test_fp16_autocast_and_scaling_reach_the_labels(tiny_encoder: str, data: XMCDataset, tmp_path: Path) -> None:
    trainer = make_trainer(tiny_encoder, data, tmp_path, disable_dropout=True, use_cpu=True)
    expected = step(trainer)
    seen: list[torch.dtype] = []
    query = trainer.model.query_encoder.encoder.layer[0].attention.self.query
    query.register_forward_hook(lambda module, args, output: seen.append(output.dtype))
    with torch.autocast("cpu", torch.float16):
        loss = trainer.compute_loss(trainer.model, one_batch(trainer))
    inside = len(seen)
    found = gradients(trainer, loss * 1024)  # outside of autocast, scaled, as a gradient scaler does
    assert len(seen) > inside  # labels were encoded again
    assert set(seen) == {torch.float16}
    assert_same((loss.item(), {name: g / 1024 for name, g in found.items()}), expected, 2e-2)


@pytest.mark.parametrize("caching", [True, False])
def test_checkpointed_layers_change_nothing_but_their_number_of_passes(
    tiny_encoder: str, data: XMCDataset, tmp_path: Path, caching: bool
) -> None:
    results, passes = [], []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        trainer = make_trainer(tiny_encoder, data, tmp_path, gradient_caching=caching, encode_chunk_size=100)
        if checkpointing:
            trainer.model.gradient_checkpointing_enable()
        calls: list[int] = []
        layer = trainer.model.query_encoder.encoder.layer[0].attention
        layer.register_forward_hook(lambda module, args, output, calls=calls: calls.append(output[0].shape[1]))
        results.append(step(trainer))
        passes.append(len(calls))
    assert results[0][0] == results[1][0]
    assert_same(results[1], results[0])
    # One chunk of queries and one of labels. Labels are encoded again with caching, layers are with checkpointing.
    assert passes == [1 + 1 + caching, 2 + 2 + caching]


def test_training_with_checkpointed_layers(tiny_encoder: str, data: XMCDataset, tmp_path: Path) -> None:
    weights = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        trainer = make_trainer(tiny_encoder, data, tmp_path, gradient_checkpointing=checkpointing, max_steps=3)
        trainer.train()
        weights.append([p.detach().clone() for p in trainer.model.parameters()])
    for one, other in zip(*weights, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


NO_COMPILER = not (shutil.which("g++") or shutil.which("clang++"))
INDUCTOR = [pytest.mark.slow, pytest.mark.skipif(NO_COMPILER, reason="inductor needs a C++ compiler on a CPU")]


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=INDUCTOR)])
def test_compiled_encoders(tiny_encoder: str, data: XMCDataset, tmp_path: Path, backend: str) -> None:
    torch.compiler.reset()
    plain = make_trainer(tiny_encoder, data, tmp_path, disable_dropout=True)
    args = {"torch_compile": True, "torch_compile_backend": backend, "max_steps": 2, "encode_chunk_size": 3}
    compiled = make_trainer(tiny_encoder, data, tmp_path, disable_dropout=True, **args)
    assert not compiled.model.packs("label")
    for trainer in (plain, compiled):  # one layer takes half the time
        del trainer.model.query_encoder.encoder.layer[1:]
    assert_same(step(compiled), step(plain))
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    assert 0 < graphs <= 4  # with a mask and without one, for a few texts or one; not one for each length
    compiled.train()
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] <= graphs + 2
    compiled.save_model(str(tmp_path / "model"))
    assert not any("_orig_mod" in key for key in compiled.model.state_dict())


def test_a_chunk_is_limited_by_tokens_and_by_texts(tiny_encoder: str, data: XMCDataset, tmp_path: Path) -> None:
    losses = []
    for limits in ({"encode_chunk_size": 1}, {"encode_chunk_size": None, "encode_chunk_tokens": 12}, {}):
        trainer = make_trainer(tiny_encoder, data, tmp_path, disable_dropout=True, **limits)
        counts = count_texts(trainer)
        losses.append(step(trainer)[0])
        if "encode_chunk_tokens" in limits:
            assert max(counts) <= 4  # the shortest text has three tokens
    assert losses == pytest.approx([losses[0]] * 3, abs=1e-5)


def test_chunks_come_back_in_order() -> None:
    table = torch.arange(10.0).view(5, 2).requires_grad_()
    found = encode_in_chunks(lambda rows: table[torch.from_numpy(rows)], [np.array([3, 0]), np.array([4, 2, 1])])
    assert torch.equal(found, table)
    (found * torch.arange(5.0)[:, None]).sum().backward()
    assert table.grad[:, 0].tolist() == [0, 1, 2, 3, 4]
    assert flatten([[1], [2, 3]], np.array([1, 0]))[0].tolist() == [2, 3, 1]


def test_rows_of_a_table_are_encoded_once_each_text(tiny_encoder: str, data: XMCDataset, tmp_path: Path) -> None:
    """As each of several processes does in an evaluation; one may have none."""
    encoder = make_trainer(tiny_encoder, data, tmp_path).encoder
    table = encoder.label_tokens
    whole = encoder.encode_table(table, "label", "embeddings")
    texts: list[int] = []
    encoder.model.register_forward_pre_hook(
        lambda module, args, kwargs: texts.append(len(kwargs["cu_seq_lens"]) - 1), with_kwargs=True
    )
    rows = np.array([5, 2, 5, 5])
    torch.testing.assert_close(encoder.encode_table(table, "label", "embeddings", rows), whole[rows])
    assert sum(texts) == 2
    assert encoder.encode_table(table, "label", "embeddings", rows[:0]).shape == (0, whole.shape[1])
