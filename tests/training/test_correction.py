"""Correction while training: sure pairs are found, take no part or are promoted, and are in the checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset
from safetensors.numpy import load_file

from hf_xmc import Positives, XMCDualEncoderModel, XMCTrainer, XMCTrainingArguments
from hf_xmc.training.correction import CORRECTION, LabelCorrection

WORDS = ["red", "green", "blue", "car", "house", "river"]


def trainer(folder: Path, **settings: Any) -> tuple[XMCTrainer, list[list[int]]]:
    """A static tower over texts of two words, whose labels are the words; a third of the pairs is not given."""
    random = np.random.default_rng(0)
    truth = [sorted({int(random.integers(3)), 3 + int(random.integers(3))}) for _ in range(200)]
    given = [[label for label in row if random.random() > 1 / 3] for row in truth]
    texts = [" ".join(WORDS[label] for label in row) for row in truth]
    columns = {"uid": [f"q{i}" for i in range(200)], "text": texts, "labels": given}
    labels = Dataset.from_dict({"uid": WORDS, "text": WORDS})
    model = XMCDualEncoderModel.from_encoder(None, static_dim=16, static_buckets=4096)
    usual: dict[str, Any] = {
        "num_train_epochs": 3,
        "per_device_train_batch_size": 10,
        "static_learning_rate": 0.5,
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
        "save_strategy": "epoch",
    }
    args = XMCTrainingArguments(str(folder), **{**usual, **settings})
    return XMCTrainer(model, args, Dataset.from_dict(columns), label_dataset=labels), truth


def corrections(of: XMCTrainer) -> LabelCorrection:
    return next(one for one in of.callback_handler.callbacks if isinstance(one, LabelCorrection))


@pytest.mark.parametrize("mode", ["ignore", "promote"])
def test_sure_pairs(mode: str, tmp_path: Path) -> None:
    run, truth = trainer(tmp_path, label_correction=mode)
    before = run.train_dataset.positives
    seen = []
    correction = corrections(run)
    apply = correction.apply

    def applied() -> None:
        apply()
        seen.append((len(correction.found), run.train_dataset.positives, run.train_dataset.ignored))

    correction.apply = applied  # type: ignore[method-assign]
    run.train()
    assert [count > 0 for count, _, _ in seen] == [False, True, True]
    count, positives, ignored = seen[-1]
    found = correction.found
    right = [label in truth[row] for row, label in zip(found.rows, found.labels, strict=True)]
    assert np.mean(right) > 0.8
    if mode == "promote":
        assert ignored is None
        assert len(positives.indices) == len(before.indices) + count
        assert (positives.weights == 0.5).sum() == count
    else:
        assert positives is before
        assert len(ignored.indices) == count
        assert not before.contains_pairs(ignored).any()
    logged = [entry for entry in run.state.log_history if "corrected_share" in entry]
    assert [entry["corrected_pairs"] for entry in logged] == [size for size, _, _ in seen[1:]]
    assert run.train_dataset.positives is before
    assert run.train_dataset.ignored is None


def test_a_checkpoint_has_them(tmp_path: Path) -> None:
    """A run that is resumed in the middle of an epoch goes on with the pairs of that epoch."""
    usual: dict[str, Any] = {"label_correction": "ignore", "num_train_epochs": 2}
    whole, _ = trainer(tmp_path / "whole", save_strategy="steps", save_steps=30, **usual)
    whole.train()
    checkpoint = tmp_path / "whole" / "checkpoint-30"
    saved = load_file(checkpoint / CORRECTION)
    assert (len(saved["rows"]) > 0, saved["epoch"].tolist()) == (True, [1])
    again, _ = trainer(tmp_path / "whole", save_strategy="no", **usual)
    correction = corrections(again)
    correction.sure_pairs = None  # type: ignore[method-assign, assignment]  # it would fail if it were asked again
    again.train(resume_from_checkpoint=str(checkpoint))
    np.testing.assert_array_equal(correction.found.rows, saved["rows"])
    np.testing.assert_array_equal(correction.found.labels, saved["labels"])
    assert again.state.global_step == whole.state.global_step == 40


def test_thresholds_are_those_of_labels_as_frequent(tmp_path: Path) -> None:
    run, _ = trainer(tmp_path)
    correction = LabelCorrection(run, quantile=0.5)
    queries, labels = np.eye(3, dtype=np.float32), np.eye(3, 4, dtype=np.float32)[:, :3]
    labels = np.vstack([labels * [[1.0], [0.5], [0.2]], np.zeros((1, 3))]).astype(np.float32)
    found = correction.thresholds(queries, labels, Positives.from_lists([[0], [1], [2]]))
    assert found.tolist() == [0.5, 0.5, 0.5, np.inf]
    with pytest.raises(ValueError, match="mode is 'drop'"):
        LabelCorrection(run, mode="drop")
    with pytest.raises(ValueError, match="label_correction is 'drop'"):
        trainer(tmp_path, label_correction="drop")
