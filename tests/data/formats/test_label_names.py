from __future__ import annotations

from pathlib import Path

import pytest

from hf_xmc import load_xmc_dataset
from hf_xmc.data.formats.source import LabelNames
from hf_xmc.errors import DataError, Problems
from tests.data.made import text


def test_a_uid_is_not_taken_for_the_text_of_another_label(source: Path) -> None:
    text(source / "labels.csv", ["uid,text", "1,2", "2,1"])
    text(source / "train.csv", ["text,labels", *(f"t{i},{1 + i % 2}" for i in range(12))])
    data = load_xmc_dataset(source)
    uids = {row["text"]: [data.labels[i]["uid"] for i in row["labels"]] for t in data.queries.values() for row in t}
    assert uids == {f"t{i}": [str(1 + i % 2)] for i in range(12)}


def test_of_labels_that_share_a_heading_one_is_chosen_and_said() -> None:
    names, problems = LabelNames(closed=True), Problems(stop=False)
    for i, (label, parents) in enumerate([("spring", ["l1"]), ("spring", []), ("autumn", []), ("fall", ["l2"])]):
        names.add(f"l{i}", i, label, parents=parents)
    names.also(2, 1, "season")
    names.also(3, 1, "season")
    assert names.ids(["l0", "autumn"], "a.csv", 1) == [0, 2]
    assert names.ids(["Spring", "season"], "a.csv", 2) == [1, 2]  # those above the others
    said = names.report(Path("voc.ttl"), problems)
    assert "2 headings are shared by several labels, as 'Spring'" in said[0]
    assert "labels 0, 1" in problems.found[0].message
    with pytest.raises(DataError, match=r"a\.csv, line 3: label 'winter' is not one of the 4"):
        names.ids(["winter"], "a.csv", 3)
