"""Every loss with every label strategy, with all positives and with one: it trains, or its settings are refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from hf_xmc import XMCTrainer, XMCTrainingArguments, load_xmc_dataset, losses
from hf_xmc.errors import SettingsError
from hf_xmc.losses import LOSSES, Loss
from hf_xmc.training.candidates.registry import rules
from hf_xmc.types import Positives
from tests.training.made import make_trainer, one_batch

CLASSES = [
    loss for loss in vars(losses).values() if isinstance(loss, type) and issubclass(loss, Loss) and loss is not Loss
]
TEMPERATURE = 0.5  # at 0.05 some losses of an untrained model are beyond float32
MINING = {
    "label_budget": 9,
    "soft_top_k": 1,
    "num_hard_negatives": 2,
    "mining_depth": 4,
    "disable_dropout": True,
    "use_cpu": True,
}


@pytest.fixture(scope="module")
def trainer(tiny_encoder: str, toy: Path, tmp_path_factory: pytest.TempPathFactory) -> XMCTrainer:
    """One for all cases: only its arguments and what is made of them change."""
    data = load_xmc_dataset(toy)
    data.queries["train"] = data.queries["train"].select(range(24))
    folder, temperature = tmp_path_factory.mktemp("run"), {"temperature": TEMPERATURE}
    return make_trainer(tiny_encoder, data, folder, temperature, label_strategy="in_batch")


def two_steps(trainer: XMCTrainer) -> list[Tensor]:
    """The loss of a batch, and that after a step against its gradient."""
    trainer.connect()
    trainer.begin_epoch(0)
    start = {name: weights.detach().clone() for name, weights in trainer.model.named_parameters()}
    found = []
    for _ in range(2):
        trainer.model.zero_grad()
        loss = trainer.compute_loss(trainer.model, one_batch(trainer, range(4)))
        loss.backward()
        found.append(loss.detach())
        with torch.no_grad():
            for weights in trainer.model.parameters():
                if weights.grad is not None:
                    weights -= 1e-3 * weights.grad / (weights.grad.norm() + 1e-8)
    with torch.no_grad():
        for name, weights in trainer.model.named_parameters():
            weights.copy_(start[name])
    return found


def test_all_losses_are_here() -> None:
    assert {*LOSSES} < {loss.name for loss in CLASSES}
    assert len(CLASSES) >= 10


@pytest.mark.parametrize("loss", CLASSES, ids=lambda loss: loss.name)
def test_a_loss_trains_with_every_strategy(loss: type[Loss], trainer: XMCTrainer) -> None:
    named = {"loss": loss.name} if loss.name in LOSSES else {}
    trainer.given_loss = None if named else loss.from_arguments(None, TEMPERATURE)
    if isinstance(trainer.given_loss, losses.PositiveUnlabelledLoss):
        trainer.given_loss.alpha = 100.0  # an untrained model's scores spread so little that each sigmoid would be 1
    firsts = {}
    for strategy in rules():
        for count, pairs in ((None, False), (1, False), (1, True)):
            if pairs and strategy != "in_batch":
                continue
            trainer.args = XMCTrainingArguments(
                trainer.args.output_dir,
                label_strategy=strategy,
                num_positives=count,
                drawn_pairs=pairs,
                report_to="none",
                **{**MINING, **named},
            )
            first, second = two_steps(trainer)
            assert torch.isfinite(first), (strategy, count)
            assert second < first, f"{strategy}, {count} positives: a step along the gradient"
            firsts[strategy, count, pairs] = float(first)
    assert firsts["all", 1, False] != firsts["all", None, False]
    assert firsts["in_batch", 1, True] != firsts["in_batch", 1, False]


def test_what_cannot_train_is_refused(tmp_path: Path, trainer: XMCTrainer) -> None:
    """By one sentence, before the first step."""

    class OverAll(nn.Module):
        def forward(
            self, queries: Tensor, labels: Tensor, positives: Positives, ignored: Positives | None = None
        ) -> Tensor:
            return (queries @ labels.T).logsumexp(1).mean()

    trainer.given_loss = OverAll()
    settings = {"report_to": "none", **MINING}
    for strategy in rules():
        trainer.args = XMCTrainingArguments(str(tmp_path), label_strategy=strategy, num_positives=1, **settings)
        if strategy in ("all", "selective"):
            with pytest.raises(SettingsError, match="num_positives is 1, but the loss OverAll has no argument 'samp"):
                trainer.connect()
        else:
            assert torch.isfinite(two_steps(trainer)[0])
    for wrong, message in (
        ({"drawn_pairs": True}, "needs num_positives"),
        ({"drawn_pairs": True, "num_positives": 1, "label_strategy": "all"}, "drawn_pairs"),
        ({"num_positives": 0}, "num_positives is 0; it must be at least 1"),
        ({"label_strategy": "mined", "negative_source": "label_bank"}, "mined needs an index"),
        ({"label_strategy": "mixed", "mining_depth": 1}, "mining_depth is 1, but num_hard_negatives"),
    ):
        given = {"label_strategy": "in_batch", **settings, **wrong}
        with pytest.raises(SettingsError, match=message):
            XMCTrainingArguments(str(tmp_path), **given)
