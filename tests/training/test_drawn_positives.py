"""Positives drawn for a step reach the loss, as in the code of DEXML and NGAME, whose formulas stand beside."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from hf_xmc import XMCDataset, XMCTrainer, XMCTrainingArguments, load_xmc_dataset
from hf_xmc.data.collator import unpack
from hf_xmc.errors import SettingsError
from hf_xmc.sampling.draws import draw_pairs
from tests.training.made import gradients, make_trainer, one_batch

EXACT = {"label_strategy": "all", "disable_dropout": True}


@pytest.fixture(scope="module")
def data(toy: Path) -> XMCDataset:
    return load_xmc_dataset(toy)


def dense(trainer: XMCTrainer) -> tuple[Tensor, Tensor, Tensor]:
    """Scores of the batch `[B, L]`, and masks of its positives and of the drawn ones."""
    batch = one_batch(trainer)
    queries = trainer.encoder.queries(batch["row"], trainer.train_dataset.tokens)
    scores = queries @ trainer.encoder.labels().T
    positives = unpack(batch, "positives")
    assert positives is not None
    drawn = draw_pairs(positives, batch["row"], trainer.args.num_positives or 99, trainer.args.seed, 0)
    true, chosen = (torch.zeros_like(scores, dtype=torch.bool) for _ in range(2))
    true[positives.rows, positives.indices] = True
    chosen[drawn.rows, drawn.indices] = True
    return scores, true, chosen


def decoupled(trainer: XMCTrainer) -> Tensor:
    """`decoupled-softmax` of DEXML 7690769 with `loss_sample`."""
    sim, true, drawn = dense(trainer)
    sim = sim / 0.05
    others = sim.masked_fill(true, -100.0).logsumexp(1, keepdim=True)
    terms = (torch.logaddexp(others, sim) - sim) * drawn
    return (terms.sum(1) / drawn.sum(1)).sum() / len(sim)


def soft_top_k(trainer: XMCTrainer, k: int = 2, alpha: float = 1.5) -> Tensor:
    """`topk` of DEXML 7690769; the bisection is without gradient, which `v v^T / sum v` stands for."""
    sim, true, drawn = dense(trainer)
    sim = (sim / 0.05).masked_fill(true & ~drawn, -100.0)
    fixed = sim.detach()
    low, high = -fixed.amax(1) - 10, -fixed.amin(1) + 10
    for _ in range(60):
        middle = (low + high) / 2
        below = torch.sigmoid(alpha * (fixed + middle[:, None])).sum(1) < k
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    z = torch.sigmoid(alpha * (fixed + low[:, None]))
    v = z * (1 - z)
    t = low - ((v * (sim - fixed)).sum(1) / v.sum(1))  # the implicit gradient of the threshold
    log_z = torch.nn.functional.logsigmoid(alpha * (sim + t[:, None]))
    return -((log_z * drawn).sum(1) / drawn.sum(1)).sum() / len(sim)


def softmax(trainer: XMCTrainer) -> Tensor:
    """`softmax` of DEXML 7690769 with `loss_sample`: positives that were not drawn stay in the denominator."""
    sim, _, drawn = dense(trainer)
    return -((sim / 0.05).log_softmax(1) * drawn).sum() / len(sim)


@pytest.mark.parametrize(
    ("loss", "formula", "options"),
    [
        ("decoupled_softmax", decoupled, {}),
        ("soft_top_k", soft_top_k, {"soft_top_k": 2, "soft_top_k_alpha": 1.5}),
        ("softmax", softmax, {}),
    ],
)
def test_a_step_over_all_labels_is_theirs(
    loss: str, formula: Any, options: dict, tiny_encoder: str, data: XMCDataset, tmp_path: Path
) -> None:
    trainer = make_trainer(tiny_encoder, data, tmp_path, loss=loss, num_positives=1, **EXACT, **options)
    found = trainer.compute_loss(trainer.model, one_batch(trainer))
    expected = formula(trainer)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    ours, theirs = gradients(trainer, found), gradients(trainer, expected)
    for name, gradient in theirs.items():
        torch.testing.assert_close(ours[name], gradient, rtol=1e-3, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")
    trainer.args.num_positives = None
    assert not torch.isclose(trainer.compute_loss(trainer.model, one_batch(trainer)), found)


@pytest.mark.parametrize("loss", ["one_vs_all", "prob_contrastive", "triplet_hardest", "triplet_margin"])
def test_parts_of_a_window_add_up(loss: str, tiny_encoder: str, data: XMCDataset, tmp_path: Path) -> None:
    """Two micro-batches of 8 are a batch of 16, however many positives of each are drawn; and `selective` over all
    labels is `all`."""
    trainer = make_trainer(tiny_encoder, data, tmp_path, loss=loss, num_positives=1, **EXACT)
    whole = trainer.compute_loss(trainer.model, one_batch(trainer))
    step = trainer.new_step([one_batch(trainer, range(8)), one_batch(trainer, range(8, 16))])
    assert torch.isclose(step.loss()[0] + step.loss()[0], whole, rtol=1e-5)
    selective = {**EXACT, "label_strategy": "selective", "label_budget": 99}
    trainer = make_trainer(tiny_encoder, data, tmp_path, loss=loss, num_positives=1, **selective)
    torch.testing.assert_close(trainer.compute_loss(trainer.model, one_batch(trainer)), whole)


@pytest.mark.parametrize("strategy", ["in_batch", "mined", "mixed", "selective"])
def test_every_strategy_draws(strategy: str, tiny_encoder: str, data: XMCDataset, tmp_path: Path) -> None:
    settings = {"label_strategy": strategy, "label_budget": 10, "num_hard_negatives": 2, "disable_dropout": True}
    settings["per_device_train_batch_size"] = 2  # the positives of more are all labels anyway
    found = []
    for count in (None, 1):
        trainer = make_trainer(tiny_encoder, data, tmp_path, num_positives=count, max_steps=1, **settings)
        torch.manual_seed(0)
        trainer.train()
        found.append(next(entry["loss"] for entry in trainer.state.log_history if "loss" in entry))
    assert found[0] != found[1]


def test_drawn_pairs_are_the_first_stage_of_ngame(tiny_encoder: str, data: XMCDataset, tmp_path: Path) -> None:
    """`TripletMarginLossOHNM` of ngame f702974 over the drawn positives of all queries, repeated as `collate_implicit`
    repeats them: column b is the positive that was drawn for query b."""
    settings = {"loss": "triplet_margin", "label_strategy": "in_batch", "drawn_pairs": True, "num_positives": 1}
    options = {"num_hard_negatives": 5, "triplet_margin": 0.2, "triplet_temperature": 0.3, "disable_dropout": True}
    trainer = make_trainer(tiny_encoder, data, tmp_path, **settings, **options)
    found = trainer.compute_loss(trainer.model, one_batch(trainer))
    scores, true, drawn = dense(trainer)
    own = drawn.int().argmax(1)  # [B]
    assert len(own.unique()) < len(own), "a label that was drawn twice"
    input, target = scores[:, own], true[:, own]  # [B, B]
    sim_n, _ = input.masked_fill(target, -10.0).topk(5, dim=1)
    loss = (sim_n - input.diagonal()[:, None] + 0.2).relu()
    expected = (loss * torch.softmax(sim_n / 0.3 * (loss != 0), dim=1)).mean()
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)
    ours, theirs = gradients(trainer, found), gradients(trainer, expected)
    for name, gradient in theirs.items():
        torch.testing.assert_close(ours[name], gradient, rtol=1e-3, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")
    step = trainer.new_step([one_batch(trainer, range(8)), one_batch(trainer, range(8, 16))])
    assert torch.isclose(step.loss()[0] + step.loss()[0], found, rtol=1e-5)
    with pytest.raises(SettingsError, match="needs num_positives"):
        XMCTrainingArguments(str(tmp_path), label_strategy="in_batch", drawn_pairs=True)
