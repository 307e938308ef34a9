"""Faults that a review found in reading, splitting and loading."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hf_xmc import load_xmc_dataset
from hf_xmc.data import staging
from hf_xmc.data.errors import DataError, Problems
from hf_xmc.data.splits import SplitOptions
from tests.data.made import text
from tests.data.test_staging import source


def jsonl(path: Path, rows: list[dict[str, object]]) -> None:
    text(path, [json.dumps(row) for row in rows])


def test_columns_that_come_up_in_a_later_batch_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staging, "BATCH_ROWS", 2)
    late = {"description": "house", "parents": ["l0"], "texts": ["home"], "n": 3}
    labels: list[dict[str, object]] = [{"uid": f"l{i}", "text": f"label {i}"} for i in range(5)]
    jsonl(tmp_path / "lbl.jsonl", [*labels, {"uid": "l5", "text": "label 5", **late}, {**labels[0], "uid": "l6"}])
    queries = [{"uid": f"q{i}", "text": f"text {i}", "labels": [0, 1]} for i in range(5)]
    jsonl(tmp_path / "trn.jsonl", [*queries, {**queries[0], "uid": "late", "weights": [0.5, 1.0]}])
    data = load_xmc_dataset(tmp_path)
    assert {name: data.labels[5][name] for name in late} == late
    assert {name: data.labels[6][name] for name in late} == dict.fromkeys(late)
    rows = {row["uid"]: row["weights"] for split in ("train", "validation") for row in data.queries[split]}
    assert rows == {**{f"q{i}": [1.0, 1.0] for i in range(5)}, "late": [0.5, 1.0]}
    data.positives("train").validate(7)


def test_times_that_come_up_in_a_later_batch_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staging, "BATCH_ROWS", 1)
    rows = [{"uid": "a", "text": "t", "labels": []}, {"uid": "b", "text": "t", "labels": [], "time": 3}]
    made = source(rows)
    table = staging.stage_queries(made, "train", 1, tmp_path, Problems(), progress=False).table
    assert table.column_names == ["uid", "text", "labels", "time"]
    assert table["time"][:] == [None, "3"]


@pytest.mark.parametrize("strategy", ["random", "label", "stratified"])
def test_rows_without_a_uid_are_told_apart_when_splits_are_pooled(strategy: str, tmp_path: Path) -> None:
    for split in ("train", "test"):
        text(tmp_path / f"{split}.csv", ["text,label", *(f"{split} {i},label {i}" for i in range(50))])
    data = load_xmc_dataset(tmp_path, splitting=SplitOptions(strategy, 0.2))  # type: ignore[arg-type]
    text_of = {row["uid"]: row["text"] for split in data.queries.values() for row in split}
    assert text_of == {f"{split}-row-{i}": f"{split} {i}" for split in ("train", "test") for i in range(50)}
    given = load_xmc_dataset(tmp_path)
    assert given.queries["test"][0]["uid"] == "row-0"


def test_a_uid_in_two_splits_is_an_error_when_they_are_pooled(tmp_path: Path) -> None:
    jsonl(tmp_path / "lbl.jsonl", [{"uid": "l", "text": "label"}])
    rows: list[dict[str, object]] = [{"uid": f"q{i}", "text": "t", "labels": [0]} for i in range(9)]
    jsonl(tmp_path / "trn.jsonl", rows[:5])
    jsonl(tmp_path / "tst.jsonl", rows[4:])
    assert load_xmc_dataset(tmp_path).counts()["test"] == 5
    with pytest.raises(DataError, match=r"tst\.jsonl, line 1: uid 'q4' stands in row 4 of train and row 0 of test"):
        load_xmc_dataset(tmp_path, splitting=SplitOptions("random", 0.3))
