"""The trainer with clustered batches: what a step is, when clusters are made anew, restarts, several processes."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from hf_xmc import XMCTrainer, load_xmc_dataset
from hf_xmc.training import query_batches
from hf_xmc.training.checkpoints import BATCHES, FILES
from hf_xmc.training.query_batches import CLUSTERS
from tests.training.rows_seen import Recorder
from tests.training.run_until_killed import trainer_for

ROOT = Path(__file__).parents[2]
CLUSTERED: dict[str, Any] = {  # of about 16 steps of 16 queries, 7 an epoch
    "train_sampling_strategy": "clustered",
    "cluster_size": 2,
    "cluster_refresh_epochs": 2,
    "cluster_growth_epochs": [1],
    "max_steps": 16,
    "save_total_limit": None,
}


def test_a_step_is_a_union_of_clusters(tiny_encoder: str, toy: Path, tmp_path: Path) -> None:
    """Accumulation is part of it. What the schedule says is what happens, and labels are not encoded for it."""
    recorder = Recorder(tiny_encoder, toy, tmp_path)
    trainer = recorder.trainer
    held = {}
    begin = trainer.query_batches.begin

    def keep(epoch: int) -> None:
        begin(epoch)
        assert trainer.query_batches.sampler is not None
        held[epoch] = trainer.query_batches.sampler.clusters

    trainer.query_batches.begin = keep  # type: ignore[method-assign]
    recorder.train()
    count = len(trainer.train_dataset)
    assert recorder.encoded == [(1, "query"), (3, "query"), (4, "query"), (5, "query")]
    assert recorder.sizes == {0: 1, 1: 2, 2: 2, 3: 2, 4: 4, 5: 4}
    logged = [entry["cluster_size"] for entry in trainer.state.log_history if "loss" in entry]
    assert logged == [recorder.sizes[epoch] for epoch, steps in recorder.steps.items() for _ in steps]
    for epoch, steps in recorder.steps.items():
        seen = [row for rows in steps for row in rows]
        assert len(steps) == count // 16
        assert len(set(seen)) == len(seen) == 16 * len(steps)
        if epoch:
            order, bounds = held[epoch]
            cluster = torch.empty(count, dtype=torch.int64)
            cluster[torch.from_numpy(order)] = torch.arange(len(bounds) - 1).repeat_interleave(
                torch.from_numpy(bounds).diff()
            )
            parts = cluster[torch.tensor(steps)].view(-1, recorder.sizes[epoch])
            assert (parts == parts[:, :1]).all()
            assert len(parts[:, 0].unique()) == len(parts)
    assert held[1] is held[2]
    assert held[2] is not held[3]


def test_similar_texts_come_together(tiny_encoder: str, toy: Path, tmp_path: Path) -> None:
    recorders = [
        Recorder(tiny_encoder, toy, tmp_path, train_sampling_strategy=strategy, num_train_epochs=2, cluster_size=16)
        for strategy in ("random", "clustered")
    ]
    texts = load_xmc_dataset(toy).queries["train"]["text"]
    different = []
    for recorder in recorders:
        recorder.train()
        different.append([len({texts[row] for row in rows}) for rows in recorder.steps[1]])
    assert max(different[1]) < min(different[0][:-1])  # the last random batch is smaller


def test_rows_do_not_depend_on_the_loader(tiny_encoder: str, toy: Path, tmp_path: Path) -> None:
    settings: list[dict[str, Any]] = [
        {},
        {"dataloader_num_workers": 1, "dataloader_persistent_workers": True, "dataloader_drop_last": True},
        {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 4},
    ]
    recorders = [Recorder(tiny_encoder, toy, tmp_path, num_train_epochs=2, **args) for args in settings]
    for recorder in recorders:
        recorder.train()
        assert recorder.steps == recorders[0].steps
    assert len(recorders[0].steps) == 2


def test_a_second_training_begins_anew(tiny_encoder: str, toy: Path, tmp_path: Path) -> None:
    recorder = Recorder(tiny_encoder, toy, tmp_path, num_train_epochs=2, learning_rate=0.0)
    recorder.train()
    steps, recorder.steps = recorder.steps, {}
    recorder.train()
    assert recorder.steps == steps
    assert recorder.encoded == 2 * [(1, "query")]


def test_other_strategies_and_evaluation_are_as_before(tiny_encoder: str, toy: Path, tmp_path: Path) -> None:
    for strategy in ("random", "sequential", "group_by_length"):
        recorder = Recorder(tiny_encoder, toy, tmp_path, train_sampling_strategy=strategy, num_train_epochs=1)
        trainer = recorder.train()
        seen = sorted(row for rows in recorder.steps[0] for row in rows)
        assert seen == list(range(len(trainer.train_dataset)))
        assert not recorder.encoded
        assert not any("cluster_size" in entry for entry in trainer.state.log_history)
    trainer = Recorder(tiny_encoder, toy, tmp_path).trainer
    rows = [row for batch in trainer.get_eval_dataloader() for row in batch["row"].tolist()]
    assert rows == list(range(len(trainer.eval_dataset)))


def test_fewer_queries_than_a_step_and_a_frozen_encoder(tiny_encoder: str, toy: Path, tmp_path: Path) -> None:
    few = Recorder(tiny_encoder, toy, tmp_path, per_device_train_batch_size=100, num_train_epochs=2)
    count = len(few.trainer.train_dataset)
    few.train()
    assert [sorted(rows) for steps in few.steps.values() for rows in steps] == 2 * [list(range(count))]
    assert not few.encoded
    frozen = Recorder(tiny_encoder, toy, tmp_path, {"projection_dim": 8}, freeze_encoder=True, num_train_epochs=2)
    frozen.train()
    assert frozen.sizes == {0: 1, 1: 2}


def assert_same(a: Path, b: Path) -> None:
    for file in ("model.safetensors", "label_bank.safetensors", CLUSTERS):
        first, second = load_file(a / file), load_file(b / file)
        assert first.keys() == second.keys()
        assert all(torch.equal(first[name], second[name]) for name in first), file


def test_a_restart_is_bit_equal(tiny_encoder: str, toy: Path, tmp_path: Path) -> None:
    """From the midst of an epoch, before and after clusters grew, and from an end."""
    whole = tmp_path / "whole"
    trainer = trainer_for(tiny_encoder, str(toy), str(whole), **CLUSTERED)
    steps = len(trainer.train_dataset) // 16
    assert steps == 6
    trainer.train()
    sizes = logged_sizes(trainer)
    assert (sizes[steps], sizes[steps + 1]) == (2, 4)
    for start in (3, 6, 9):
        out = tmp_path / f"from-{start}"
        again = trainer_for(tiny_encoder, str(toy), str(out), **CLUSTERED)
        again.train(resume_from_checkpoint=str(whole / f"checkpoint-{start}"))
        assert_same(whole / "checkpoint-15", out / "checkpoint-15")
        assert logged_sizes(again) == sizes


def logged_sizes(trainer: XMCTrainer) -> dict[int, int]:
    """The size of clusters by step."""
    return {e["step"]: e["cluster_size"] for e in trainer.state.log_history if "cluster_size" in e}


def test_a_restart_with_other_batches_clusters_anew(
    tiny_encoder: str, toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(query_batches.logger, "warning", said.append)
    trainer_for(tiny_encoder, str(toy), str(tmp_path), **{**CLUSTERED, "max_steps": 3}).train()
    args = {**CLUSTERED, "max_steps": 4, "gradient_accumulation_steps": 1}
    again = trainer_for(tiny_encoder, str(toy), str(tmp_path), **args)
    again.train(resume_from_checkpoint=True)
    assert "steps of 16 queries, and here they have 8" in said[0]
    assert again.query_batches.sampler is not None
    assert again.query_batches.sampler.clusters is not None
    (tmp_path / "checkpoint-4" / CLUSTERS).unlink()  # of a run with random batches
    listed = json.loads((tmp_path / "checkpoint-4" / BATCHES).read_text())
    listed[FILES].remove(CLUSTERS)
    (tmp_path / "checkpoint-4" / BATCHES).write_text(json.dumps(listed))
    args["max_steps"] = 5
    trainer_for(tiny_encoder, str(toy), str(tmp_path), **args).train(resume_from_checkpoint=True)
    assert len(said) == 1


@pytest.mark.multiprocess
def test_two_processes_see_the_queries_of_one(tiny_encoder: str, toy: Path, tmp_path: Path, python: str) -> None:
    command = [
        *(python, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"),
        *("-m", "tests.training.rows_seen", tiny_encoder, str(toy), str(tmp_path), "4"),
    ]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    one = Recorder(tiny_encoder, toy, tmp_path)
    one.train()
    ranks = [json.loads((tmp_path / f"rows-2-{rank}.json").read_text()) for rank in (0, 1)]  # named by the world size
    for epoch, steps in one.steps.items():
        seen: list[int] = []
        for alone, *parts in zip(steps, *(rank[str(epoch)] for rank in ranks), strict=True):
            assert [len(part) for part in parts] == [8, 8]
            assert sorted(parts[0] + parts[1]) == sorted(alone)
            seen += alone
        assert len(set(seen)) == len(seen) == 16 * (len(one.trainer.train_dataset) // 16)
    assert len(one.steps) == 6
