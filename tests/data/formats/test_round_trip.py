"""The same small data set comes out of every format."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import scipy.sparse as sp
from datasets import ClassLabel, Dataset, Features, List, Value

from hf_xmc import XMCDataset, load_xmc_dataset
from hf_xmc.data.formats.source import Options
from hf_xmc.errors import DataError
from tests.data.made import FORMATS, LABELS, TEST, TRAIN, csv, dexml, jsonl, matrix, text, xc_pairs


def content(data: XMCDataset) -> dict[str, list[tuple[str, list[str]]]]:
    """Texts and label texts by split; validation is given back to train."""
    found = {}
    for split, table in data.queries.items():
        split = "train" if split == "validation" and len(data.queries["validation"]) < 2 else split
        rows = [(row["text"], [data.labels[l]["text"] for l in row["labels"]]) for row in table]
        found[split] = sorted(found.get(split, []) + rows)
    return found


def expected(rows: list[tuple[str, list[int]]]) -> list[tuple[str, list[str]]]:
    return sorted((t, [LABELS[l] for l in y]) for t, y in rows)


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same(name: str, tmp_path: Path) -> None:
    FORMATS[name](tmp_path)
    data = load_xmc_dataset(tmp_path)
    found = content(data)
    assert found["train"] == expected(TRAIN)
    assert found["test"] == expected(TEST)
    assert data.labels["text"][:] == LABELS
    assert data.reason
    again = load_xmc_dataset(data.save(tmp_path / "prepared"))
    assert again.fingerprint() == data.fingerprint()
    assert {s: p.row(0).tolist() for s, p in again.filters.items()} == {
        s: p.row(0).tolist() for s, p in data.filters.items()
    }


PACK = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": lambda data: pa.compress(data, codec="zstd", asbytes=True),
}


@pytest.mark.parametrize("suffix", PACK)
def test_compressions(suffix: str, tmp_path: Path) -> None:
    plain, packed = tmp_path / "plain", tmp_path / "packed"
    for folder in (plain, packed):
        folder.mkdir()
        jsonl(folder)
    for path in list(packed.iterdir()):
        path.with_name(path.name + suffix).write_bytes(PACK[suffix](path.read_bytes()))
        path.unlink()
    assert load_xmc_dataset(packed).fingerprint() == load_xmc_dataset(plain).fingerprint()
    whole = packed / f"trn.jsonl{suffix}"
    whole.write_bytes(whole.read_bytes()[:-9])
    with pytest.raises(DataError, match=rf"trn\.jsonl{suffix}, line \d+: .*is the file complete"):
        load_xmc_dataset(packed)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32", "latin-1", "cp1252"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_encodings_and_line_ends(encoding: str, end: str, tmp_path: Path) -> None:
    rows = ["uid,text,labels", "a,Käse und Brot,grün|rot", 'b,"zwei\u00a0Zeilen",blau', "c,drei,rot"]
    (tmp_path / "train.csv").write_bytes((end.join(rows) + end).encode(encoding))
    marked = encoding.startswith("utf")
    data = load_xmc_dataset(tmp_path, Options(encoding=None if marked else encoding))
    texts = {text for split in data.queries.values() for text in split["text"]}
    assert texts == {"Käse und Brot", "zwei\u00a0Zeilen", "drei"}
    assert data.labels["text"][:] == ["grün", "rot", "blau"]
    if not marked:  # what is not UTF-8 is taken for cp1252, of which these letters of latin-1 are a part
        assert load_xmc_dataset(tmp_path).fingerprint() == data.fingerprint()


def test_filters_of_the_dexml_folder(tmp_path: Path) -> None:
    dexml(tmp_path)
    data = load_xmc_dataset(tmp_path)
    assert data.filters["test"].row(1).tolist() == [0]
    pairs = {
        uid: row
        for s in ("train", "validation")
        if s in data.filters
        for uid, row in zip(data.queries[s]["uid"], map(data.filters[s].row, range(len(data.queries[s]))), strict=True)
    }
    assert pairs["trn-0"].tolist() == [1]
    assert pairs["trn-3"].tolist() == [2]


@pytest.mark.parametrize(
    "names",
    [
        ("trn_X.txt", "Y.txt", "trn_X_Y.npz"),
        ("raw_data/train.raw.txt", "raw_data/label.raw.txt", "Y.trn.npz"),
        ("X.trn.txt", "output-items.txt", "Y.trn.npz"),
        ("train_raw_texts.txt", "label_map.txt", "Y.trn.npz"),
    ],
)
def test_other_names_of_the_same_files(names: tuple[str, str, str], tmp_path: Path) -> None:
    texts, labels, positives = names
    text(tmp_path / texts, [t for t, _ in TRAIN])
    text(tmp_path / labels, LABELS)
    sp.save_npz(tmp_path / positives, matrix([y for _, y in TRAIN]).tocsc())
    assert content(load_xmc_dataset(tmp_path))["train"] == expected(TRAIN)


def test_old_files_with_the_name_of_the_set(tmp_path: Path) -> None:
    FORMATS["old"](tmp_path)
    for stem in ("train", "test"):
        (tmp_path / f"{stem}.txt").rename(tmp_path / f"eurlex_{stem}.txt")
    assert content(load_xmc_dataset(tmp_path))["test"] == expected(TEST)


def test_old_files_with_texts_beside_them(tmp_path: Path) -> None:
    FORMATS["old"](tmp_path)
    (tmp_path / "Xf.txt").unlink()
    text(tmp_path / "train_raw_texts.txt", [t.upper() for t, _ in TRAIN])
    text(tmp_path / "test_raw_texts.txt", [t.upper() for t, _ in TEST])
    assert load_xmc_dataset(tmp_path).queries["test"]["text"][:] == [t.upper() for t, _ in TEST]


def test_names_of_labels_a_line(tmp_path: Path) -> None:
    text(tmp_path / "train_texts.txt", ["a b", "c"])
    text(tmp_path / "train_labels.txt", ["red blue", "blue"])
    data = load_xmc_dataset(tmp_path)
    assert data.labels["text"][:] == ["red", "blue"]


def test_relevance_is_kept(tmp_path: Path) -> None:
    xc_pairs(tmp_path)
    text(tmp_path / "trn_X_Y.txt", ["4 3", "0:0.5", "2:3.0 1:2.0", "", "0:1 1:1"])
    data = load_xmc_dataset(tmp_path)
    rows = {row["uid"]: row for split in data.queries.values() for row in split}
    assert rows["trn-1"]["labels"] == [1, 2]
    assert rows["trn-1"]["weights"] == [2.0, 3.0]
    assert rows["tst-0"]["weights"] == [1.0, 1.0]
    assert data.positives("test").weights.tolist() == [1.0] * 3
    again = load_xmc_dataset(data.save(tmp_path / "prepared"))
    assert np.array_equal(again.positives("train").weights, data.positives("train").weights)


def test_relevance_of_one_is_no_column(tmp_path: Path) -> None:
    xc_pairs(tmp_path)
    assert load_xmc_dataset(tmp_path).queries["train"].column_names == ["uid", "text", "labels"]


def test_labels_of_skos(tmp_path: Path) -> None:
    FORMATS["annif"](tmp_path)
    label = load_xmc_dataset(tmp_path).labels[1]
    assert label == {
        "uid": "http://x/l1",
        "text": "dark blue",
        "texts": ["dark blues"],
        "kinds": ["synonym"],
        "description": None,
        "parents": ["http://x/l0"],
    }


def test_languages_of_skos(tmp_path: Path) -> None:
    FORMATS["annif"](tmp_path)
    with (tmp_path / "vocabulary.ttl").open("a") as file:
        file.write('<http://x/l1> skos:prefLabel "bleu foncé"@fr ; skos:definition "une couleur"@fr .\n')
    label = load_xmc_dataset(tmp_path, Options(language="fr")).labels[1]
    assert (label["text"], label["description"]) == ("bleu foncé", "une couleur")
    assert label["texts"] == []  # names in other languages find the label, and are not among its texts


@pytest.mark.parametrize(("cells", "found"), [
    (['"[""red"", ""dark, blue""]"', '"[]"'], ["red", "dark, blue"]),
    (['"red;dark, blue"', ""], ["red", "dark, blue"]),
    (["red|green", "green"], ["red", "green"]),
    (["red", "green"], ["red", "green"]),
])  # fmt: skip
def test_label_cells(cells: list[str], found: list[str], tmp_path: Path) -> None:
    text(tmp_path / "mine.csv", ["text,tags", *(f"text {i},{cell}" for i, cell in enumerate(cells))])
    assert load_xmc_dataset(tmp_path / "mine.csv").labels["text"][:] == found


@pytest.mark.parametrize("header", ["text,label,label", "text,label_1,label_2"])
def test_repeated_label_columns(header: str, tmp_path: Path) -> None:
    text(tmp_path / "mine.csv", [header, "a,red,blue", "b,blue,"])
    data = load_xmc_dataset(tmp_path / "mine.csv")
    assert data.labels["text"][:] == ["red", "blue"]
    assert sorted(row["labels"] for split in data.queries.values() for row in split) == [[0, 1], [1]]


def test_columns_and_template_can_be_named(tmp_path: Path) -> None:
    text(tmp_path / "mine.tsv", ["t\tbody\twhat", "Dune\tsand\ta/b", "Emma\t\tb"])
    options = Options(query_template="{t}: {body}", label_column="what", label_delimiter="/")
    data = load_xmc_dataset(tmp_path / "mine.tsv", options)
    assert {text for split in data.queries.values() for text in split["text"]} == {"Dune: sand", "Emma"}
    with pytest.raises(DataError, match=r"no column 'nope'.*it has t, body, what"):
        load_xmc_dataset(tmp_path / "mine.tsv", Options(label_column="nope", text_column="t"))


def test_a_template_reaches_into_nothing(tmp_path: Path) -> None:
    jsonl(tmp_path)
    for template in ("{text.__class__}", "{text[0]}", "{", "no field", "{0.x}"):
        with pytest.raises(DataError, match="template"):
            load_xmc_dataset(tmp_path, Options(query_template=template))


def test_label_texts_descriptions_parents_and_weight(tmp_path: Path) -> None:
    jsonl(tmp_path)
    rich = '{"uid": "l%d", "text": "t%d", "texts": ["u", "v"], "description": "d", "parents": ["l0"], "weight": 0.5}'
    text(tmp_path / "lbl.jsonl", [rich % (i, i) for i in range(3)])
    data = load_xmc_dataset(tmp_path, Options(label_template="{text}: {description}"))
    again = load_xmc_dataset(data.save(tmp_path / "prepared"))
    for labels in (data.labels, again.labels):
        assert labels[1] == {
            "uid": "l1",
            "text": "t1: d",
            "texts": ["u", "v"],
            "description": "d",
            "parents": ["l0"],
            "weight": 0.5,
        }


def hub_folder(folder: Path, labels: list, feature: object) -> str:
    features = Features({"text": Value("string"), "labels": feature})
    for split, rows in (("train", TRAIN), ("test", TEST)):
        path = folder / "data" / f"{split}-00000-of-00001.parquet"
        path.parent.mkdir(exist_ok=True)
        Dataset.from_dict(
            {"text": [t for t, _ in rows], "labels": [[labels[l] for l in y] for _, y in rows]}, features=features
        ).to_parquet(path)
    return str(folder)


@pytest.mark.parametrize("kind", ["names", "class labels"])
def test_a_hub_data_set(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = kind == "names"
    hub_folder(
        tmp_path, LABELS if names else [0, 1, 2], List(Value("string")) if names else List(ClassLabel(names=LABELS))
    )
    from hf_xmc.data import dataset

    monkeypatch.setattr(dataset, "local_path", lambda name: None)  # as if it were an id on the Hub
    monkeypatch.setattr(dataset, "HUB_ID", re.compile(".*"))
    data = load_xmc_dataset(str(tmp_path))
    assert content(data)["test"] == expected(TEST)
    assert sorted(data.labels["text"][:]) == sorted(LABELS)


def test_an_archive(tmp_path: Path) -> None:
    import shutil

    inside = tmp_path / "set" / "inside"
    inside.mkdir(parents=True)
    xc_pairs(inside)
    archive = shutil.make_archive(str(tmp_path / "set"), "zip", tmp_path / "set")
    assert content(load_xmc_dataset(archive))["test"] == expected(TEST)


def test_the_cache_sees_a_changed_file(tmp_path: Path) -> None:
    jsonl(tmp_path)
    before = load_xmc_dataset(tmp_path).fingerprint()
    path = tmp_path / "lbl.jsonl"
    status = path.stat()
    path.write_text(path.read_text().replace("house", "horse"))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert load_xmc_dataset(tmp_path).fingerprint() != before


def test_a_csv_alone_has_no_label_file(tmp_path: Path) -> None:
    csv(tmp_path)
    (tmp_path / "labels.csv").unlink()
    data = load_xmc_dataset(tmp_path)
    assert data.labels["text"][:] == LABELS
    assert (data.format, "labels in 'labels'" in data.reason) == ("csv", True)
