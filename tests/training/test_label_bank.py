from __future__ import annotations

from pathlib import Path

import pytest
import torch

from hf_xmc.training.candidates import label_bank
from hf_xmc.training.candidates.label_bank import LabelBank


def test_every_row_has_its_turn() -> None:
    bank = LabelBank(7, 2)
    ages = []
    for step in range(1, 12):
        rows = bank.oldest(2)
        assert rows.tolist() == sorted(rows.tolist())
        bank.update(rows, torch.ones(len(rows), 2), step)
        bank.update(torch.tensor([3]), torch.ones(1, 2), step)  # always fresh: takes no turn
        ages.append(bank.oldest_age(step))
    assert ages[-1] == 2
    assert max(ages[4:]) == 2


@pytest.mark.parametrize("mapped", [False, True])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_saved_and_loaded(mapped: bool, dtype: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if mapped:
        monkeypatch.setattr(label_bank, "MAPPED_BYTES", 1)
    bank = LabelBank(5, 3, dtype, tmp_path)
    bank.fill_at_random(seed=0)
    assert bank.embeddings.float().norm(dim=1) == pytest.approx(torch.ones(5), abs=0.01)
    bank.update(torch.tensor([4, 1]), torch.eye(2, 3), step=9)
    assert not list(tmp_path.iterdir())  # a mapped file leaves no name behind
    bank.save(tmp_path)
    again = LabelBank(5, 3, dtype, tmp_path)
    assert again.load(tmp_path)
    assert torch.equal(again.embeddings, bank.embeddings)
    assert again.embeddings[4].tolist() == [1, 0, 0]
    assert again.encoded_at.tolist() == [-1, 9, -1, -1, 9]
    with pytest.raises(ValueError, match="holds a label bank of"):
        LabelBank(6, 3, dtype).load(tmp_path)
    assert not LabelBank(5, 3).load(tmp_path / "elsewhere")


def test_a_bank_that_the_disk_has_no_room_for(tmp_path: Path) -> None:
    """Said at once: the file is sparse, and a write into a full disk would kill the process."""
    with pytest.raises(OSError, match=r"needs .* GiB on the disk .* make room"):
        LabelBank(1, 2**54, torch.float16, tmp_path)
    assert not list(tmp_path.iterdir())


def test_banks_of_two_machines_do_not_meet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Process ids repeat on another machine, whose output folder may be the same."""
    monkeypatch.setattr(label_bank, "MAPPED_BYTES", 1)
    monkeypatch.setattr(label_bank.os, "getpid", lambda: 7)
    (tmp_path / ".label_bank.7").write_bytes(b"another's")
    bank = LabelBank(5, 3, folder=tmp_path)
    assert not bank.embeddings.any()
    assert (tmp_path / ".label_bank.7").read_bytes() == b"another's"
