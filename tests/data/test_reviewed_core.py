"""Faults that a review found in reading, splitting and loading."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hf_xmc import load_xmc_dataset
from hf_xmc.data import staging
from tests.data.made import text


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
    from hf_xmc.data.errors import Problems
    from tests.data.test_staging import source

    monkeypatch.setattr(staging, "BATCH_ROWS", 1)
    rows = [{"uid": "a", "text": "t", "labels": []}, {"uid": "b", "text": "t", "labels": [], "time": 3}]
    made = source(rows)
    table = staging.stage_queries(made, "train", 1, tmp_path, Problems(), progress=False).table
    assert table.column_names == ["uid", "text", "labels", "time"]
    assert table["time"][:] == [None, "3"]
