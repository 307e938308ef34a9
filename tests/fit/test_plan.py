"""The plan: what fits the budget and the memory, and what the user is told otherwise."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from hf_xmc import load_xmc_dataset
from hf_xmc.errors import SettingsError
from hf_xmc.fit import stages
from hf_xmc.fit.machine import Machine
from hf_xmc.fit.plan import EPOCHS, STEPS, Plan, Speed, make_plan, memory_needed
from hf_xmc.fit.settings import settings_from
from hf_xmc.fit.survey import Survey

MACHINE = Machine(cores=2, memory=16 * 2**30, device="cpu")
QUICK = Speed(token=1e-5, multiply=1e-11, lookup=1e-9)
LENGTHS = np.full(500, 90).tolist()


def surveyed(queries: int = 10_000, labels: int = 1000, words: int = 60) -> Survey:
    return Survey(
        queries={"train": queries, "validation": queries // 10, "test": queries // 10},
        labels=labels,
        labels_without_examples=10,
        labels_a_query=3.0,
        words=words,
        words_95=2 * words,
        label_words=3.0,
        named=0.3,
    )


def test_with_time_enough_nothing_is_cut() -> None:
    plan = make_plan(settings_from("default"), surveyed(), MACHINE, QUICK, LENGTHS, hidden=384)
    assert [stage.name for stage in plan.stages] == ["encode", "train", "combine", "measure"]
    assert plan.settings.max_query_length == 96  # the shortest that covers 90 tokens
    assert plan.settings.epochs == max(EPOCHS["default"], -(-STEPS // 40))
    assert plan.label_strategy == "all"
    assert not plan.notes
    assert plan.minutes < 30


def test_small_sets_get_smaller_batches_and_more_epochs() -> None:
    plan = make_plan(settings_from("default"), surveyed(queries=1000), MACHINE, QUICK, LENGTHS, hidden=384)
    assert plan.settings.batch_size == 64
    assert plan.settings.epochs * 16 >= STEPS


def test_less_time_means_shorter_texts_and_fewer_epochs_and_says_so() -> None:
    slow = Speed(token=3e-4, multiply=2e-9, lookup=2e-8)
    lengths = np.linspace(50, 300, 500).tolist()
    plan = make_plan(settings_from("default", minutes=5), surveyed(), MACHINE, slow, lengths, hidden=384)
    assert plan.settings.max_query_length == 32
    assert plan.settings.epochs == 1
    assert any("first 32 tokens" in note for note in plan.notes)
    assert any("epoch" in note for note in plan.notes)
    assert plan.label_strategy == "all", "1,000 labels are no more than a step over a part of them has"


def test_a_catalogue_too_large_for_all_labels_is_compared_in_part() -> None:
    plan = make_plan(
        settings_from("default"), surveyed(labels=1_000_000), MACHINE, Speed(1e-6, 2e-10, 1e-9), LENGTHS, hidden=384
    )
    assert plan.label_strategy == "selective"
    assert any("of the 1,000,000 labels" in note for note in plan.notes)


def test_the_fast_preset_encodes_nothing() -> None:
    plan = make_plan(settings_from("fast"), surveyed(), MACHINE, QUICK, [], hidden=0)
    assert [stage.name for stage in plan.stages] == ["train", "combine", "measure"]


def test_too_little_memory_says_what_would_fit() -> None:
    survey = surveyed(queries=3_000_000, labels=1_000_000)
    settings = settings_from("default")
    fast = max(memory_needed(settings_from("fast"), survey, 0, "selective").values())
    with pytest.raises(SettingsError, match=r"needs about .* and .* are free; --preset fast would fit"):
        make_plan(settings, survey, Machine(2, int(fast * 1.3), "cpu"), QUICK, LENGTHS, hidden=384)
    with pytest.raises(SettingsError, match="even the smallest preset needs"):
        make_plan(settings, survey, Machine(2, 2**28, "cpu"), QUICK, LENGTHS, hidden=384)


def test_a_plan_survives_json() -> None:
    plan = make_plan(settings_from("default"), surveyed(), MACHINE, QUICK, LENGTHS, hidden=384)
    assert Plan.from_json(json.loads(json.dumps(plan.to_json()))) == plan


def test_query_keys_reach_the_training(toy: Path, tmp_path: Path) -> None:
    data = load_xmc_dataset(toy)
    for wanted in (False, True):
        settings = settings_from("fast", query_keys=wanted, epochs=1, static_dim=8, static_buckets=64)
        plan = Plan((), settings)
        model = stages.new_model(plan, None, 1.0)
        trainer = stages.trainer_for(model, plan, data, tmp_path, stages.ShareDone(lambda share: None))
        assert trainer.args.query_keys == wanted
