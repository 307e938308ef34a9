"""Groups in which few true labels are found, against counts made by hand."""

from __future__ import annotations

import numpy as np
from datasets import Dataset, DatasetDict

from hf_xmc.data.dataset import XMCDataset
from hf_xmc.fit.weaknesses import top_of_each, weaknesses
from hf_xmc.types import TopK


def made_set() -> XMCDataset:
    """Two branches of 30 true pairs each; the first is always found, the second in a third of the texts."""
    labels = Dataset.from_dict(
        {
            "uid": ["a", "b", "a1", "b1"],
            "text": ["first", "second", "first leaf", "second leaf"],
            "parents": [[], [], ["a"], ["b"]],
        }
    )
    texts = ["short text"] * 30 + ["a text that has a few more words than the others"] * 30
    queries = Dataset.from_dict({"uid": [str(i) for i in range(60)], "text": texts, "labels": [[2]] * 30 + [[3]] * 30})
    splits = DatasetDict({"train": queries, "validation": queries, "test": queries})
    return XMCDataset(splits, labels, "made", np.array([0, 0, 200, 5]), 60)


def test_groups_against_counts_by_hand() -> None:
    ids = np.array([[2, 0]] * 30 + [[3, 0]] * 10 + [[0, 1]] * 20)
    found = weaknesses(TopK(ids, np.tile([2.0, 1.0], (60, 1))), made_set(), "test")
    assert found["branches"] == [
        {"name": "second", "count": 30, "recall": 1 / 3},
        {"name": "first", "count": 30, "recall": 1.0},
    ]
    labels = {row["name"]: (row["count"], row["recall"]) for row in found["labels"]}
    assert labels == {"more than 100 examples": (30, 1.0), "fewer than 20 examples": (30, 1 / 3)}
    assert [row["count"] for row in found["texts"]] == [30, 30]
    assert [round(row["recall"], 3) for row in found["texts"]] == [1.0, 0.333]


def test_some_rows_of_a_split() -> None:
    rows = np.array([0, 59])
    found = weaknesses(TopK(np.array([[2], [3]]), np.ones((2, 1))), made_set(), "test", rows)
    assert sum(row["count"] for row in found["texts"]) == 2


def test_parents_that_are_not_in_the_catalogue() -> None:
    data = made_set()
    data.labels = data.labels.remove_columns("parents").add_column("parents", [["x"], ["y"], ["a"], ["b"]])
    found = weaknesses(TopK(np.full((60, 1), 2), np.ones((60, 1))), data, "test")
    assert {row["name"] for row in found["branches"]} == {"first", "second"}


def test_a_circle_of_parents_does_not_hang() -> None:
    assert len(top_of_each(np.array([[0, 1], [1, 0], [2, 1]]), 3)) == 3


def test_labels_without_an_example_are_named() -> None:
    data = made_set()
    data.train_label_counts = np.array([0, 0, 200, 0])
    found = weaknesses(TopK(np.full((60, 1), 2), np.ones((60, 1))), data, "test")
    assert {row["name"]: row["recall"] for row in found["labels"]}["no example"] == 0.0
