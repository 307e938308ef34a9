from __future__ import annotations

from pathlib import Path

import pytest

from hf_xmc import load_xmc_dataset
from hf_xmc.data.formats.columns import SAMPLE
from tests.data.made import csv, text
from tests.data.reading import named, prepared


@pytest.mark.parametrize("mark", ["|", ";"])
def test_label_columns_have_one_delimiter(mark: str, source: Path) -> None:
    csv(source)
    text(
        source / "labels.csv",
        [
            "uid,text,texts,parents",
            'l0,red,"New York, NY",',
            f'l1,dark blue,"navy {mark} {mark}New York, NY",l0',
            f'l2,house,,"l0{mark} l1"',
        ],
    )
    labels = load_xmc_dataset(source).labels
    assert labels["texts"][:] == [["New York, NY"], ["navy", "New York, NY"], []]
    assert labels["parents"][:] == [[], ["l0"], ["l0", "l1"]]


def test_all_splits_have_the_delimiter_of_train(source: Path) -> None:
    text(source / "train.csv", ["text,labels", *(f't{i},"cats, dogs|x{i % 3}"' for i in range(12))])
    text(source / "test.csv", ["text,labels", *(f's{i},"cats, dogs"' for i in range(3))])
    data = load_xmc_dataset(source)
    assert data.labels["text"][:] == ["cats, dogs", "x0", "x1", "x2"]
    assert data.queries["test"]["labels"][:] == [[0]] * 3


def test_a_delimiter_after_the_sample_is_noted(source: Path, tmp_path: Path) -> None:
    text(source / "train.csv", ["text,labels", *(f"t{i},a{i % 3}" for i in range(SAMPLE)), "late,a0|a1"])
    data, problems = prepared(source, tmp_path)
    assert data.labels["text"][:] == ["a0", "a1", "a2", "a0|a1"]
    (note,) = [found for found in problems.found if found.kind == "label cells that look otherwise"]
    assert f"line {SAMPLE + 2}: 'a0|a1'" in note.message
    assert "--label_delimiter" in note.handled


@pytest.mark.parametrize("mark", ["\t", ","])
def test_a_quote_at_the_start_of_a_text_swallows_no_rows(mark: str, source: Path, tmp_path: Path) -> None:
    """`"Hamlet" by W.` and `"Open` are texts, as most programs write them that know nothing of quotes."""
    rows = [('"Hamlet" by W.', "stage"), *((f"text {i}", "car") for i in range(30)), ('"Open', "door")]
    rows += [*((f"more {i}", "car") for i in range(30)), ('the last "', "room")]
    suffix = {"\t": "tsv", ",": "csv"}[mark]
    text(source / f"train.{suffix}", [mark.join(row) for row in (("text", "labels"), *rows)])
    data, problems = prepared(source, tmp_path)
    assert named(data) == {document: [label] for document, label in rows}
    assert problems.counts["quotes that are part of a text"] == 2
    assert not problems.errors


def test_a_text_with_line_breaks_stays_one_and_is_noted_where_it_looks_like_rows(source: Path, tmp_path: Path) -> None:
    rows = ["text,labels", "a,x", '"first, of all', 'second of all",y', '"plain', 'break",z']
    text(source / "train.csv", rows)
    data, problems = prepared(source, tmp_path)
    assert named(data) == {"a": ["x"], "first, of all\nsecond of all": ["y"], "plain\nbreak": ["z"]}
    assert problems.counts["cells with line breaks that look like rows"] == 1
