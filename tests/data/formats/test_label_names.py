from __future__ import annotations

from pathlib import Path

import pytest

from hf_xmc import load_xmc_dataset
from hf_xmc.data.formats.source import LabelNames
from hf_xmc.errors import DataError
from tests.data.made import text


def test_a_uid_is_not_taken_for_the_text_of_another_label(source: Path) -> None:
    text(source / "labels.csv", ["uid,text", "1,2", "2,1"])
    text(source / "train.csv", ["text,labels", *(f"t{i},{1 + i % 2}" for i in range(12))])
    data = load_xmc_dataset(source)
    uids = {row["text"]: [data.labels[i]["uid"] for i in row["labels"]] for t in data.queries.values() for row in t}
    assert uids == {f"t{i}": [str(1 + i % 2)] for i in range(12)}


def test_a_text_that_several_labels_have_names_none() -> None:
    names = LabelNames(closed=True)
    for i, label in enumerate(["spring", "spring", "autumn"]):
        names.add(f"l{i}", i, label)
    assert names.ids(["l1", "autumn"], "a.csv", 1) == [1, 2]
    with pytest.raises(DataError, match=r"a\.csv, line 1: label 'spring' is the text of several labels"):
        names.ids(["spring"], "a.csv", 1)
