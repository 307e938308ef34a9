from __future__ import annotations

import gzip
import shutil
from pathlib import Path

import numpy as np
import pytest
from datasets import List, Value

from hf_xmc import load_xmc_dataset
from hf_xmc.data.ingest.queries import hashes
from hf_xmc.data.ingest.splits import validation_rows
from hf_xmc.errors import DataError
from hf_xmc.types import Positives
from tests.conftest import write_lines


def test_sample_has_its_counts_and_columns() -> None:
    data = load_xmc_dataset("sample")
    given = data.counts()
    assert (given["train"] + given["validation"], given["test"], given["labels"]) == (4000, 1000, 1193)
    assert data.queries["train"].column_names == ["uid", "text", "labels"]
    assert data.queries["train"].features["labels"] == List(Value("int32"))
    assert data.num_train_queries == 4000
    assert "CC BY-SA 4.0" in data.licence
    assert data.propensity == {"a": 0.55, "b": 1.5}


def test_propensities_count_the_given_split_before_the_cut() -> None:
    data = load_xmc_dataset("sample")
    both = sum(data.positives(split).label_counts(data.num_labels) for split in ("train", "validation"))
    assert np.array_equal(both, data.train_label_counts)


def test_every_label_keeps_a_training_example() -> None:
    data = load_xmc_dataset("sample")
    left = data.positives("train").label_counts(data.num_labels)
    assert ((left > 0) == (data.train_label_counts > 0)).all()


def test_the_cut_does_not_depend_on_the_order() -> None:
    uids, labels = [f"u{i}" for i in range(500)], [[i % 7] for i in range(500)]
    chosen = {uids[row] for row in validation_rows(hashes(uids), Positives.from_lists(labels))}
    again = {uids[::-1][row] for row in validation_rows(hashes(uids[::-1]), Positives.from_lists(labels[::-1]))}
    assert chosen == again
    assert 30 < len(chosen) < 80


def test_positives_are_the_labels_column(toy: Path) -> None:
    data = load_xmc_dataset(toy)
    positives = data.positives("test")
    assert [positives.row(i).tolist() for i in range(len(positives))] == data.queries["test"]["labels"][:]
    part = data.queries["test"].select([3, 1])  # indices, not a copy
    assert data.positives("test").row(3).tolist() == part[0]["labels"]


def test_positives_of_a_selection(toy: Path) -> None:
    from hf_xmc.data.dataset import positives_of

    part = load_xmc_dataset(toy).queries["train"].select([5, 2, 9])
    positives = positives_of(part)
    assert [positives.row(i).tolist() for i in range(3)] == part["labels"][:]
    assert len(positives_of(part.select([]))) == 0


def test_five_rows_load(five_rows: Path) -> None:
    data = load_xmc_dataset(five_rows)
    assert data.counts()["train"] + data.counts()["validation"] == 5
    assert len(data.queries["test"]) == 2


def test_gzip_and_plain_are_the_same(five_rows: Path, tmp_path: Path) -> None:
    packed = tmp_path / "packed"
    packed.mkdir()
    for path in five_rows.glob("*.jsonl"):
        with gzip.open(packed / f"{path.name}.gz", "wb") as file:
            file.write(b"\xef\xbb\xbf" + path.read_bytes())  # with a byte order mark
    assert load_xmc_dataset(packed).fingerprint() == load_xmc_dataset(five_rows).fingerprint()


def test_a_given_validation_split_is_kept(five_rows: Path) -> None:
    shutil.copy(five_rows / "tst.jsonl", five_rows / "val.jsonl")
    data = load_xmc_dataset(five_rows)
    assert (len(data.queries["train"]), len(data.queries["validation"])) == (5, 2)


def test_filter_pairs_follow_their_query(toy: Path, tmp_path: Path) -> None:
    folder = tmp_path / "filtered"
    shutil.copytree(toy, folder)
    folder.joinpath("filter_labels_trn.txt").write_text("".join(f"{row} {row % 12}\n" for row in range(120)))
    data = load_xmc_dataset(folder)
    seen = 0
    for split in ("train", "validation"):
        for row, uid in enumerate(data.queries[split]["uid"]):
            assert data.filters[split].row(row).tolist() == [int(uid[1:]) % 12]
            seen += 1
    assert seen == 120
    assert "test" not in data.filters


