from __future__ import annotations

from pathlib import Path

import numpy as np
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_xmc import XMCDataset, load_xmc_dataset
from hf_xmc.data.growing import grow_catalogue, unique_pairs
from hf_xmc.types import Positives
from tests.data.made import records
from tests.data.reading import named


def week(folder: Path) -> XMCDataset:
    folder.mkdir()
    labels = [{"uid": f"u{i}", "text": f"label {i}", "texts": [f"name {i}"]} for i in (5, 1, 9)]
    records(folder / "lbl.jsonl", labels)
    rows = [
        {"uid": "a", "text": "one", "labels": [0, 1], "weights": [0.5, 1.0]},
        {"uid": "b", "text": "two", "labels": [2, 1], "weights": [0.25, 2.0]},
    ]
    records(folder / "trn.jsonl", rows)
    records(folder / "tst.jsonl", [{"uid": "t", "text": "three", "labels": []}])
    (folder / "filter_labels_tst.txt").write_text("0 2\n")
    return load_xmc_dataset(folder)


def test_old_labels_stay_where_they_were(tmp_path: Path) -> None:
    data = week(tmp_path / "week")
    columns = {"uid": [f"u{i}" for i in range(7)], "text": [f"old {i}" for i in range(7)], "rank": [*range(7)]}
    old = Dataset.from_dict(columns)
    grown = grow_catalogue(old, data)
    assert grown.labels["uid"][:] == [*old["uid"], "u9"]
    assert grown.labels["text"][:] == [*old["text"], "label 9"]
    assert grown.labels["rank"][:] == [*range(7), None]
    assert grown.labels["texts"][-1] == ["name 9"]
    uids = {row["text"]: [grown.labels[i]["uid"] for i in row["labels"]] for t in grown.queries.values() for row in t}
    assert uids == {"one": ["u1", "u5"], "two": ["u1", "u9"], "three": []}
    weights = {row["text"]: row["weights"] for t in grown.queries.values() for row in t}
    assert (weights["one"], weights["two"]) == ([1.0, 0.5], [2.0, 0.25])
    assert grown.train_label_counts.tolist() == [0, 2, 0, 0, 0, 1, 0, 1]
    assert grown.filters["test"].row(0).tolist() == [7]
    for split in grown.queries:
        grown.positives(split).validate(grown.num_labels)
    again = load_xmc_dataset(grown.save(tmp_path / "out"))
    assert again.fingerprint() == grown.fingerprint()


def test_labels_without_a_uid_are_found_by_their_text(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,labels\none,cats\ntwo,dogs\nthree,birds\n")
    old = Dataset.from_dict({"uid": ["http://x/1", "http://x/2", "http://x/3"], "text": ["dogs", "cats", "cats"]})
    grown = grow_catalogue(old, load_xmc_dataset(tmp_path / "a.csv"))
    assert grown.labels["uid"][:] == [*old["uid"], "cats", "birds"]  # two old labels are called cats
    assert named(grown) == {"one": ["cats"], "two": ["dogs"], "three": ["birds"]}


def test_the_same_catalogue_changes_nothing(tmp_path: Path) -> None:
    data = week(tmp_path / "week")
    assert grow_catalogue(data.labels, data) is data


@settings(max_examples=50, deadline=None, derandomize=True, database=None)
@given(rows=st.lists(st.lists(st.integers(0, 9), unique=True, max_size=5), max_size=8), ids=st.permutations(range(10)))
def test_pairs_follow_their_labels(rows: list[list[int]], ids: list[int]) -> None:
    pairs = Positives.from_lists([sorted(row) for row in rows])
    changed = unique_pairs(pairs, np.asarray(ids))
    assert [changed.row(i).tolist() for i in range(len(rows))] == [sorted(ids[j] for j in row) for row in rows]
    merged = unique_pairs(pairs, np.asarray(ids) // 2)
    merged.validate(10)
    assert [merged.row(i).tolist() for i in range(len(rows))] == [sorted({ids[j] // 2 for j in row}) for row in rows]
