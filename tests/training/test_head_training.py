"""A label head through the life of a trainer: trained twice, resumed without state, pushed while it is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from hf_xmc import XMCDataset, load_xmc_dataset
from hf_xmc.modeling import LabelHead
from tests.training.made import make_trainer

KINDS = ("residual", "classifier")


@pytest.fixture
def data(toy: Path) -> XMCDataset:
    return load_xmc_dataset(toy)


def test_what_is_pushed_while_training_has_the_head(
    tiny_encoder: str, data: XMCDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    args = {"max_steps": 2, "save_strategy": "steps", "save_steps": 1}
    trainer = make_trainer(tiny_encoder, data, tmp_path, {"label_head": "residual"}, **args)
    pushed = []

    def push(self: Any, folder: str) -> None:
        pushed.append(LabelHead.load(folder).vectors)

    monkeypatch.setattr("hf_xmc.training.trainer.XMCTrainer._push_from_checkpoint", push)
    trainer.args.push_to_hub = True
    trainer.init_hf_repo = lambda *_, **__: None  # type: ignore[method-assign]
    trainer.train()
    assert len(pushed) == 2
    assert not torch.equal(*pushed)


@pytest.mark.parametrize("kind", KINDS)
def test_a_second_training_goes_on_from_the_first(
    tiny_encoder: str, data: XMCDataset, tmp_path: Path, kind: str
) -> None:
    trainer = make_trainer(tiny_encoder, data, tmp_path, {"label_head": kind}, max_steps=3)
    trainer.train()
    assert trainer.model.label_head is not None
    learned = trainer.model.label_head.vectors.clone()
    assert learned.any()
    trainer.args.label_head_learning_rate = 1e-12
    trainer.train()
    torch.testing.assert_close(trainer.model.label_head.vectors, learned)


def test_resume_without_the_state_of_the_optimizer(tiny_encoder: str, data: XMCDataset, tmp_path: Path) -> None:
    """As `Trainer` does: weights go on from there, optimizers begin anew."""
    args = {"max_steps": 6, "save_strategy": "steps", "save_steps": 3, "save_only_model": True}
    first, again = (make_trainer(tiny_encoder, data, tmp_path, {"label_head": "residual"}, **args) for _ in range(2))
    first.train()
    assert again.vectors is not None
    again.vectors.squares += 1
    again.vectors.load(tmp_path / "checkpoint-6")
    assert torch.equal(again.vectors.rows, first.vectors.rows)  # type: ignore[union-attr]
    assert not again.vectors.squares.any()
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert again.state.global_step == 6
    other = make_trainer(tiny_encoder, data, tmp_path, {"label_head": "classifier"}, **args)
    with pytest.raises(ValueError, match="holds a residual head"):
        other.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
