from __future__ import annotations

import json
from pathlib import Path

import pytest

from hf_xmc import load_xmc_dataset
from hf_xmc.data.public_sets import SETS, PublicSet
from hf_xmc.errors import DataError
from tests.data.made import FORMATS, LABELS, TEST, TRAIN, text, xc_pairs

MADE = {"EURLex-4K": "dexml", "Wiki10-31K": "dexml", "AmazonCat-13K": "old", "EURLEX57K": "eurlex57k"}
SHELF = {"biotools_edam", "yso_finna_en", "bible_xref", "eurlex57k_256w"}


def made(name: str, folder: Path) -> Path:
    """A made copy of a public set, in the format that it is published in."""
    FORMATS[MADE.get(name, "jsonl" if name in SHELF else "xc_json")](folder)
    for split in ("test", "tst"):
        (folder / f"filter_labels_{split}.txt").write_text("0 1\n")
    return folder


@pytest.mark.parametrize("config", SETS, ids=lambda config: config.name)
def test_each_set_builds_from_a_made_copy(config: object, tmp_path: Path) -> None:
    name = config.name  # type: ignore[attr-defined]
    folder = made(name, tmp_path / "copy") if (tmp_path / "copy").mkdir() is None else tmp_path
    builder = PublicSet(config_name=name, data_dir=str(folder), cache_dir=str(tmp_path / "cache"))
    builder.download_and_prepare()
    queries = builder.as_dataset()
    assert [row["labels"] for row in queries["train"]] == [y for _, y in TRAIN]
    assert [row["labels"] for row in queries["test"]] == [y for _, y in TEST]
    assert ("filter_labels" in queries["test"].column_names) == config.filters  # type: ignore[attr-defined]
    labels = PublicSet(config_name=f"{name}-labels", data_dir=str(folder), cache_dir=str(tmp_path / "cache"))
    labels.download_and_prepare()
    assert labels.as_dataset()["train"]["text"][:] == LABELS
    first = next(iter(builder.as_streaming_dataset()["train"]))
    assert first["labels"] == TRAIN[0][1]
    data = load_xmc_dataset(folder, builder=name)
    assert (data.name, data.propensity) == (name, config.propensity)  # type: ignore[attr-defined]
    assert data.max_lengths == config.max_lengths  # type: ignore[attr-defined]
    again = load_xmc_dataset(data.save(tmp_path / "prepared"))
    assert (again.name, again.propensity, again.max_lengths) == (data.name, data.propensity, data.max_lengths)


def test_text_composition_of_titles_and_of_full_texts(tmp_path: Path) -> None:
    folder = made("LF-Amazon-131K", tmp_path)
    full = load_xmc_dataset(folder, builder="LF-Amazon-131K").queries["test"]["text"][:]
    titles = load_xmc_dataset(folder, builder="LF-AmazonTitles-131K").queries["test"]["text"][:]
    assert full == [t for t, _ in TEST]
    assert titles == [t.split()[0] for t, _ in TEST]


def test_a_missing_filter_list_is_an_error(tmp_path: Path) -> None:
    folder = made("LF-Amazon-131K", tmp_path)
    (folder / "filter_labels_test.txt").unlink()
    (folder / "filter_labels_tst.txt").unlink()
    with pytest.raises(DataError, match=r"filter_labels_test\.txt"):
        load_xmc_dataset(folder, builder="LF-Amazon-131K")


def test_the_name_of_a_folder_says_nothing(tmp_path: Path) -> None:
    (tmp_path / "LF-Amazon-131K").mkdir()
    data = load_xmc_dataset(made("LF-Amazon-131K", tmp_path / "LF-Amazon-131K"))
    assert data.propensity == {"a": 0.55, "b": 1.5}
    with pytest.raises(DataError, match="no public set"):
        load_xmc_dataset(tmp_path / "LF-Amazon-131K", builder="LF-Amazon")


@pytest.mark.parametrize("name", sorted(SHELF))
def test_the_sets_of_the_shelf(name: str, shelf: Path, tmp_path: Path) -> None:
    stats = json.loads((shelf / name / "stats.json").read_text())
    builder = PublicSet(config_name=name, data_dir=str(shelf / name), cache_dir=str(tmp_path))
    if name == "biotools_edam":
        builder.download_and_prepare()
        counts = {split: len(rows) for split, rows in builder.as_dataset().items()}
    else:  # what is written to disk, without the time that writing takes
        splits = builder._split_generators(None)
        counts = {s.name: sum(1 for _ in builder._generate_examples(**s.gen_kwargs)) for s in splits}
    assert (counts["train"], counts["test"]) == (stats["n_train"], stats["n_test"])


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
