from __future__ import annotations

from pathlib import Path

import pytest

from hf_xmc import load_xmc_dataset
from hf_xmc.data.formats.source import Options
from hf_xmc.errors import DataError
from tests.data.made import records, text


def test_texts_and_names_change_their_form_and_labels_are_still_found_by_name(source: Path) -> None:
    text(source / "train.csv", ["text,labels", "A (red) CAR!,Dark-Blue|C++", "No. 2: naïve,C++"])
    text(source / "labels.csv", ["uid,text", "b,Dark-Blue", "c,C++"])
    data = load_xmc_dataset(source, Options(text_form="alphanumeric"))
    assert data.queries["train"]["text"][:] == ["a red car", "no. 2 na ve"]
    assert data.queries["train"]["labels"][:] == [[0, 1], [1]]
    assert data.labels["text"][:] == ["dark blue", "c"]
    assert any("--text_form" in sentence for sentence in data.said)


def test_other_names_and_descriptions_of_labels_change_as_well(source: Path) -> None:
    records(source / "trn.jsonl", [{"uid": "q", "text": "A car", "labels": [0]}])
    label = {"uid": "l-0", "text": "Car", "texts": ["Motor-Car", "Automobile"], "description": "It DRIVES."}
    records(source / "lbl.jsonl", [label])
    row = load_xmc_dataset(source, Options(text_form="alphanumeric")).labels[0]
    assert (row["uid"], row["texts"], row["description"]) == ("l-0", ["motor car", "automobile"], "it drives.")


def test_a_form_that_does_not_exist_is_named_with_those_that_do(source: Path) -> None:
    records(source / "trn.jsonl", [{"uid": "q", "text": "A car", "labels": [0]}])
    records(source / "lbl.jsonl", [{"uid": "l", "text": "Car"}])
    with pytest.raises(DataError, match=r"'latin'.*alphanumeric"):
        load_xmc_dataset(source, Options(text_form="latin"))
