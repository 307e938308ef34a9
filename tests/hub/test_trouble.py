"""A Hub that refuses, is busy, or breaks off; and what a training leaves on it."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.hub.local_hub import Hub
from tests.hub.trained import LABELS, PUSHED

Client = Callable[..., dict[str, Any]]
REPO = "tester/tiny-tagger"
PICKLED = re.compile(r".*\.(bin|pt|pth|pkl)")


def test_what_goes_wrong_is_an_error_or_is_tried_again(trained_folder: Path, hub: Hub, client: Client) -> None:
    report = client("trouble.py", trained_folder, REPO)
    assert report["401"]
    assert report["403"]
    assert "tester/nowhere: no such folder, and no repository of this name could be downloaded (404" in report["404"]
    assert set(report["pushed"]) == {*PUSHED, ".gitattributes"}
    assert report["labels"] in (len(LABELS["uid"]), len(LABELS["uid"]) + 1), "loaded, so it is one folder"
    assert "could be downloaded (peer closed connection" in report["cut"]
    assert report["offline"]
    assert not [fault for fault in hub.faults if fault.times], "each of them happened"


def test_every_strategy_ends_with_the_same_repository(
    toy: Path, tiny_encoder: str, tmp_path: Path, hub: Hub, client: Client
) -> None:
    report = client("train_and_push.py", toy, tiny_encoder, tmp_path / "runs")
    assert report["equal"] == dict.fromkeys(report["files"], True)
    for strategy, names in report["files"].items():
        assert not [name for name in names if PICKLED.fullmatch(name)], strategy
        assert {"index/index.faiss", "labels.parquet", "manifest.json", "README.md"} <= {*names}, strategy
    kept = {s: {n for n in names if not n.startswith("checkpoint-")} for s, names in report["files"].items()}
    assert kept["end"] == kept["checkpoint"] == kept["all_checkpoints"]
    assert kept["every_save"] - {"label_head.safetensors"} == kept["end"] - {"run.json", "metrics.json"}
    assert "Training in progress, step 1" in hub.messages("tester/every-save")
    assert "checkpoint-1/model.safetensors" in report["files"]["all_checkpoints"]
