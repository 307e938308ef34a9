"""Tables in and tables out: what a spreadsheet program writes is tagged without options, and can be opened again."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_xmc import LabelIndex, XMCDualEncoderModel, XMCPipeline, load_xmc_dataset
from hf_xmc.data.dialect import dialect_cells, dialect_of
from hf_xmc.data.reading import Reading
from hf_xmc.data.spreadsheets import spreadsheet_rows, write_spreadsheet
from hf_xmc.errors import DataError, SettingsError
from hf_xmc.inference.batch import Tagged, predict_file, tag_file
from hf_xmc.inference.options import SelectionOptions
from hf_xmc.inference.tag_files import LabelColumns, Summary, merge, tag_file_of, write_part
from hf_xmc.inference.text_files import open_texts, read_rows, read_windows, texts_of


@pytest.fixture(scope="module")
def pipeline(tiny_encoder: str, toy: Path) -> XMCPipeline:
    labels = load_xmc_dataset(toy).labels
    model = XMCDualEncoderModel.from_encoder(tiny_encoder)
    return XMCPipeline(model, LabelIndex.build(model.encode_labels(labels["text"][:]), labels))


def tagged(pipeline: XMCPipeline, source: Path, target: Path, rows: str = "texts", **selection: Any) -> Tagged:
    file = open_texts(source)
    return tag_file(pipeline, file, tag_file_of(target, file, rows), selection=SelectionOptions(**selection))


def cells_of(path: Path) -> list[list[str]]:
    if path.suffix == ".xlsx":
        return [cells for _, cells in spreadsheet_rows(path)]
    return [cells for _, cells in dialect_cells(path, dialect_of(path))]


def write_table(path: Path, rows: list[list[str]]) -> Path:
    if path.suffix == ".xlsx":
        return write_spreadsheet(path, rows[0], rows[1:])
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter="\t" if path.suffix == ".tsv" else ",").writerows(rows)
    return path


ROWS = [["nr", "text", "year"], ["007", "a red car", "2001"], ["008", "a blue, wide house", "2002"]]


@pytest.mark.parametrize("kind", [".csv", ".tsv", ".xlsx"])
@pytest.mark.parametrize("out", [".csv", ".tsv", ".xlsx"])
def test_a_row_for_each_text(pipeline: XMCPipeline, tmp_path: Path, kind: str, out: str) -> None:
    source = write_table(tmp_path / f"in{kind}", ROWS)
    assert str(tagged(pipeline, source, tmp_path / f"out{out}", k=2)) == "2 texts tagged"
    header, *rows = cells_of(tmp_path / f"out{out}")
    assert header == [*ROWS[0], *("label_1", "uid_1", "score_1", "label_2", "uid_2", "score_2")]
    assert [row[:3] for row in rows] == ROWS[1:]
    for row, tags in zip(rows, pipeline([row[1] for row in ROWS[1:]], k=2), strict=True):
        assert [row[3], row[4], row[6], row[7]] == [tag[name] for tag in tags for name in ("label", "uid")]
        assert float(row[5]) == pytest.approx(tags[0]["score"], abs=1e-4)


@pytest.mark.parametrize("out", [".csv", ".tsv", ".xlsx", ".jsonl", ".parquet"])
def test_a_row_for_each_tag(pipeline: XMCPipeline, tmp_path: Path, out: str) -> None:
    source = write_table(tmp_path / "in.csv", ROWS)
    tagged(pipeline, source, tmp_path / f"out{out}", "tags", k=2)
    if out in (".jsonl", ".parquet"):
        rows = [row for _, row in read_rows(tmp_path / f"out{out}")]
    else:
        header, *cells = cells_of(tmp_path / f"out{out}")
        rows = [dict(zip(header, row, strict=True)) for row in cells]
    assert [(row["nr"], str(row["rank"])) for row in rows] == [("007", "1"), ("007", "2"), ("008", "1"), ("008", "2")]
    expected = pipeline([row[1] for row in ROWS[1:]], k=2)
    assert [row["uid"] for row in rows] == [tag["uid"] for tags in expected for tag in tags]
    assert "uri" not in rows[0]


def test_a_semicolon_file_stays_one_that_excel_opens(pipeline: XMCPipeline, tmp_path: Path) -> None:
    source = tmp_path / "in.csv"
    source.write_bytes('"title";"price"\r\n"a red car; größer";"9,50"\r\n'.encode("cp1252"))
    file = open_texts(source)
    assert [line for line in file.said if "cp1252" in line]
    tagged(pipeline, source, tmp_path / "out.csv", k=1)
    written = (tmp_path / "out.csv").read_bytes().decode("cp1252").split("\r\n")
    assert written[0] == '"title";"price";"label_1";"uid_1";"score_1"'
    assert written[1].startswith('"a red car; größer";"9,50";"the ')
    assert "," in (score := written[1].split(";")[-1])
    assert "." not in score
    source.write_text("title;n\na red car;1\n", encoding="utf-8")
    tagged(pipeline, source, tmp_path / "utf8.csv", k=1)
    assert (tmp_path / "utf8.csv").read_bytes().startswith(b"\xef\xbb\xbftitle;n;label_1")


def test_labels_that_the_encoding_of_the_input_lacks(pipeline: XMCPipeline, tmp_path: Path) -> None:
    other = XMCPipeline(pipeline.model, pipeline.index)
    labels = pipeline.index.labels.map(lambda row: {"text": f"{row['text']} Ω"})
    other.index = LabelIndex.build(pipeline.model.encode_labels(labels["text"][:]), labels)
    source = tmp_path / "in.csv"
    source.write_bytes("text,n\ngrün,1\n".encode("cp1252"))
    found = tagged(other, source, tmp_path / "out.csv", k=1)
    assert found.said == ("out.csv is UTF-8: cp1252 lacks a letter of the labels",)
    assert "grün,1,the" in (tmp_path / "out.csv").read_text(encoding="utf-8-sig")


def test_rows_without_a_text_stay_rows(pipeline: XMCPipeline, tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("red car\n\nblue sky\n")
    assert str(tagged(pipeline, tmp_path / "in.txt", tmp_path / "out.csv", k=1)) == (
        "2 texts tagged; 1 row without a text"
    )
    assert [bool(row[1]) for row in cells_of(tmp_path / "out.csv")[1:]] == [True, False, True]
    (tmp_path / "in.csv").write_text("n,text\n1,red car\n2,\n3,blue\n")
    assert tagged(pipeline, tmp_path / "in.csv", tmp_path / "out.jsonl", k=1).blank == 1
    (tmp_path / "in.jsonl").write_text('{"text": "red"}\n{"text": null}\n{"other": 1}\n')
    assert tagged(pipeline, tmp_path / "in.jsonl", tmp_path / "out.parquet", k=1).blank == 2
    assert [len(tags) for tags in pq.read_table(tmp_path / "out.parquet")["labels"].to_pylist()] == [1, 0, 0]


def test_texts_without_a_label_are_counted(pipeline: XMCPipeline, tmp_path: Path) -> None:
    texts = [f"a {colour} thing number {i}" for i in range(5) for colour in ("red", "blue")]
    (tmp_path / "in.txt").write_text("\n".join(texts))
    best = [tags[0]["score"] for tags in pipeline(texts, k=1)]
    threshold = sorted(best)[4]
    found = tagged(pipeline, tmp_path / "in.txt", tmp_path / "out.xlsx", k=3, threshold=threshold)
    assert found.untagged == sum(score < threshold for score in best) == 4
    assert str(found) == "10 texts tagged, 4 of them without a label above the threshold"


@pytest.mark.parametrize(
    ("columns", "row", "expected"),
    [
        (["id", "Title", "Abstract"], ["1", "a", "b"], ("title", "abstract")),
        (["id", "Betreff der Anfrage"], ["1", "how do I pay this"], ("Betreff der Anfrage",)),
        (["id", "body", "title"], ["1", "b", "t"], ("body",)),
        (["only"], ["word"], ("only",)),
    ],
)
def test_the_column_of_texts(tmp_path: Path, columns: list[str], row: list[str], expected: tuple[str, ...]) -> None:
    file = open_texts(write_table(tmp_path / "in.csv", [columns, row]))
    assert [name.lower() for name in file.reading.text] == [name.lower() for name in expected]
    assert len(file.said) == 1
    assert "--text_column" in file.said[0]


def test_columns_are_remembered_or_named(pipeline: XMCPipeline, tmp_path: Path) -> None:
    source = write_table(tmp_path / "in.csv", [["Heading", "Summary", "text"], ["a red car", "by the river", "x"]])
    remembered = Reading(("heading", "summary"))
    file = open_texts(source, remembered=remembered)
    assert file.reading == remembered
    assert file.said == ("Text in 'heading' + 'summary', as in training",)
    tagger = XMCPipeline(pipeline.model, pipeline.index, run={"reading": remembered.to_json()})
    predict_file(tagger, source, tmp_path / "out.jsonl", k=2)
    row = json.loads((tmp_path / "out.jsonl").read_text())
    assert row["labels"] == pipeline("a red car. by the river", k=2)
    assert open_texts(source, "Heading, Summary").reading.text == ("Heading", "Summary")
    assert open_texts(source, query_template="{Heading}: {Summary}").reading.template
    with pytest.raises(DataError, match=r"no column 'titel'; it has Heading, Summary, text"):
        open_texts(source, "titel")
    with pytest.raises(SettingsError, match="both given"):
        open_texts(source, "text", "{text}")


def test_files_are_checked_before_anything_is_loaded(tmp_path: Path) -> None:
    source = write_table(tmp_path / "in.csv", ROWS)
    file = open_texts(source)
    (tmp_path / "there.csv").write_text("work")
    for name, rows, message in (
        ("there.csv", "texts", "exists already; .*--overwrite"),
        ("in.csv", "texts", "is the input"),
        ("out.docx", "texts", r"cannot write \.docx"),
        ("out.csv", "labels", "rows is 'labels'"),
    ):
        with pytest.raises(ValueError, match=message):
            tag_file_of(tmp_path / name, file, rows)
    assert tag_file_of(tmp_path / "there.csv", file, overwrite=True).path.name == "there.csv"
    with pytest.raises(DataError, match=r"save it as \.xlsx"):
        open_texts(tmp_path / "old.xls")


def test_no_cell_of_ours_is_a_formula(pipeline: XMCPipeline, tmp_path: Path) -> None:
    labels = pipeline.index.labels.map(lambda row: {"text": f"=cmd|'{row['text']}'", "uid": f"@{row['uid']}"})
    other = XMCPipeline(pipeline.model, LabelIndex.build(pipeline.model.encode_labels(labels["text"][:]), labels))
    source = write_table(tmp_path / "in.csv", [["text", "n"], ["=a red car", "-3"]])
    tagged(other, source, tmp_path / "out.csv", k=1)
    row = cells_of(tmp_path / "out.csv")[1]
    assert row[:2] == ["=a red car", "-3"], "cells of the input stay what they are"
    assert row[2].startswith("'=cmd")
    assert row[3].startswith("'@")
    (tmp_path / "in.jsonl").write_text('{"text": "=a red car", "n": -3}\n')
    tagged(other, tmp_path / "in.jsonl", tmp_path / "from_json.csv", k=1)
    assert cells_of(tmp_path / "from_json.csv")[1][:2] == ["'=a red car", "-3"]
    tagged(other, source, tmp_path / "out.xlsx", k=1)
    assert cells_of(tmp_path / "out.xlsx")[1][2].startswith("=cmd"), "a text cell, which is not run"


def test_columns_that_are_called_like_ours(pipeline: XMCPipeline, tmp_path: Path) -> None:
    source = write_table(tmp_path / "in.csv", [["uid", "text", "label_1"], ["q1", "a red car", "red"]])
    tagged(pipeline, source, tmp_path / "flat.csv", k=1)
    assert cells_of(tmp_path / "flat.csv")[0] == ["uid", "text", "given_label_1", "label_1", "uid_1", "score_1"]
    tagged(pipeline, source, tmp_path / "long.csv", "tags", k=1)
    assert cells_of(tmp_path / "long.csv")[0][:3] == ["given_uid", "text", "label_1"]


def test_labels_with_a_uri(pipeline: XMCPipeline, tmp_path: Path) -> None:
    labels = pipeline.index.labels.map(lambda row: {"uri": f"http://labels.example/{row['uid']}"})
    other = XMCPipeline(pipeline.model, LabelIndex.build(pipeline.model.encode_labels(labels["text"][:]), labels))
    source = write_table(tmp_path / "in.csv", ROWS)
    for rows, name in (("texts", "uri_1"), ("tags", "uri")):
        tagged(other, source, tmp_path / f"{rows}.csv", rows, k=1)
        header, first, _ = cells_of(tmp_path / f"{rows}.csv")
        assert dict(zip(header, first, strict=True))[name].startswith("http://labels.example/")


@settings(max_examples=50, deadline=None)
@given(
    cells=st.lists(
        st.tuples(*[st.text(st.characters(codec="utf-8", exclude_characters="\r\0"), max_size=8)] * 2),
        min_size=1,
        max_size=8,
    ),
    delimiter=st.sampled_from([",", ";", "\t"]),
)
def test_cells_of_a_table_come_back_as_they_were(
    tmp_path_factory: pytest.TempPathFactory, cells: list[tuple[str, str]], delimiter: str
) -> None:
    folder = tmp_path_factory.mktemp("cells")
    with (folder / "in.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter=delimiter, quoting=csv.QUOTE_ALL, lineterminator="\n").writerows(
            [("text", "other"), *cells]
        )
    source = open_texts(folder / "in.csv", "text")
    target, labels, found = tag_file_of(folder / "out.csv", source), LabelColumns("score"), Summary()
    for window in read_windows(source, 3):
        texts = texts_of(window, source.reading, source.path)
        tags = [[{"label": "red", "uid": "r", "id": 0, "score": 0.5}]] * len(window)
        found.add(write_part(window, texts, tags, folder / f"{window.number}.jsonl", target, labels, None)[1])
    merge(sorted(folder.glob("?.jsonl")), target, labels, found, target.path)
    _, *rows = dialect_cells(folder / "out.csv", replace(dialect_of(folder / "out.csv"), delimiter=delimiter))
    assert [tuple(row[:2]) for _, row in rows] == cells
