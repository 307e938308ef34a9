"""Which mark separates names, and what is said of cells that look otherwise."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hf_xmc import load_xmc_dataset
from hf_xmc.data.formats.separators import delimiter_of
from tests.data.made import text
from tests.data.reading import named, prepared

CELLS = {
    "the majority": (["red, car", "car, blue", "blue, red", "AC|DC, red"], ","),
    "names that stand alone elsewhere": (["Doe, J.; Poe, A.", "Doe, J.", "Poe, A.", "Doe, J."], ";"),
    "one class with a comma": (["home", "home", "tools, garden", "home", "toys", "toys"], None),
    "a rare mark in a name": ([*["home", "toys"] * 20, "AC|DC"], None),
    "late names that are known": ([*["home", "toys"] * 60, "home|toys"], "|"),
    "a comma in every heading": (["Heart, left;Mice", "Mice;Lung, right", "Heart, left"], ";"),
    "lists beside a name": (['["a", "b"]', "c"], None),
}


@pytest.mark.parametrize("case", CELLS)
def test_the_separator_is_found_from_all_cells(case: str) -> None:
    cells, expected = CELLS[case]
    assert delimiter_of(cells) == expected


def test_a_name_of_the_label_file_may_have_the_separator(source: Path) -> None:
    text(source / "labels.csv", ["uid,text", "r,red", 's,"salt, pepper"', "c,car"])
    text(source / "train.csv", ["text,labels", 'one,"red, salt, pepper"', 'two,"car, red"', 'three,"salt, pepper"'])
    found = named(load_xmc_dataset(source))
    assert found == {"one": ["red", "salt, pepper"], "two": ["red", "car"], "three": ["salt, pepper"]}


def test_cells_that_look_otherwise_are_reported(source: Path, tmp_path: Path) -> None:
    rows = ["red|car", "car|blue", "blue|red", "red;car", "red,blue", "big and red"]
    text(source / "train.csv", ["text,labels", *(f't{i},"{cell}"' for i, cell in enumerate(rows))])
    _, problems = prepared(source, tmp_path)
    assert problems.counts["label cells that look otherwise"] == 2
    assert "line 5: 'red;car' has ';'" in problems.found[0].message


def test_a_parquet_file_is_read_alike_wherever_it_lies(tmp_path: Path) -> None:
    table = pa.table({"text": ["a red car", "the sky"], "labels": ["red|car", "sky"]})
    for place in ("one/train.parquet", "two/data/train-00000-of-00001.parquet"):
        (tmp_path / place).parent.mkdir(parents=True)
        pq.write_table(table, tmp_path / place)
    one, two = (named(load_xmc_dataset(tmp_path / name)) for name in ("one", "two"))
    assert one == two == {"a red car": ["red", "car"], "the sky": ["sky"]}
