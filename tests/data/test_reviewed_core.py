"""Faults that a review found in reading, splitting and loading."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from hf_xmc import load_xmc_dataset
from hf_xmc.cli.main import app
from hf_xmc.data.formats.source import Options
from hf_xmc.data.ingest import queries as staging
from hf_xmc.data.ingest.splits import SplitOptions, newest, stratified, validation_rows
from hf_xmc.errors import DataError, Problems
from hf_xmc.types import Positives
from tests.data.made import jsonl as made_jsonl
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


@pytest.fixture
def prepared(tmp_path: Path) -> Path:
    made_jsonl(tmp_path / "source")
    return load_xmc_dataset(tmp_path / "source").save(tmp_path / "prepared")


@pytest.mark.parametrize(
    ("kind", "given"),
    [
        ("--split random", {"splitting": SplitOptions("random")}),
        ("--test_share 0.3", {"splitting": SplitOptions(test_share=0.3)}),
        ("--query_template {uid}", {"options": Options(query_template="{uid}")}),
        ("--builder LF-Amazon-131K", {"builder": "LF-Amazon-131K"}),
    ],
)
def test_a_prepared_folder_refuses_what_it_cannot_honour(kind: str, given: dict, prepared: Path) -> None:
    with pytest.raises(DataError, match="a prepared data set cannot be read with " + kind):
        load_xmc_dataset(prepared, **given)
    assert load_xmc_dataset(prepared, Options(), SplitOptions()).num_labels == 3


@pytest.mark.parametrize("bad", [[0, 3], [-1, 0], [1, 0], [1, 1]])
def test_label_ids_of_a_prepared_folder_are_checked(bad: list[int], prepared: Path) -> None:
    path = prepared / "data" / "test.parquet"
    table = pq.read_table(path)
    labels = pa.array([[0], bad], type=table.schema.field("labels").type)
    pq.write_table(table.set_column(table.column_names.index("labels"), "labels", labels), path)
    result = CliRunner().invoke(app, ["prepare", str(prepared), "--check"])
    assert isinstance(result.exception, DataError)
    assert re.search(r"test\.parquet: .*[Rr]ow 1 ", str(result.exception))
    assert "run hf-xmc prepare again" in str(result.exception)
    with pytest.raises(DataError, match=r"[Rr]ow 1 "):
        load_xmc_dataset(prepared)


def test_a_prepared_folder_needs_training_queries(prepared: Path) -> None:
    (prepared / "data" / "train.parquet").unlink()
    with pytest.raises(DataError, match=r"there is no data/train\.parquet"):
        load_xmc_dataset(prepared)


@pytest.mark.parametrize("blank", ["", " ", "nan", "NaN", None])
def test_a_blank_time_is_no_time(blank: str | None) -> None:
    with pytest.raises(DataError, match="a query without a time"):
        newest(["5", "9", "10", "11", blank], 0.2)


def test_times_are_numbers_or_dates() -> None:
    assert newest(["5", "9", "10", "11", "8"], 0.2).tolist() == [False, False, False, True, False]
    zones = ["2024-01-01T23:30-02:00", "2024-01-02", "2024-01-02T01:00Z", "2023-12-31"]
    assert newest(zones, 0.25).tolist() == [True, False, False, False]
    with pytest.raises(DataError, match="time '12/01/2018' is no date"):
        newest(["11/01/2019", "12/01/2018"][::-1], 0.5)


def test_validation_never_takes_the_last_training_query() -> None:
    alone = Positives.from_lists([[]])
    assert len(validation_rows(np.zeros(1, np.uint64), alone)) == 0
    assert len(validation_rows(np.zeros(3, np.uint64), Positives.from_lists([[], [], []]))) == 2


@pytest.mark.parametrize("share", [0.05, 0.2])
def test_stratified_takes_the_share_that_was_asked_for(share: float) -> None:
    draw = np.random.default_rng(1)
    lists = [sorted(set(draw.integers(0, 2000, draw.integers(0, 5)).tolist())) for _ in range(4000)]
    rows = stratified(draw.integers(0, 2**63, 4000).astype(np.uint64), Positives.from_lists(lists), share)
    assert abs(rows.mean() - share) < 0.01