BAD = {
    "not json": ("trn.jsonl", '{"uid": "a"', "line 1: not JSON"),
    "an array": ("trn.jsonl", "[1, 2]", "line 1: found"),
    "no text": ("trn.jsonl", '{"uid": "a", "labels": []}', 'line 1: "text" is missing'),
    "null text": ("trn.jsonl", '{"uid": "a", "text": null, "labels": []}', 'line 1: "text" is None'),
    "no labels": ("trn.jsonl", '{"uid": "a", "text": "b"}', 'line 1: "labels" is None'),
    "names for ids": ("trn.jsonl", '{"uid": "a", "text": "b", "labels": [0, "red"]}', "expected a list of label ids"),
    "id out of range": ("trn.jsonl", '{"uid": "a", "text": "b", "labels": [3]}', "row 0 refer to id 3; the label"),
    "negative id": ("trn.jsonl", '{"uid": "a", "text": "b", "labels": [-1]}', "refer to id -1"),
    "id twice": ("trn.jsonl", '{"uid": "a", "text": "b", "labels": [2, 2]}', "repeat an id"),
    "uid twice": (
        "trn.jsonl",
        '{"uid": "a", "text": "b", "labels": [1]}\n{"uid": "a", "text": "c", "labels": [1]}',
        "uid 'a' is in rows 0 and 1",
    ),
    "label uid twice": ("lbl.jsonl", '{"uid": "a", "text": "b"}\n{"uid": "a", "text": "c"}', "uid 'a' is in"),
    "empty label": ("lbl.jsonl", '{"uid": "a", "text": " "}', "empty text"),
    "no label": ("lbl.jsonl", "", "no labels"),
    "no query": ("trn.jsonl", "", "no training queries"),
    "bad filter": ("filter_labels_trn.txt", "0 x", "expected 'row label'"),
    "filter row out of range": ("filter_labels_trn.txt", "5 0", "the split has rows 0 to 4"),
}


@pytest.mark.parametrize(("name", "content", "message"), BAD.values(), ids=BAD.keys())
def test_bad_files_are_named_with_their_line(five_rows: Path, name: str, content: str, message: str) -> None:
    (five_rows / name).write_text(content)
    with pytest.raises(DataError, match=message) as error:
        load_xmc_dataset(five_rows)
    assert name in str(error.value) or "no training queries" in message


def test_broken_bytes_are_named(five_rows: Path) -> None:
    good = five_rows / "trn.jsonl"
    packed = gzip.compress(good.read_bytes() * 50)
    good.unlink()
    (five_rows / "trn.jsonl.gz").write_bytes(packed[: len(packed) // 2])
    with pytest.raises(DataError, match="is the file complete"):
        load_xmc_dataset(five_rows)
    (five_rows / "trn.jsonl.gz").unlink()
    good.write_bytes(b'{"uid": "\xff"}\n')
    with pytest.raises(DataError, match="not UTF-8"):
        load_xmc_dataset(five_rows)


def test_what_is_no_data_set_is_named(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(DataError, match=r"found notes\.txt"):
        load_xmc_dataset(tmp_path)


def test_labels_keep_their_other_columns(five_rows: Path) -> None:
    write_lines(five_rows / "lbl.jsonl", [{"uid": f"l{i}", "text": f"t{i}", "scheme": "x"} for i in range(3)])
    assert load_xmc_dataset(five_rows).labels.column_names == ["uid", "text", "scheme"]


@pytest.mark.parametrize("shelf", [None, "empty"])
def test_an_unknown_name_lists_where_it_was_looked_up(
    shelf: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HF_XMC_DATA", raising=False)
    if shelf:
        monkeypatch.setenv("HF_XMC_DATA", str(tmp_path / shelf))
    place = str(tmp_path / shelf / "nowhere") if shelf else "$HF_XMC_DATA (not set)"
    with pytest.raises(DataError, match="no data set 'nowhere'") as error:
        load_xmc_dataset("nowhere")
    assert f"looked for {tmp_path / 'nowhere'}, {place}, the Hub; expected 'sample'" in str(error.value)
    with pytest.raises(DataError, match=r"no data set '\./my data\.csv'") as error:
        load_xmc_dataset("./my data.csv")
    assert "the Hub;" not in str(error.value), "it cannot be the id of a data set there"


def test_a_name_is_looked_up_in_the_folder_of_the_variable_alone(
    five_rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkout = tmp_path / "checkout"
    (tmp_path / "shared" / "data").mkdir(parents=True)
    checkout.mkdir()
    shutil.copytree(five_rows, tmp_path / "shared" / "data" / "five_rows")
    monkeypatch.chdir(checkout)
    monkeypatch.delenv("HF_XMC_DATA", raising=False)
    with pytest.raises(DataError, match="no data set 'five_rows'"):
        load_xmc_dataset("five_rows")
    monkeypatch.setenv("HF_XMC_DATA", str(tmp_path / "shared" / "data"))
    assert load_xmc_dataset("five_rows").num_labels == 3
