"""Files that were once read as something else than they say, without a word."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
from datasets import ClassLabel, Dataset, Features, List, Value

from hf_xmc import XMCDataset, load_xmc_dataset
from hf_xmc.data.card import write_card
from hf_xmc.data.dataset import prepare_xmc_dataset
from hf_xmc.data.formats import annif
from hf_xmc.data.formats.source import LabelNames, Options
from hf_xmc.data.public_sets import PublicSet
from hf_xmc.data.statistics import statistics
from hf_xmc.errors import DataError, Problems
from tests.data.made import LABELS, TEST, TRAIN, csv, dexml, jsonl, old, text, xc_pairs


def prepared(folder: Path, tmp_path: Path) -> tuple[XMCDataset, Problems]:
    problems = Problems(stop=False)
    (tmp_path / "out").mkdir()
    return prepare_xmc_dataset(folder, tmp_path / "out", problems), problems


def named(data: XMCDataset) -> dict[str, list[str]]:
    """Text of each query -> the texts of its labels."""
    return {
        row["text"]: [data.labels[label]["text"] for label in row["labels"]]
        for table in data.queries.values()
        for row in table
    }


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "source").mkdir()
    return tmp_path / "source"


@pytest.mark.parametrize(
    ("make", "label_file"), [(dexml, "raw/Y.txt"), (xc_pairs, "Y.txt"), (old, "Yf.txt")], ids=["npz", "pairs", "old"]
)
@pytest.mark.parametrize(("lines", "count"), [(["HEADER", *LABELS], 4), (LABELS[:2], 2)], ids=["more", "fewer"])
def test_the_label_file_has_as_many_labels_as_the_positives_declare(
    make: Any, label_file: str, lines: list[str], count: int, source: Path
) -> None:
    make(source)
    assert load_xmc_dataset(source).num_labels == 3
    text(source / label_file, lines)
    with pytest.raises(DataError, match=f"3 labels are declared, but the label file has {count}"):
        load_xmc_dataset(source)


def test_a_blank_line_among_labels_is_an_error_and_at_the_end_is_none(source: Path) -> None:
    jsonl(source)
    path = source / "lbl.jsonl"
    lines = path.read_text().splitlines()
    text(path, [*lines, "", ""])
    assert load_xmc_dataset(source).num_labels == 3
    text(path, [lines[0], "", *lines[1:]])
    with pytest.raises(DataError, match=r"lbl\.jsonl, line 2: the line is blank; remove it"):
        load_xmc_dataset(source)


def test_stored_zeros_are_no_positives(source: Path, tmp_path: Path) -> None:
    dexml(source)
    stored = sp.csr_matrix(([1.0, 0.0, 1.0, 2.0], [0, 1, 2, 1], [0, 2, 2, 3, 4]), shape=(4, 3))
    assert stored.nnz == 4
    sp.save_npz(source / "Y.trn.npz", stored)
    data, problems = prepared(source, tmp_path)
    found = named(data)
    assert [found[t] for t, _ in TRAIN] == [["red"], [], ["house"], ["dark blue"]]
    assert problems.counts["pairs of weight 0"] == 1
    assert "line 1: label id 1" in problems.found[0].message


def test_pairs_of_weight_zero_are_no_positives(source: Path, tmp_path: Path) -> None:
    xc_pairs(source)
    text(source / "trn_X_Y.txt", ["4 3", "0:1.0 2:0.0", "1:0 2:0", "", "1:3.5"])
    data, problems = prepared(source, tmp_path)
    found = named(data)
    assert [found[t] for t, _ in TRAIN] == [["red"], [], [], ["dark blue"]]
    assert problems.counts["pairs of weight 0"] == 3


def test_an_id_twice_in_a_coo_matrix_is_refused_and_its_weights_are_not_added_up(source: Path, tmp_path: Path) -> None:
    dexml(source)
    rows, columns = np.array([0, 1, 1, 3]), np.array([0, 2, 2, 1])
    sp.save_npz(source / "Y.trn.npz", sp.coo_matrix((np.ones(4), (rows, columns)), shape=(4, 3)))
    with pytest.raises(DataError, match="name an id twice"):
        load_xmc_dataset(source)
    data, problems = prepared(source, tmp_path)
    assert problems.counts["ids twice in a row"] == 1
    assert "weights" not in data.queries["train"].column_names


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
    text(source / "train.csv", ["text,labels", *(f"t{i},a{i % 3}" for i in range(150)), "late,a0|a1"])
    data, problems = prepared(source, tmp_path)
    assert data.labels["text"][:] == ["a0", "a1", "a2", "a0|a1"]
    (note,) = [found for found in problems.found if found.kind == "label cells with | or ;"]
    assert "line 152: 'a0|a1'" in note.message
    assert "--label_delimiter" in note.handled


VOCABULARY = [
    "@prefix skos: <http://www.w3.org/2004/02/skos/core#> .",
    *(f'<http://x/{i}> a skos:Concept ; skos:prefLabel "{name}"@en .' for i, name in enumerate(LABELS)),
]


def test_annif_corpora_split_at_the_first_tab(source: Path) -> None:
    text(source / "vocabulary.ttl", VOCABULARY)
    text(source / "train.tsv", [f"doc {i}\t<http://x/0>\t<http://x/{1 + i % 2}> <http://x/0>" for i in range(12)])
    text(source / "eval.tsv", ["edoc 0\t<http://x/0>"])
    data = load_xmc_dataset(source)
    assert named(data)["doc 0"] == ["red", "dark blue"]
    assert data.queries["test"]["text"][:] == ["edoc 0"]


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("eval.tsv", "test"),
        ("yso-evaluation_2.tsv", "test"),
        ("my_test1.tsv", "test"),
        ("valid.tsv", "validation"),
        ("fi-dev.tsv.gz", "validation"),
        ("validation.tsv", "validation"),
        ("retrieval.tsv", None),
        ("device.tsv", None),
        ("latest.tsv", None),
    ],
)
def test_the_split_of_a_corpus_is_a_word_in_its_name(name: str, split: str | None, source: Path) -> None:
    for file in ("training.tsv", name):
        text(source / file, ["a"])
    expected = {"train": source / "training.tsv"} | ({split: source / name} if split else {})
    assert annif.split_corpora(source) == expected


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


def test_a_public_set_whose_labels_stand_with_the_queries_alone(source: Path, tmp_path: Path) -> None:
    text(source / "train_raw_texts.txt", ["t0", "t1", "t2"])
    text(source / "train_labels.txt", ["b a", "c", "a c"])
    text(source / "test_raw_texts.txt", ["s0", "s1"])
    text(source / "test_labels.txt", ["c d", "a"])
    build = {"data_dir": str(source), "cache_dir": str(tmp_path / "cache")}
    queries, labels = PublicSet(config_name="EURLex-4K", **build), PublicSet(config_name="EURLex-4K-labels", **build)
    for builder in (queries, labels):
        builder.download_and_prepare()
    assert labels.as_dataset()["train"]["text"][:] == ["b", "a", "c", "d"]
    assert queries.as_dataset()["train"]["labels"][:] == [[0, 1], [2], [1, 2]]
    assert queries.as_dataset()["test"]["labels"][:] == [[2, 3], [1]]
    alone = PublicSet(config_name="EURLex-4K", **build).as_streaming_dataset()["test"]
    assert [row["labels"] for row in alone] == [[2, 3], [1]]


def test_a_public_set_keeps_weights(source: Path, tmp_path: Path) -> None:
    xc_pairs(source)
    text(source / "trn_X_Y.txt", ["4 3", "2:0.5 0:2.0", "", "", "1:1"])
    builder = PublicSet(config_name="EURLex-4K", data_dir=str(source), cache_dir=str(tmp_path / "cache"))
    builder.download_and_prepare()
    first = builder.as_dataset()["train"][0]
    assert (first["labels"], first["weights"]) == ([0, 2], [2.0, 0.5])


def test_feature_names_have_the_given_encoding(source: Path) -> None:
    old(source)
    path = source / "Xf.txt"
    path.write_bytes(path.read_text().replace("house", "häuser").encode("latin-1"))
    data = load_xmc_dataset(source, Options(encoding="latin-1"))
    assert "a dark blue häuser" in named(data)


@pytest.mark.parametrize("card", [True, False], ids=["with a card", "nothing else"])
def test_a_folder_as_on_the_hub(card: bool, source: Path) -> None:
    features = Features({"text": Value("string"), "labels": List(ClassLabel(names=LABELS))})
    for split, rows in (("train", TRAIN), ("test", TEST)):
        columns = {"text": [t for t, _ in rows], "labels": [y for _, y in rows]}
        (source / "data").mkdir(exist_ok=True)
        Dataset.from_dict(columns, features=features).to_parquet(source / f"data/{split}-00000-of-00001.parquet")
    if card:
        text(source / "README.md", ["---", "license: mit", "---"])
    data = load_xmc_dataset(source)
    assert data.format == "hub"
    assert data.labels["text"][:] == LABELS
    assert named(data) == {t: [LABELS[i] for i in y] for t, y in TRAIN + TEST}


def test_a_pushed_folder_without_its_description(tmp_path: Path) -> None:
    data = load_xmc_dataset("sample")
    folder = data.save(tmp_path / "pushed")
    write_card(data, statistics(data), folder)
    (folder / "dataset.json").unlink()
    again = load_xmc_dataset(folder)
    assert again.format == "hub"
    assert again.name == "pushed"
    assert again.fingerprint() == data.fingerprint()
