from __future__ import annotations

from pathlib import Path

import pytest
import torch

from hf_xmc import XMCDataset, load_xmc_dataset
from tests.training.made import make_trainer

SEPARATE = {"share_encoders": False, "projection_dim": 16}


@pytest.fixture
def data(toy: Path) -> XMCDataset:
    return load_xmc_dataset(toy)


def test_each_part_has_its_rate_and_the_decay_of_the_trainer(
    tiny_encoder: str, data: XMCDataset, tmp_path: Path
) -> None:
    rates = {"projection_learning_rate": 1e-2, "label_encoder_learning_rate": 1e-5, "weight_decay": 0.1}
    trainer = make_trainer(tiny_encoder, data, tmp_path, SEPARATE, **rates)
    plain = make_trainer(tiny_encoder, data, tmp_path, SEPARATE, weight_decay=0.1)
    found = {}
    for name, run in (("parts", trainer), ("plain", plain)):
        optimizer = run.create_optimizer()
        names = {parameter: n for n, parameter in run.model.named_parameters()}
        groups = optimizer.param_groups
        found[name] = {names[p]: (g["lr"], g["weight_decay"]) for g in groups for p in g["params"]}
        assert len(found[name]) == sum(len(g["params"]) for g in groups) == len(names), "each once"
    assert found["parts"].keys() == found["plain"].keys()
    for name, (rate, decay) in found["parts"].items():
        expected = 1e-2 if "projection" in name else 1e-5 if name.startswith("label_encoder") else 1e-3
        assert (rate, decay) == (expected, found["plain"][name][1]), name


def test_a_rate_of_zero_moves_nothing_else_does(tiny_encoder: str, data: XMCDataset, tmp_path: Path) -> None:
    trainer = make_trainer(tiny_encoder, data, tmp_path, SEPARATE, label_encoder_learning_rate=0.0, max_steps=3)
    before = {name: p.clone() for name, p in trainer.model.named_parameters()}
    trainer.train()
    for name, parameter in trainer.model.named_parameters():
        moved = not torch.equal(parameter, before[name])
        assert moved != name.startswith("label_encoder") or "key.bias" in name, name  # keys' biases have no gradient
    assert trainer.state.log_history[0]["learning_rate"] == pytest.approx(1e-3)


def test_schedules_and_checkpoints_go_on(tiny_encoder: str, data: XMCDataset, tmp_path: Path) -> None:
    settings = {"projection_learning_rate": 1e-2, "max_steps": 6, "save_strategy": "steps", "save_steps": 3}
    whole = make_trainer(tiny_encoder, data, tmp_path, {"projection_dim": 8}, **settings)
    whole.train()
    assert [group["lr"] for group in whole.optimizer.param_groups] == pytest.approx([0, 0, 0], abs=1e-9)
    again = make_trainer(tiny_encoder, data, tmp_path, {"projection_dim": 8}, **settings)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    for (name, a), b in zip(whole.model.named_parameters(), again.model.parameters(), strict=True):
        assert torch.equal(a, b), name


def test_a_rate_for_a_part_that_is_not_there(tiny_encoder: str, data: XMCDataset, tmp_path: Path) -> None:
    trainer = make_trainer(tiny_encoder, data, tmp_path, label_encoder_learning_rate=1e-3)
    with pytest.raises(ValueError, match="label_encoder_learning_rate is given, but the model has no trainable"):
        trainer.create_optimizer()
