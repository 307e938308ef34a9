"""States of a frozen encoder are computed once for the same texts and weights, also by the next run."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest
import torch

from hf_xmc import XMCDataset, load_xmc_dataset
from hf_xmc.training.encoding import TextEncoder
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
    monkeypatch.setattr("hf_xmc.training.encoding.np.save", full)
    assert torch.equal(trainer.encoder.frozen(trainer.label_tokens, "label"), expected)
