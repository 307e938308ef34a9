"""Files of predictions, of ours and of other systems."""

from __future__ import annotations

import json
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hf_xmc import TopK
from hf_xmc.errors import DataError
from hf_xmc.inference.evaluation.predictions import read_predictions, write_predictions

UIDS, LABELS = ["q0", "q1", "q2"], ["red", "green", "blue"]


def jsonl(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def parquet(path, **columns):
    pq.write_table(pa.table(columns), path)
    return path


def test_what_is_written_is_read(tmp_path):
    topk = TopK(np.array([[0, 2], [1, -1], [-1, -1]]), np.array([[0.2, 0.5], [0.25, 0.9], [0, 0]], dtype=np.float32))
    path = write_predictions(topk, UIDS, tmp_path / "p.parquet")
    found = read_predictions(path, UIDS, LABELS)
    assert found.ids.tolist() == [[2, 0], [1, -1], [-1, -1]]
    assert found.scores.astype(np.float32)[0].tolist() == np.array([0.5, 0.2], dtype=np.float32).tolist()
    schema = pq.read_schema(path)
    assert {name: str(schema.field(name).type) for name in schema.names} == {
        "uid": "string", "ids": "list<element: int32>", "scores": "list<element: float>",
    }  # fmt: skip
    assert [p.name for p in tmp_path.iterdir()] == ["p.parquet"]


def test_rows_of_other_systems_in_any_order(tmp_path):
    path = jsonl(
        tmp_path / "p.jsonl",
        {"uid": "q2", "labels": ["blue"], "scores": [3]},
        {"uid": "q0", "labels": ["green", "red"], "scores": [0.5, 0.7]},
        {"uid": "q1", "labels": [], "scores": []},
    )
    found = read_predictions(path, UIDS, LABELS)
    assert found.ids.tolist() == [[1, 0], [-1, -1], [2, -1]]
    assert found.scores.tolist() == [[0.5, 0.7], [-np.inf, -np.inf], [3.0, -np.inf]]


def test_without_uid_and_scores_the_order_counts(tmp_path):
    found = read_predictions(parquet(tmp_path / "p.parquet", ids=[[2, 0], [1], []]), UIDS, LABELS)
    assert found.sorted().ids.tolist() == [[2, 0], [1, -1], [-1, -1]]


def test_what_predict_writes(tmp_path):
    tag = {"label": "Green", "uid": "green", "id": 1, "score": 0.5}
    path = jsonl(tmp_path / "p.jsonl", *({"uid": uid, "text": "a", "labels": [tag]} for uid in UIDS))
    assert read_predictions(path, UIDS, LABELS).ids.tolist() == [[1]] * 3


@pytest.mark.parametrize("large", [True, False])
def test_sliced_and_large_arrow_types(tmp_path, large):
    of = pa.large_list(pa.large_string()) if large else pa.list_(pa.string())
    path = tmp_path / "p.parquet"
    pq.write_table(pa.table({"labels": pa.array([["red"], None, ["blue", "red"]], of)}), path)
    assert read_predictions(path, UIDS, LABELS).ids.tolist() == [[0, -1], [-1, -1], [2, 0]]


def test_nothing_predicted_at_all(tmp_path):
    found = read_predictions(jsonl(tmp_path / "p.jsonl", *[{"ids": [], "scores": []}] * 3), UIDS, LABELS)
    assert found.ids.shape == (3, 0)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"tags": [0]}] * 3, "no column ids or labels (found tags)"),
        ([{"ids": 0}] * 3, "column ids is int64"),
        (
            [{"ids": [0]}, {"ids": [3]}, {"ids": []}],
            "row 2 predicts label id 3; ids are rows of the label table, 0 to 2",
        ),
        ([{"labels": ["red"]}, {"labels": []}, {"labels": ["pink"]}], "row 3 predicts label 'pink'"),
        ([{"ids": [0.5]}] * 3, "labels are double"),
        ([{"ids": [0]}] * 2, "2 rows for 3 queries; give one row per query, or a column uid"),
        ([{"ids": [0], "scores": [1]}] * 2 + [{"ids": [0], "scores": []}], "row 3 has 1 labels and 0 scores"),
        ([{"ids": [0], "scores": ["high"]}] * 3, "scores are string"),
        ([{"ids": [0], "scores": [1]}, {"ids": [0], "scores": [None]}, {"ids": []}], "row 2 has a score that is no"),
        ([{"uid": "q9", "ids": []}] * 3, "row 1 is query 'q9'"),
        ([{"uid": uid, "ids": [1]} for uid in ("q0", "q1", "q1")], "row 3 repeats query 'q1'"),
        ([{"uid": "q0", "ids": [1]}], "2 of 3 queries have no row, the first is 'q1'"),
    ],
)
def test_errors_name_file_row_and_cure(tmp_path, rows, message):
    path = jsonl(tmp_path / "p.jsonl", *rows)
    with pytest.raises(DataError, match=re.escape(f"{path}: {message}")):
        read_predictions(path, UIDS, LABELS)


def test_files_that_cannot_be_read(tmp_path):
    (tmp_path / "p.parquet").write_text("no parquet")
    for name, message in (("p.parquet", "cannot be read"), ("p.npz", "no such file"), ("", "no such file")):
        with pytest.raises(DataError, match=message):
            read_predictions(tmp_path / name, UIDS, LABELS)
    (tmp_path / "p.csv").write_text("a,b\n")
    with pytest.raises(DataError, match=r"give \.parquet or \.jsonl"):
        read_predictions(tmp_path / "p.csv", UIDS, LABELS)


def test_scores_keep_their_precision(tmp_path):
    topk = TopK(np.array([[7, 3]]), np.array([[0.12345678912, 0.12345678911]]))
    path = write_predictions(topk, ["q"], tmp_path / "predictions.parquet")
    again = read_predictions(path, ["q"], [str(i) for i in range(9)])
    assert again.sorted().ids.tolist() == [[7, 3]]


def test_integers_that_could_be_uids_or_rows(tmp_path):
    uids = ["5", "6", "7"]
    with pytest.raises(DataError, match="call the column ids"):
        read_predictions(parquet(tmp_path / "a.parquet", labels=[[0]]), ["q"], uids)
    assert read_predictions(parquet(tmp_path / "b.parquet", ids=[[1]]), ["q"], uids).ids.tolist() == [[1]]
    assert read_predictions(parquet(tmp_path / "c.parquet", labels=[["7"]]), ["q"], uids).ids.tolist() == [[2]]


def test_lists_with_holes_are_no_traceback(tmp_path):
    for rows in ([{"labels": [None, 1]}], [{"uid": ["a"], "labels": [1]}]):
        with pytest.raises(DataError):
            read_predictions(jsonl(tmp_path / "x.jsonl", *rows), ["q"], ["a", "b"])
