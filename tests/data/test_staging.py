from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from hf_xmc import load_xmc_dataset
from hf_xmc.data.formats.source import Record, Source, Split
from hf_xmc.data.ingest import queries as staging
from hf_xmc.data.ingest.labels import stage_labels
from hf_xmc.data.ingest.queries import hashes, repeated, stage_queries, uid_hash
from hf_xmc.errors import DataError, Problems
from tests.data.made import records


def source(rows: list[Record], labels: list[Record] | None = None) -> Source:
    numbered = lambda records: lambda problems: iter(enumerate(records, start=1))  # noqa: E731
    labels = labels or [{"uid": "l", "text": "label"}]
    return Source("made", "", {"train": Split(Path("made"), numbered(rows))}, numbered(labels), Path("labels"))


def test_batches_are_written_while_the_source_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staging, "BATCH_ROWS", 100)
    sizes = []

    def rows(problems: Problems) -> Iterator[tuple[int, Record]]:
        for i in range(1000):
            if i % 200 == 150:
                sizes.append((tmp_path / "staged-train.arrow").stat().st_size)
            yield i + 1, {"uid": f"q{i}", "text": "some text", "labels": [0]}

    made = Source("made", "", {"train": Split(Path("made"), rows)}, rows, Path("labels"))
    staged = stage_queries(made, "train", 1, tmp_path, Problems(), progress=False)
    assert sizes == sorted(set(sizes))
    assert sizes[0] > 0
    assert len(staged.table) == 1000
    assert staged.lines.tolist() == list(range(1, 1001))


def test_long_texts_make_small_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staging, "BATCH_CHARACTERS", 50)
    rows = [{"uid": f"q{i}", "text": "x" * 30, "labels": []} for i in range(7)]
    assert [len(records) for _, records in staging.in_batches(enumerate(rows))] == [2, 2, 2, 1]
    assert len(stage_queries(source(rows), "train", 1, tmp_path, Problems(), progress=False).table) == 7


def test_hashes_are_those_of_single_uids() -> None:
    assert hashes(["a", "ä"]).tolist() == [uid_hash("a"), uid_hash("ä")]


def test_equal_hashes_of_different_uids_are_no_repetition(tmp_path: Path) -> None:
    rows = [{"uid": uid, "text": "t", "labels": []} for uid in ("a", "b", "a", "c", "b")]
    table = stage_queries(source(rows), "train", 1, tmp_path, Problems(), progress=False).table
    assert repeated(hashes(["a", "b", "a", "c", "b"]), table) == [(0, 2), (1, 4)]
    assert repeated(np.zeros(5, np.uint64), table) == [(0, 2)]


def test_columns_of_labels_keep_their_kind(tmp_path: Path) -> None:
    labels: list[Record] = [
        {"uid": "a", "text": "A", "n": 1, "x": 0.5, "ok": True, "tags": ["u"], "any": {"k": 1}},
        {"uid": "b", "text": "B", "n": None, "x": 2, "tags": []},
    ]
    table = stage_labels(source([], labels), tmp_path, Problems(), progress=False)
    assert table[0] == {"uid": "a", "text": "A", "n": 1, "x": 0.5, "ok": True, "tags": ["u"], "any": '{"k": 1}'}
    assert table[1] == {"uid": "b", "text": "B", "n": None, "x": 2.0, "ok": None, "tags": [], "any": None}


def test_a_column_that_changes_its_kind_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staging, "BATCH_ROWS", 1)
    labels: list[Record] = [{"uid": "a", "text": "A", "n": 1}, {"uid": "b", "text": "B", "n": "two"}]
    with pytest.raises(DataError, match=r"labels, line 2: \"n\" is 'two'; expected int64"):
        stage_labels(source([], labels), tmp_path, Problems(), progress=False)


def test_labels_without_text_get_their_uid_on_request(tmp_path: Path) -> None:
    labels: list[Record] = [{"uid": "a", "text": " "}]
    problems = Problems(stop=False)
    assert stage_labels(source([], labels), tmp_path, problems, progress=False)["text"][:] == ["a"]
    assert problems.counts["labels without text"] == 1


def test_columns_that_come_up_in_a_later_batch_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staging, "BATCH_ROWS", 2)
    late = {"description": "house", "parents": ["l0"], "texts": ["home"], "n": 3}
    labels: list[dict[str, object]] = [{"uid": f"l{i}", "text": f"label {i}"} for i in range(5)]
    records(tmp_path / "lbl.jsonl", [*labels, {"uid": "l5", "text": "label 5", **late}, {**labels[0], "uid": "l6"}])
    queries = [{"uid": f"q{i}", "text": f"text {i}", "labels": [0, 1]} for i in range(5)]
    records(tmp_path / "trn.jsonl", [*queries, {**queries[0], "uid": "late", "weights": [0.5, 1.0]}])
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
