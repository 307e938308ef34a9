"""Soft positives: kept beside the given pairs, merged for training, gone when a source is dropped."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hf_xmc import Positives, load_xmc_dataset
from hf_xmc.data.dataset import XMCDataset
from hf_xmc.data.soft_positives import SoftPositives
from hf_xmc.data.summary.statistics import statistics
from hf_xmc.errors import DataError


@pytest.fixture(scope="module")
def data() -> XMCDataset:
    return load_xmc_dataset("sample")


@pytest.fixture
def soft() -> SoftPositives:
    return SoftPositives.of([0, 2], [7, 3], 0.5, "teacher", 4).joined(SoftPositives.of([1], [5], 1.0, "corrected"))


def test_a_prepared_set_keeps_them(data: XMCDataset, soft: SoftPositives, tmp_path: Path) -> None:
    replace(data, soft=soft).save(tmp_path / "set")
    kept = load_xmc_dataset(tmp_path / "set")
    assert kept.soft is not None
    for ours, theirs in zip(kept.soft.parts(), soft.parts(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(kept.positives("train").indices, data.positives("train").indices)
    assert statistics(kept).facts()["Soft positives"] == "1 corrected, 2 teacher"
    assert kept.fingerprint() == data.fingerprint()

    kept.without_soft("teacher").save(tmp_path / "set")
    left = load_xmc_dataset(tmp_path / "set").soft
    assert left is not None
    assert left.counts() == {"corrected": 1}
    left = left.without("corrected")
    replace(data, soft=left).save(tmp_path / "set")
    assert load_xmc_dataset(tmp_path / "set").soft is None
    assert not (tmp_path / "set" / "soft").exists()


def test_sources_are_chosen(data: XMCDataset, soft: SoftPositives) -> None:
    both = replace(data, soft=soft)
    assert both.soft_positives() is soft
    chosen = both.soft_positives(["corrected"])
    assert chosen is not None
    assert chosen.labels.tolist() == [5]
    with pytest.raises(DataError, match="no soft positives of 'techer'"):
        both.soft_positives(["techer"])
    assert data.soft_positives() is None


def test_merged() -> None:
    given = Positives.from_lists([[2], [3, 4], []], [[0.5], [1.0, 1.0], []])
    soft = SoftPositives.of([1, 0, 2], [3, 9, 0], [0.0, 0.25, 1.0], "corrected")
    later = soft.joined(SoftPositives.of([0], [9], 0.75, "corrected", step=10))
    assert soft.merged(given).weights.tolist() == [0.5, 0.25, 0.0, 1.0, 1.0]
    merged = later.merged(given)
    merged.validate()
    assert merged.indices.tolist() == [2, 9, 3, 4, 0]
    assert merged.weights.tolist() == [0.5, 0.75, 0.0, 1.0, 1.0]
    empty = SoftPositives.empty().merged(given)
    assert (empty.indices.tolist(), empty.weights.tolist()) == ([2, 3, 4], [0.5, 1.0, 1.0])


def test_what_is_wrong_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="soft positive 1 has a weight"):
        SoftPositives.of([0, 1], [0, 1], [1.0, 1.5], "teacher")
    with pytest.raises(DataError, match="the source 'given'"):
        SoftPositives.of([0], [0], 1.0, "given")
    soft = SoftPositives.of([0], [1], 1.0, "teacher")
    soft.write(tmp_path / "train.parquet", ["a"], ["x", "y"])
    assert len(SoftPositives.read(tmp_path / "train.parquet", ["b"], ["x", "y"])) == 0  # moved to another split
    with pytest.raises(DataError, match="label 'y' is not in the catalogue"):
        SoftPositives.read(tmp_path / "train.parquet", ["a"], ["x"])
    (tmp_path / "broken.parquet").write_bytes(b"no")
    with pytest.raises(DataError, match="cannot be read"):
        SoftPositives.read(tmp_path / "broken.parquet", [], [])


def test_a_training_uses_them(data: XMCDataset, tiny_encoder: str, tmp_path: Path) -> None:
    """By the arguments: all, none or some sources. The record of the run says what was there."""
    from hf_xmc import XMCTrainer, XMCTrainingArguments
    from hf_xmc.hub.run import describe_run
    from hf_xmc.modeling import XMCDualEncoderModel

    few = replace(data, soft=SoftPositives.of([0], [7], 0.5, "teacher"))
    args = XMCTrainingArguments(str(tmp_path), report_to="none", use_cpu=True)
    rows = few.queries["train"].select(range(3))
    model = XMCDualEncoderModel.from_encoder(tiny_encoder)
    trainer = XMCTrainer(model, args, rows, label_dataset=few.labels, train_soft=few.soft)
    item = trainer.train_dataset[0]
    at = item["positives"].tolist().index(7)
    assert item["weights"][at] == 0.5
    assert len(item["positives"]) == len(rows[0]["labels"]) + 1
    assert describe_run(few, args, tiny_encoder, 1.0)["soft_positives"] == {"teacher": 1}
