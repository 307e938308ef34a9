"""Columns that training cannot use are named with their row, before anything is tokenised."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest

from hf_xmc import XMCDualEncoderModel, XMCTrainer, XMCTrainingArguments
from hf_xmc.errors import XMCError
from hf_xmc.training import checkpoints

TEXTS = ["x", "y", "z"]
TABLE = {"uid": ["a", "b", "c"], "text": ["red", "car", "blue"]}
WRONG: dict[str, tuple[Any, Any, Any, str]] = {
    # what: texts, labels, label table, found
    "no text": (["x", None, "z"], [[0], [1], [2]], TABLE, "row 1 of the queries has no text"),
    "texts are numbers": ([1, 2, 3], [[0], [1], [2]], TABLE, "column 'text' of the queries holds int64"),
    "no label text": (TEXTS, [[0], [1], [2]], {**TABLE, "text": ["a", "b", None]}, "row 2 of the label table"),
    "one id": (TEXTS, [0, 1, 2], TABLE, "column 'labels' holds int64, as 0"),
    "names": (TEXTS, [["a"], ["b"], ["c"]], TABLE, r"lists of names, as \['a'\]"),
    "fractions": (TEXTS, [[0.9], [1.5], [2.0]], TABLE, "lists of double"),
    "an empty place": (TEXTS, [[0], [1, None], [2]], TABLE, "row 1 of the column 'labels' has an empty place"),
    "multi-hot": (TEXTS, [[1, 0, 0], [0, 1, 0], [0, 0, 1]], TABLE, "multi-hot vectors"),
    "no rows": ([], [], TABLE, "there is no training query"),
    "no labels": (TEXTS, [[], [], []], TABLE, "no training query has a label"),
    "a list of labels": (TEXTS, [[0], [1], [2]], ["red", "car"], "label_dataset is a list"),
    "a table without texts": (TEXTS, [[0], [1], [2]], {"uid": ["a"]}, "it needs 'text' as well"),
}


@pytest.fixture(scope="module")
def model(tiny_encoder: str) -> XMCDualEncoderModel:
    return XMCDualEncoderModel.from_encoder(tiny_encoder, max_query_length=32)


@pytest.mark.parametrize("case", WRONG)
def test_wrong_columns_are_named(case: str, model: XMCDualEncoderModel, tmp_path: Path) -> None:
    texts, labels, table, found = WRONG[case]
    args = XMCTrainingArguments(str(tmp_path), max_steps=1, label_strategy="in_batch", use_cpu=True)
    queries = datasets.Dataset.from_dict({"text": texts, "labels": labels})
    table = datasets.Dataset.from_dict(table) if isinstance(table, dict) else table
    with pytest.raises(XMCError, match=found):
        XMCTrainer(model=model, args=args, train_dataset=queries, label_dataset=table).train()


def test_a_damaged_file_of_a_checkpoint_is_named(tmp_path: Path) -> None:
    for step in (5, 10):
        make_checkpoint(tmp_path / f"checkpoint-{step}")
    last = tmp_path / "checkpoint-10"
    checkpoints.check_checkpoint(last)
    np.save(tmp_path / "cut.npy", np.zeros(3))
    for name in ("optimizer.pt", "model.safetensors", "trainer_state.json"):
        (last / name).write_bytes((tmp_path / "cut.npy").read_bytes()[:70])
        with pytest.raises(XMCError, match=f"{name} is cut off.*--resume_from_checkpoint .*checkpoint-5"):
            checkpoints.check_checkpoint(last)
        (last / name).write_text("{}")
        if name == "model.safetensors":
            (last / name).unlink()
        elif name == "optimizer.pt":
            zipfile.ZipFile(last / name, "w").close()


def test_a_checkpoint_that_is_being_deleted_is_passed_over(tmp_path: Path) -> None:
    """A kill in the midst of that leaves some of its files."""
    for step in (5, 10):
        make_checkpoint(tmp_path / f"checkpoint-{step}")
    last = tmp_path / "checkpoint-10"
    files = [path.name for path in last.iterdir()]
    assert checkpoints.last_checkpoint(tmp_path) == str(last)
    (last / checkpoints.BATCHES).write_text(json.dumps({"files": files}))
    for name in files:
        content = (last / name).read_bytes()
        (last / name).unlink()
        assert checkpoints.last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-5")
        with pytest.raises(XMCError, match=f"{name}.*--resume_from_checkpoint .*checkpoint-5"):
            checkpoints.check_checkpoint(last)
        (last / name).write_bytes(content)
    assert checkpoints.last_checkpoint(tmp_path) == str(last)


def make_checkpoint(folder: Path) -> None:
    folder.mkdir()
    (folder / "trainer_state.json").write_text("{}")
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth"):
        zipfile.ZipFile(folder / name, "w").close()


def test_the_same_queries_in_other_micro_batches_are_no_other_step(tmp_path: Path) -> None:
    def args(size: int, steps: int) -> XMCTrainingArguments:
        return XMCTrainingArguments(
            str(tmp_path), per_device_train_batch_size=size, gradient_accumulation_steps=steps, use_cpu=True
        )

    (tmp_path / "rng_state.pth").write_bytes(b"")
    (tmp_path / "trainer_state.json").write_text("{}")
    (tmp_path / checkpoints.BATCHES).write_text('{"processes": 1, "queries per step": 8}')
    assert checkpoints.changed_batches(tmp_path, args(8, 1)) == ""
    assert checkpoints.changed_batches(tmp_path, args(4, 2)) == ""
    assert checkpoints.changed_batches(tmp_path, args(8, 2)) == "8 queries per step (here 16)"
