"""Adam of single rows beside torch's, and learning rates that fall in steps, as NGAME trains its classifiers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from hf_xmc import XMCTrainingArguments, load_xmc_dataset
from hf_xmc.errors import SettingsError
from hf_xmc.training.optimizer import step_decay
from hf_xmc.training.sparse_adam import update_rows_by_adam
from tests.training.made import make_trainer

HEAD = {"label_head": "classifier", "projection_dim": 8}
SETTINGS = {
    **{"freeze_encoder": True, "label_head_loss_weight": 1.0, "label_strategy": "in_batch", "num_train_epochs": 2},
    **{"label_head_optimizer": "sparse_adam", "label_head_learning_rate": 1e-3, "lr_decay_epochs": 1},
}


def test_the_same_as_torch() -> None:
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(7, 5, generator=generator)
    expected = torch.nn.Parameter(table.clone())
    optimizer = torch.optim.SparseAdam([expected], lr=0.01)
    means, squares = torch.zeros(7, 5), torch.zeros(7, 5)
    for count in range(1, 6):
        ids = torch.randperm(7, generator=generator)[:3].sort().values
        gradients = torch.randn(3, 5, generator=generator)
        gradients[0] = 0  # moves all the same, by what came before
        update_rows_by_adam(table, means, squares, ids, gradients * 8, 0.01, count, scale=8.0)
        expected.grad = torch.sparse_coo_tensor(ids[None], gradients, (7, 5))
        optimizer.step()
    torch.testing.assert_close(table, expected.detach())
    half = torch.zeros(4, 2000, dtype=torch.bfloat16)
    update_rows_by_adam(half, *torch.zeros(2, 4, 2000), torch.tensor([2]), torch.ones(1, 2000), 0.01, 1)
    assert half[2].float().mean().item() == pytest.approx(-0.01, rel=0.01)
    assert not half[[0, 1, 3]].any()


def test_steps_of_the_learning_rate(tmp_path: Path) -> None:
    args = XMCTrainingArguments(str(tmp_path), lr_decay_epochs=14, lr_decay_factor=0.5)
    factor = step_decay(args, steps_per_epoch=10, warmup_steps=4)
    assert [factor(step) for step in (0, 1, 4, 139, 140, 279, 280)] == [0, 0.25, 1, 1, 0.5, 0.5, 0.25]
    assert step_decay(args, 10, 0)(0) == 1
    with pytest.raises(SettingsError, match="lr_decay_factor is 2"):
        XMCTrainingArguments(str(tmp_path), lr_decay_factor=2)


def test_a_classifier_by_sparse_adam(tiny_encoder: str, toy: Path, tmp_path: Path) -> None:
    data = load_xmc_dataset(toy)
    trainer = make_trainer(tiny_encoder, data, tmp_path, model=HEAD, save_strategy="epoch", **SETTINGS)
    trainer.train()
    rates = [entry["learning_rate"] for entry in trainer.state.log_history if "learning_rate" in entry]
    assert {round(rate / trainer.args.learning_rate, 3) for rate in rates} == {1.0, 0.5}
    assert trainer.vectors is not None
    vectors, means = trainer.vectors.rows.clone(), trainer.vectors.means.clone()
    assert means.any()

    checkpoint = sorted(tmp_path.glob("checkpoint-*"), key=lambda folder: int(folder.name.split("-")[1]))[0]
    again = make_trainer(tiny_encoder, data, tmp_path, model=HEAD, **SETTINGS)
    again.train(str(checkpoint))
    assert again.vectors is not None
    torch.testing.assert_close(again.vectors.rows, vectors)
    torch.testing.assert_close(again.vectors.means, means)
    other = make_trainer(tiny_encoder, data, tmp_path, model=HEAD, **{**SETTINGS, "label_head_optimizer": "adagrad"})
    with pytest.raises(SettingsError, match="another label_head_optimizer"):
        other.train(str(checkpoint))
