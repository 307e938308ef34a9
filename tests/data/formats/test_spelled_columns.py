"""Label tables and JSON lines whose columns have other names, and vectors of 0 and 1 in other spellings."""

from __future__ import annotations

from pathlib import Path

import pytest

from hf_xmc import load_xmc_dataset
from hf_xmc.errors import DataError
from tests.data.made import text


@pytest.mark.parametrize(
    "header",
    ["Kennung,Benennung", "conceptUri,preferredLabel", "Subject ID,Subject name", "código,descripción", "index,label"],
)
def test_texts_of_a_label_table_are_never_its_uids(header: str, source: Path) -> None:
    text(source / "train.csv", ["text,labels", "red thing,1", "a car,2"])
    text(source / "labels.csv", [header, "1,red", "2,car"])
    labels = load_xmc_dataset(source).labels
    assert (labels["uid"][:], labels["text"][:]) == (["1", "2"], ["red", "car"])


def test_a_label_table_of_unknown_columns_is_refused(source: Path) -> None:
    text(source / "train.csv", ["text,labels", "red thing,1", "a car,2"])
    text(source / "labels.csv", ["foo,bar", "1,red", "2,car"])
    with pytest.raises(DataError, match="no column is clearly the text of labels; it has foo, bar"):
        load_xmc_dataset(source)


@pytest.mark.parametrize(("uid", "name"), [("ID", "Name"), ("uri", "label_en"), ("id", "description")])
def test_json_lines_follow_the_rule_of_tables(uid: str, name: str, source: Path) -> None:
    text(
        source / "trn.jsonl",
        ['{"ID": "a", "Text": "red thing", "Labels": [0]}', '{"ID": 2, "Text": "x", "Labels": [1]}'],
    )
    text(source / "lbl.jsonl", [f'{{"{uid}": 7, "{name}": "red"}}', f'{{"{uid}": 8, "{name}": "car"}}'])
    labels = load_xmc_dataset(source).labels
    assert (labels["uid"][:], labels["text"][:]) == (["7", "8"], ["red", "car"])


@pytest.mark.parametrize("row", ["{} {} {}", "[{} {} {}]", "[{}. {}. {}.]", '"tensor([{}., {}., {}.])"'])
def test_vectors_as_programs_print_them_are_refused(row: str, source: Path) -> None:
    text(source / "train.csv", ["text,labels", "a," + row.format(0, 1, 1), "b," + row.format(1, 0, 0)])
    with pytest.raises(DataError, match="multi-hot"):
        load_xmc_dataset(source)
