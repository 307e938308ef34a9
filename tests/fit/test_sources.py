"""What a fit reads: tables, test files and shares, and the texts of an earlier tagger."""

from __future__ import annotations

from pathlib import Path

import pytest

from hf_xmc.data.arrow import write_parquet
from hf_xmc.errors import DataError, ModelFolderError, SettingsError
from hf_xmc.fit.sources import read_source, share_of
from hf_xmc.fit.survey import survey
from tests.fit.conftest import write_table


def test_a_table_is_read_split_and_written_with_a_report(table: Path, tmp_path: Path) -> None:
    data, problems = read_source(str(table), tmp_path / "data")
    assert data.num_labels == 16
    assert data.counts()["train"] + data.counts()["validation"] == 600
    assert "test" not in data.queries
    assert not problems.errors
    assert (tmp_path / "data" / "report.html").is_file()
    assert data.name == "things"
    assert not list(tmp_path.glob(".read-*"))


def test_semicolons_between_columns_and_commas_between_labels(tmp_path: Path) -> None:
    path = tmp_path / "german.csv"
    lines = [f"ein roter Wagen {i};rot, Wagen\n" for i in range(30)] + [f"ein Haus {i};Haus\n" for i in range(30)]
    path.write_text("Text;Schlagwörter\n" + "".join(lines), encoding="cp1252")
    data, _ = read_source(str(path), tmp_path / "data")
    assert set(data.labels["text"][:]) == {"rot", "Wagen", "Haus"}


def test_a_share_and_a_file_become_the_test_split(table: Path, tmp_path: Path) -> None:
    data, _ = read_source(str(table), tmp_path / "share", test="0.25")
    assert 100 < data.counts()["test"] < 200
    other = write_table(tmp_path / "newer.csv", 40, seed=3)
    data, _ = read_source(str(table), tmp_path / "file", test=str(other))
    assert data.counts()["test"] == 40
    assert data.counts()["train"] + data.counts()["validation"] == 600


def test_what_a_test_split_cannot_be(table: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no test file"):
        read_source(str(table), tmp_path / "data", test=str(tmp_path / "missing.csv"))
    with pytest.raises(SettingsError, match="between 0 and 1"):
        share_of("1.5")
    assert share_of("0.1") == 0.1
    assert share_of("file.csv") is None
    folder = tmp_path / "folder"
    folder.mkdir()
    write_table(folder / "train.csv", 50)
    other = write_table(folder / "test.csv", 20, seed=1)
    with pytest.raises(DataError, match="has a test split already"):
        read_source(str(folder), tmp_path / "data", test=str(other))


def test_the_catalogue_and_the_texts_of_an_earlier_tagger_are_kept(table: Path, tmp_path: Path) -> None:
    tagger = tmp_path / "tagger"
    first, _ = read_source(str(table), tagger / "fit" / "data")
    write_parquet(first.labels, tagger / "labels.parquet")
    week = tmp_path / "week.csv"
    week.write_text("text,labels\n" + "".join(f"a shiny orange boat {i},orange;boat\n" for i in range(30)))
    data, _ = read_source(str(week), tmp_path / "data", earlier=tagger)
    assert data.labels["text"][:] == [*first.labels["text"][:], "orange"]
    total = sum(len(data.queries[split]) for split in ("train", "validation"))
    assert total == 630
    assert int(data.train_label_counts[16]) == 30
    with pytest.raises(ModelFolderError, match=r"no labels\.parquet"):
        read_source(str(week), tmp_path / "other", earlier=tmp_path)


def test_a_survey_counts_what_the_plan_needs(table: Path, tmp_path: Path) -> None:
    data, _ = read_source(str(table), tmp_path / "data")
    found = survey(data)
    assert found.labels == 16
    assert found.labels_a_query == 2.0
    assert found.words == 7
    assert found.label_words == 1.0
    assert 0.5 < found.named <= 1.0  # words of three letters are not counted
    assert found.language == "en"
    assert all(isinstance(value, str) for value in found.facts().values())
