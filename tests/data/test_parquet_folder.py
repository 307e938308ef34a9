from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from hf_xmc import load_xmc_dataset
from hf_xmc.cli.main import app
from hf_xmc.data.arrow import cached_folder
from hf_xmc.data.formats.source import Options
from hf_xmc.data.ingest.splits import SplitOptions
from hf_xmc.data.transaction import finish
from hf_xmc.errors import DataError
from tests.data.kills import killed
from tests.data.made import jsonl


@pytest.mark.parametrize("with_filter", [False, True])
def test_prepared_folder_round_trip(toy: Path, tmp_path: Path, with_filter: bool) -> None:
    source = tmp_path / "source"
    shutil.copytree(toy, source)
    if with_filter:
        source.joinpath("filter_labels_tst.txt").write_text("0 3\n0 4\n7 11\n")
    data = load_xmc_dataset(source)
    again = load_xmc_dataset(data.save(tmp_path / "prepared"))
    assert again.fingerprint() == data.fingerprint()
    assert again.counts() == data.counts()
    assert np.array_equal(again.train_label_counts, data.train_label_counts)
    assert again.queries["train"].features == data.queries["train"].features
    assert (again.name, again.propensity, again.num_train_queries) == ("source", data.propensity, 120)
    assert again.filters.keys() == data.filters.keys()
    if with_filter:
        assert again.filters["test"].row(0).tolist() == [3, 4]
        assert again.filters["test"].counts.sum() == 3


def test_prepare_leaves_a_strange_folder_alone(toy: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("ten years of work")
    with pytest.raises(DataError, match="not empty"):
        load_xmc_dataset(toy).save(mine)
    assert (mine / "thesis.txt").read_text() == "ten years of work"
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".")) == []


def test_a_broken_prepared_folder_is_named(toy: Path, tmp_path: Path) -> None:
    folder = load_xmc_dataset(toy).save(tmp_path / "prepared")
    (folder / "data" / "test.parquet").write_bytes(b"PAR1 and then nothing")
    with pytest.raises(DataError, match=r"test\.parquet"):
        load_xmc_dataset(folder)


def test_a_kill_while_it_is_prepared_again_leaves_the_old_set_or_the_new_one(prepared: Path, tmp_path: Path) -> None:
    data = load_xmc_dataset(prepared)
    old = files_of(prepared)
    data.name = "another"
    seen: list[str] = []
    while not seen or seen[-1] != "whole":
        folder = shutil.copytree(prepared, tmp_path / str(len(seen)), copy_function=shutil.copy)
        with killed(len(seen) + 1) as kill:
            data.save(folder)
        finish(folder)
        name = "another" if b"another" in files_of(folder)["dataset.json"] else "source"
        assert name == "another" or files_of(folder) == old
        seen.append("whole" if not kill.came else name)
    assert files_of(folder) == files_of(data.save(tmp_path / "new"))
    assert {"source", "another", "whole"} == {*seen}
    assert load_xmc_dataset(folder).name == "another"


def files_of(folder: Path) -> dict[str, bytes]:
    paths = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in paths.items() if not name.startswith(".")}


def test_the_cache_is_whole_or_not_there_and_keeps_no_rests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)

    def fill(folder: Path) -> None:
        (folder / "a.txt").write_text("a")
        (folder / "b.txt").write_text("b")

    for at in range(1, 9):
        with killed(at):
            cached_folder("test", [at], fill)
    left = [path for path in (tmp_path / "hf_xmc/test").iterdir() if path.name.startswith(".")]
    assert left
    for path in left:  # as if their process was another one, which is gone
        path.rename(path.with_name(path.name.replace(f"-{os.getpid()}-", "-4194305-")))
    for at in range(1, 9):
        made = cached_folder("test", [at], fill)
        assert sorted(path.name for path in made.iterdir()) == ["a.txt", "b.txt"]
    assert not [path for path in made.parent.iterdir() if path.name.startswith(".")]


@pytest.fixture
def prepared(tmp_path: Path) -> Path:
    jsonl(tmp_path / "source")
    return load_xmc_dataset(tmp_path / "source").save(tmp_path / "prepared")


@pytest.mark.parametrize(
    ("kind", "given"),
    [
        ("--split random", {"splitting": SplitOptions("random")}),
        ("--test_share 0.3", {"splitting": SplitOptions(test_share=0.3)}),
        ("--query_template {uid}", {"options": Options(query_template="{uid}")}),
        ("--builder LF-Amazon-131K", {"builder": "LF-Amazon-131K"}),
    ],
)
def test_a_prepared_folder_refuses_what_it_cannot_honour(kind: str, given: dict, prepared: Path) -> None:
    with pytest.raises(DataError, match="a prepared data set cannot be read with " + kind):
        load_xmc_dataset(prepared, **given)
    assert load_xmc_dataset(prepared, Options(), SplitOptions()).num_labels == 3


@pytest.mark.parametrize("bad", [[0, 3], [-1, 0], [1, 0], [1, 1]])
def test_label_ids_of_a_prepared_folder_are_checked(bad: list[int], prepared: Path) -> None:
    path = prepared / "data" / "test.parquet"
    table = pq.read_table(path)
    labels = pa.array([[0], bad], type=table.schema.field("labels").type)
    pq.write_table(table.set_column(table.column_names.index("labels"), "labels", labels), path)
    result = CliRunner().invoke(app, ["prepare", str(prepared), "--check"])
    assert isinstance(result.exception, DataError)
    assert re.search(r"test\.parquet: .*[Rr]ow 1 ", str(result.exception))
    assert "run hf-xmc prepare again" in str(result.exception)
    with pytest.raises(DataError, match=r"[Rr]ow 1 "):
        load_xmc_dataset(prepared)


def test_a_prepared_folder_needs_training_queries(prepared: Path) -> None:
    (prepared / "data" / "train.parquet").unlink()
    with pytest.raises(DataError, match=r"there is no data/train\.parquet"):
        load_xmc_dataset(prepared)
