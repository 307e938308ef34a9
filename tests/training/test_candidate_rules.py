"""Candidate rules: found by name, each in a file of its own; a new one needs no other change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from hf_xmc import XMCDataset, XMCTrainingArguments, load_xmc_dataset
from hf_xmc.errors import SettingsError
from hf_xmc.training.candidates import registry
from hf_xmc.training.candidates.mixed import MixedFromBank
from hf_xmc.training.candidates.rule import CandidateRule, Candidates, Demand, Sizes, Window, unique
from hf_xmc.training.planning.plan import Choice
from tests.training.made import make_trainer, one_batch


class FirstLabels(CandidateRule):
    """What the file of a new rule holds: the positives of the batch, and the first labels of the catalogue."""

    name = ""  # "first" in its own test alone
    description = "the positives of the batch and the first labels"

    @classmethod
    def check(cls, args: Any) -> None:
        if args.label_budget > 100:
            raise SettingsError("label_strategy first needs a label_budget of at most 100")

    @classmethod
    def demand(cls, args: Any, sizes: Sizes) -> Demand:
        return Demand(sizes.distinct_positives(None) + args.label_budget)

    def choose(self, window: Window) -> Candidates:
        return Candidates(unique(window.positives(None, 0).indices, torch.arange(self.args.label_budget)))


@pytest.fixture
def data(toy: Path) -> XMCDataset:
    return load_xmc_dataset(toy)


def test_a_new_rule_is_one_class(
    tiny_encoder: str, data: XMCDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FirstLabels, "name", "first")
    trainer = make_trainer(tiny_encoder, data, tmp_path, label_strategy="first", label_budget=2, max_steps=2)
    step = trainer.new_step([one_batch(trainer, range(2))])
    step.loss()
    found = step.candidates.ids
    assert found is not None
    assert {0, 1} <= set(found.tolist())
    trainer.train()
    assert trainer.state.global_step == 2
    with pytest.raises(SettingsError, match="at most 100"):
        XMCTrainingArguments(str(tmp_path), label_strategy="first")
    sizes = Sizes(10, 12, 4, 2, 2, lambda count: 3)
    assert registry.rule_named("first").demand(Choice(2, label_budget=4), sizes).candidates == 7


def test_rules_by_name() -> None:
    assert list(registry.rules()) == ["all", "in_batch", "mined", "mixed", "selective"]
    for name, rule in registry.rules().items():
        assert rule.description, name
    with pytest.raises(SettingsError, match="label_strategy is 'hardest'; expected one of all, in_batch"):
        registry.rule_named("hardest")


def test_hard_is_the_old_name_of_mixed_from_the_label_bank(
    tiny_encoder: str, data: XMCDataset, tmp_path: Path
) -> None:
    weights = []
    for settings in ({"label_strategy": "hard"}, {"label_strategy": "mixed", "negative_source": "label_bank"}):
        torch.manual_seed(0)
        trainer = make_trainer(tiny_encoder, data, tmp_path, max_steps=2, num_hard_negatives=2, **settings)
        assert (trainer.args.label_strategy, trainer.args.negative_source) == ("mixed", "label_bank")
        assert isinstance(trainer.rule, MixedFromBank)
        trainer.train()
        weights.append(trainer.model.state_dict())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    with pytest.raises(SettingsError, match="needs an index"):
        XMCTrainingArguments(str(tmp_path), label_strategy="mined", negative_source="label_bank")


def test_choosing_changes_nothing(tiny_encoder: str, data: XMCDataset, tmp_path: Path) -> None:
    """The same candidates twice, and a bank that stays as it was."""
    settings = {"label_strategy": "selective", "label_budget": 8, "label_refresh": 2}
    trainer = make_trainer(tiny_encoder, data, tmp_path, disable_dropout=True, **settings)
    batch = one_batch(trainer, range(2))
    step = trainer.new_step([batch])
    window = step.window(step.queries(0))
    trainer.rule.prepare(window)
    before = trainer.rule.bank.encoded_at.clone(), trainer.rule.bank.embeddings.clone()
    one, two = trainer.rule.choose(window), trainer.rule.choose(window)
    assert torch.equal(one.ids, two.ids)
    assert torch.equal(one.log_weights, two.log_weights)
    assert one.report == two.report
    assert torch.equal(before[0], trainer.rule.bank.encoded_at)
    assert torch.equal(before[1], trainer.rule.bank.embeddings)
    assert step.candidates.ids is None, "the step is not touched either"
