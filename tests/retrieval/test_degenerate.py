"""Rankings at the edge of what can be calibrated; and nothing that is not finite is written."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset

from hf_xmc import LabelIndex
from hf_xmc.errors import DataError
from hf_xmc.modeling.label_head_xmc import LabelHead
from hf_xmc.retrieval.calibration import RankedMap, fit_score_map
from hf_xmc.retrieval.channels.query_memory import MemorySettings, QueryMemory
from hf_xmc.retrieval.confidence import Confidence
from hf_xmc.types import Positives, TopK

TRUE = Positives.from_lists([[0], [1], [2], [0]])
IDS = np.array([[0, 1, 2], [0, 1, 2], [0, 1, 2], [0, 1, 2]])


@pytest.mark.parametrize("method", ["isotonic", "platt"])
def test_equal_scores(method: str) -> None:
    """Nothing can be told apart: each prediction has the share of the true ones, or what its rank says."""
    found = fit_score_map(np.ones(8), np.arange(8) % 2 == 0, method)(np.array([1.0, 0.0, 2.0]))
    assert np.isfinite(found).all()
    assert found[0] == pytest.approx(0.5, abs=0.05)
    topk = TopK(IDS, np.ones(IDS.shape))
    assert np.isfinite(RankedMap.fit(topk, TRUE, method)(topk)).all()


@pytest.mark.parametrize("method", ["isotonic", "platt"])
def test_a_confidence_of_equal_scores_is_written_and_read(method: str, tmp_path: Path) -> None:
    topk = TopK(IDS, np.full(IDS.shape, 0.25))
    made = Confidence.fit(topk, TRUE, np.array([3, 2, 1]), method=method)
    made.save_pretrained(tmp_path)
    json.loads((tmp_path / "confidence.json").read_text(), parse_constant=pytest.fail)
    assert np.isfinite(Confidence.from_pretrained(tmp_path).score_map(topk)).all()


def test_a_single_label() -> None:
    labels = Dataset.from_dict({"uid": ["a"], "text": ["only"]})
    index = LabelIndex.build(np.ones((1, 2), np.float32), labels)
    assert index.search(np.ones((2, 2), np.float32), 3).ids.tolist() == [[0, -1, -1]] * 2


def test_vectors_that_are_not_finite_are_not_written(tmp_path: Path) -> None:
    labels = Dataset.from_dict({"uid": ["a", "b"], "text": ["one", "two"]})
    bad = np.array([[1, 0], [np.nan, 0]], np.float32)
    with pytest.raises(DataError, match="row 1 holds NaN or infinity"):
        LabelIndex.build(bad, labels)
    index = LabelIndex.build(np.eye(2, dtype=np.float32), labels)
    with pytest.raises(DataError, match="NaN or infinity"):
        index.add(bad[1:], ["three"])
    with pytest.raises(DataError, match="NaN or infinity"):
        index.update([0], bad[1:], ["other"])
    with pytest.raises(DataError, match="NaN or infinity"):
        QueryMemory.build(bad, Positives.from_lists([[0], [1]]), 2, MemorySettings())
    head = LabelHead("residual", torch.from_numpy(bad))
    with pytest.raises(ValueError, match="NaN or infinity"):
        head.save(tmp_path)
    assert not [*tmp_path.iterdir()]
