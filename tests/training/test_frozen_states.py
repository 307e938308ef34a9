"""States of a frozen encoder are computed once for the same texts and weights, also by the next run."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hf_xmc import XMCDataset, load_xmc_dataset
from hf_xmc.training.encoding import TextEncoder
from hf_xmc.training.states import StateBlocks
from tests.training.made import make_trainer


@pytest.fixture
def data(toy: Path) -> XMCDataset:
    return load_xmc_dataset(toy)


def test_the_next_run_finds_them(
    tiny_encoder: str, data: XMCDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[int] = []
    encode = TextEncoder.encode_table

    def counted(self: TextEncoder, tokens: Any, *args: Any, **kwargs: Any) -> Any:
        encoded.append(len(tokens))
        return encode(self, tokens, *args, **kwargs)

    monkeypatch.setattr(TextEncoder, "encode_table", counted)
    data.labels = data.labels.map(lambda row: {"text": row["text"] + " of this test"})  # not in the cache yet
    model = {"projection_dim": 16}
    found = []
    for _ in range(2):
        trainer = make_trainer(tiny_encoder, data, tmp_path, model, freeze_encoder=True, max_steps=1)
        trainer.train()
        found.append(trainer.encoder.frozen(trainer.label_tokens, "label"))
        assert encoded.count(data.num_labels) == 1
    assert torch.equal(found[0], found[1])
    other = make_trainer(tiny_encoder, data, tmp_path, model, freeze_encoder=True)
    with torch.no_grad():
        other.model.query_encoder.embeddings.word_embeddings.weight += 1.0
    assert not torch.allclose(other.encoder.frozen(other.label_tokens, "label"), found[0])
    assert encoded.count(data.num_labels) == 2  # another encoder


def test_a_full_disk_costs_nothing_but_the_next_run(
    tiny_encoder: str, data: XMCDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    data.labels = data.labels.map(lambda row: {"text": row["text"] + " of a full disk"})
    trainer = make_trainer(tiny_encoder, data, tmp_path, {"projection_dim": 16}, freeze_encoder=True)
    expected = trainer.encoder.encode_table(trainer.label_tokens, "label", "pooled")
    monkeypatch.setattr("hf_xmc.training.states.np.save", full)
    assert torch.equal(trainer.encoder.frozen(trainer.label_tokens, "label"), expected)


def test_a_run_that_is_killed_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hf_xmc.training.states.BLOCK", 4)
    states = torch.randn(10, 3)
    seen: list[int] = []
    told: list[int] = []

    def encode(some: np.ndarray) -> torch.Tensor:
        if len(seen) == 2:
            raise KeyboardInterrupt
        seen.append(1)
        return states[some]

    key = [str(tmp_path)]
    with pytest.raises(KeyboardInterrupt):
        StateBlocks(key, 10, 3, encode).load()
    seen.clear()
    assert torch.equal(StateBlocks(key, 10, 3, encode).load(on_encoded=told.append), states)
    assert (len(seen), told) == (1, [4, 4, 2])
    blocks = StateBlocks(key, 10, 3, lambda some: states[some] + 1)
    assert torch.equal(blocks.load(on_encoded=told.append), states)
    assert told[3:] == [10]
    assert not blocks.parts.exists()


def test_a_damaged_block_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hf_xmc.training.states.BLOCK", 4)
    blocks = StateBlocks([str(tmp_path)], 6, 3, lambda some: torch.ones(len(some), 3))
    blocks.parts.mkdir(parents=True)
    (blocks.parts / "0.npy").write_bytes(b"half")
    np.save(blocks.parts / "1.npy", np.zeros((1, 3), np.float32))
    assert blocks.load().eq(1).all()


def test_half_precision_is_kept_apart(tiny_encoder: str, data: XMCDataset, tmp_path: Path) -> None:
    model, found = {"projection_dim": 16}, []
    for dtype in ("float32", "bfloat16"):
        trainer = make_trainer(tiny_encoder, data, tmp_path, model, freeze_encoder=True, encode_dtype=dtype)
        found.append(trainer.encoder.frozen(trainer.label_tokens, "label"))
    assert not torch.equal(found[0], found[1])
    torch.testing.assert_close(found[0], found[1], atol=5e-2, rtol=5e-2)
