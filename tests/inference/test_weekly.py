"""Training further on new data: the catalogue grows, and later commands follow."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch

from hf_xmc import XMCTrainingArguments, evaluate, load_xmc_dataset, train_tagger
from hf_xmc.data.arrow import read_parquet
from hf_xmc.modeling import LabelHead
from tests.data.made import text

HEADINGS = [f"topic {name}" for name in ("red", "blue", "green", "black", "white", "brown")]


def week(folder: Path, headings: list[str]) -> Path:
    """Queries that name their heading, 3 of 4 for training."""
    for split, count in (("train", 24), ("validation", 6), ("test", 6)):
        rows = [f"about {headings[i % len(headings)]} no {i},{headings[i % len(headings)]}" for i in range(count)]
        folder.mkdir(exist_ok=True)
        text(folder / f"{split}.csv", ["text,labels", *rows])
    return folder


def trained(data: Path, encoder: str, folder: Path) -> Path:
    args = XMCTrainingArguments(
        str(folder), num_train_epochs=1, label_strategy="in_batch", report_to="none", disable_tqdm=True
    )
    train_tagger(str(data), encoder, args=args, label_head="residual")
    return folder


@pytest.fixture(scope="module")
def weeks(tmp_path_factory: pytest.TempPathFactory, tiny_encoder: str) -> Path:
    folder = tmp_path_factory.mktemp("weeks")
    trained(week(folder / "week1", HEADINGS[:4]), tiny_encoder, folder / "run1")
    week(folder / "week2", [HEADINGS[3], HEADINGS[5], HEADINGS[1]])
    return folder


def test_the_catalogue_is_kept_and_new_labels_follow(weeks: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "hf_xmc"):
        trained(weeks / "week2", str(weeks / "run1"), weeks / "run2")
    assert f"4 labels of {weeks / 'run1'} kept, 1 new; 3 of them are in week2" in caplog.text
    uids = [read_parquet(weeks / run / "labels.parquet")["uid"][:] for run in ("run1", "run2")]
    assert uids[1] == [*uids[0], HEADINGS[5]]
    heads = [LabelHead.load(weeks / run) for run in ("run1", "run2")]
    unused = uids[0].index(HEADINGS[0])
    assert torch.equal(heads[0].vectors[unused], heads[1].vectors[unused])  # no query of week 2 moved it
    caplog.clear()
    with caplog.at_level(logging.WARNING, "hf_xmc"):
        pair = {"system": weeks / "run2", "against": weeks / "run1"}
        both = evaluate(dataset=str(weeks / "week2"), split="test", output_dir=weeks / "both", baselines=False, **pair)
    assert "run1 has another catalogue: compared on the 4 labels of both" in caplog.text
    assert "P@1" in both.comparison
    assert np.isfinite(both.metrics["P@1"])
    assert load_xmc_dataset(weeks / "week2").num_labels == 3
