"""What people have, as their programs write it: read without an option, and what was chosen is said."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hf_xmc import XMCDataset, load_xmc_dataset
from hf_xmc.data.formats.source import Options
from hf_xmc.data.reading import Reading
from hf_xmc.data.spreadsheets import write_spreadsheet
from hf_xmc.errors import DataError
from hf_xmc.inference.text_files import open_texts, read_windows, texts_of
from tests.data.made import records, text
from tests.data.reading import named, prepared

HEADER = ["Titel", "Kurzfassung", "Schlagwörter"]
ROWS = [
    ["Rote Autos", 'Ein "schönes" Buch;\nüber 1,5 Autos.', "Autos;Farben"],
    ["Gärten?", "Blumen", "Gärten"],
    ["Nur ein Titel", "", "Farben; Gärten"],
]
TEXTS = {
    'Rote Autos. Ein "schönes" Buch;\nüber 1,5 Autos.': ["Autos", "Farben"],
    "Gärten? Blumen": ["Gärten"],
    "Nur ein Titel": ["Farben", "Gärten"],
}


def written(path: Path, delimiter: str, encoding: str, start: str = "", end: str = "\r\n") -> Path:
    """A text table as a spreadsheet program writes it."""
    cells = io.StringIO(newline="")
    csv.writer(cells, delimiter=delimiter, lineterminator=end).writerows([HEADER, *ROWS])
    path.write_bytes((start + cells.getvalue()).encode(encoding))
    return path


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp1252", "utf-16"])
def test_tables_of_spreadsheet_programs(delimiter: str, encoding: str, tmp_path: Path) -> None:
    data = load_xmc_dataset(written(tmp_path / "a.csv", delimiter, encoding))
    assert named(data) == TEXTS
    assert data.reading == Reading(("Titel", "Kurzfassung"), labels=("Schlagwörter",), separator=";")
    assert data.said[0].startswith("The text is Titel + Kurzfassung, joined")
    assert any("was read as cp1252; --encoding" in line for line in data.said) == (encoding == "cp1252")


def test_a_first_line_may_name_the_separator(tmp_path: Path) -> None:
    data = load_xmc_dataset(written(tmp_path / "a.csv", ";", "utf-8-sig", start="sep=;\r\n"))
    assert named(data) == TEXTS


def test_the_same_table_in_every_kind_of_file(tmp_path: Path) -> None:
    rows = [dict(zip(HEADER, row, strict=True)) for row in ROWS]
    write_spreadsheet(tmp_path / "a.xlsx", HEADER, ROWS)
    records(tmp_path / "a.jsonl", rows)  # type: ignore[arg-type]
    (tmp_path / "a.json").write_text(json.dumps(rows))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    listed = [{**row, "Schlagwörter": [name.strip() for name in row["Schlagwörter"].split(";")]} for row in rows]
    records(tmp_path / "b.jsonl", listed)
    pq.write_table(pa.Table.from_pylist(listed), tmp_path / "b.parquet")
    for name in ("a.xlsx", "a.jsonl", "a.json", "a.parquet", "b.jsonl", "b.parquet"):
        assert named(load_xmc_dataset(tmp_path / name)) == TEXTS, name


def test_what_was_read_is_kept_in_the_prepared_folder(tmp_path: Path) -> None:
    data = load_xmc_dataset(written(tmp_path / "a.csv", ";", "cp1252"))
    again = load_xmc_dataset(data.save(tmp_path / "out"))
    assert again.reading == data.reading
    assert again.said == data.said
    assert again.reading is not None
    assert again.reading.text_of({"TITEL": "x", "kurzfassung": "y"}) == "x. y"


@pytest.mark.parametrize(
    ("header", "texts", "label"),
    [
        ("id,title,text,tags", ["title", "text"], "tags"),
        ("id,Title,Abstract,Description,Subjects", ["Title", "Abstract", "Description"], "Subjects"),
        ("uid,otsikko,tiivistelmä,asiasanat", ["otsikko", "tiivistelmä"], "asiasanat"),
        ("titre,résumé,mots-clés", ["titre", "résumé"], "mots-clés"),
        ("name,description,category,price", ["name", "description"], "category"),
        ("name,text,labels", ["text"], "labels"),
        ("year,title,keywords", ["title"], "keywords"),
        ("question,my label", ["question"], "my label"),
    ],
)
def test_names_of_columns(header: str, texts: list[str], label: str, tmp_path: Path) -> None:
    cells = [f"cell {i}" for i in range(header.count(",") + 1)]
    text(tmp_path / "a.csv", [header, ",".join(cells), ",".join(f"{cell} more" for cell in cells)])
    reading = load_xmc_dataset(tmp_path / "a.csv").reading
    assert reading is not None
    assert (list(reading.text), list(reading.labels)) == (texts, [label])


def test_a_title_that_the_text_begins_with_is_not_repeated(tmp_path: Path) -> None:
    text(tmp_path / "a.csv", ["title,text,labels", "Dune,Dune is a planet,x", "Emma,Emma is a person,y"])
    assert set(named(load_xmc_dataset(tmp_path / "a.csv"))) == {"Dune is a planet", "Emma is a person"}


def test_several_text_columns_can_be_named(tmp_path: Path) -> None:
    text(tmp_path / "a.csv", ["title,text,note,labels", "Dune,A planet,new,x", "Emma,A person,old,y"])
    data = load_xmc_dataset(tmp_path / "a.csv", Options(text_column="note,title"))
    assert set(named(data)) == {"new. Dune", "old. Emma"}


def test_columns_that_say_nothing_are_listed(tmp_path: Path) -> None:
    text(tmp_path / "a.csv", ["a,b,c", "1,2,3"])
    with pytest.raises(DataError, match=r"line 1: no column.*it has a, b, c; name it with --label_column"):
        load_xmc_dataset(tmp_path / "a.csv")


@pytest.mark.parametrize("uid", ["id", "row", ""])
def test_one_row_per_label(uid: str, tmp_path: Path) -> None:
    pairs = [
        ("q1", "a red car", "red"),
        ("q2", "blue sky", "blue"),
        ("q1", "a red car", "car"),
        ("q3", "grass", "red"),
    ]
    pairs += [("q2", "blue sky", "sky")]
    rows = [
        ",".join([*([q if uid == "id" else str(i)] if uid else []), body, label])
        for i, (q, body, label) in enumerate(pairs)
    ]
    text(tmp_path / "a.csv", [",".join([*(["id"] if uid else []), "text", "label"]), *rows])
    data = load_xmc_dataset(tmp_path / "a.csv")
    assert named(data) == {"a red car": ["red", "car"], "blue sky": ["blue", "sky"], "grass": ["red"]}
    assert any("one row per label" in line for line in data.said)


def test_a_few_repeated_texts_are_no_pairs(tmp_path: Path) -> None:
    text(tmp_path / "a.csv", ["text,label", *(f"t{i},x{i % 3}" for i in range(20)), "t0,x1"])
    data = load_xmc_dataset(tmp_path / "a.csv")
    assert sum(len(queries) for queries in data.queries.values()) == 21


@pytest.mark.parametrize(
    ("cells", "labels"),
    [
        (["\"['red', 'car']\"", "['blue']", "[]"], ["red", "car", "blue"]),
        (["\"['red' 'car']\"", "['blue']"], ["red", "car", "blue"]),
        (['"[""a"", ""b""]"', "c"], ["a", "b", "c"]),
        (["[unused]", "[sic]"], ["[unused]", "[sic]"]),
        (['"a\nb"', "c"], ["a", "b", "c"]),
        (["<http://x/1> <http://x/2>", "<http://x/1>"], ["http://x/1", "http://x/2"]),
        (["New York", "x", *["y"] * 120, '"x, y"'], ["New York", "x", "y"]),
    ],
)
def test_cells_of_labels(cells: list[str], labels: list[str], tmp_path: Path) -> None:
    text(tmp_path / "a.csv", ["text,labels", *(f"t{i},{cell}" for i, cell in enumerate(cells))])
    assert load_xmc_dataset(tmp_path / "a.csv").labels["text"][:] == labels


@pytest.mark.parametrize(
    ("header", "rows"),
    [
        ("code,description", ["1,red", "2,car"]),
        ("ID,Name", ["1,red", "2,car"]),
        ("label_id,label_name", ["1,red", "2,car"]),
        ("id,label_text", ["1,red", "2,car"]),
        ("uri,label_en,label_fi", ["1,red,punainen", "2,car,auto"]),
    ],
)
def test_columns_of_a_label_table(header: str, rows: list[str], source: Path) -> None:
    text(source / "labels.csv", [header, *rows])
    text(source / "train.csv", ["text,labels", "hello,1|2", "bye,Car"])
    data = load_xmc_dataset(source)
    assert data.labels["text"][:] == ["red", "car"]
    assert named(data) == {"hello": ["red", "car"], "bye": ["car"]}


def test_paths_are_a_hierarchy(tmp_path: Path) -> None:
    cells = ["Home, Garden > Tools > Saws", "Home, Garden > Tools", "Toys", "Toys > Dolls"]
    text(tmp_path / "a.csv", ["text,category", *(f't{i},"{cell}"' for i, cell in enumerate(cells))])
    data = load_xmc_dataset(tmp_path / "a.csv")
    assert data.labels["uid"][:] == cells
    assert data.labels["parents"][:] == [["Home, Garden > Tools"], ["Home, Garden"], [], ["Toys"]]
    assert data.labels["texts"][:] == [["Saws"], ["Tools"], [], ["Dolls"]]
    assert any(line.startswith("Labels are paths") for line in data.said)


def test_spellings_of_a_name_are_said(tmp_path: Path) -> None:
    text(tmp_path / "a.csv", ["text,label", "a,Cats", "b,cats", "c,dogs"])
    said = load_xmc_dataset(tmp_path / "a.csv").said
    assert any("1 labels differ from another only in case or spaces, as 'Cats' and 'cats'" in line for line in said)


def test_lines_of_fasttext(source: Path) -> None:
    text(source / "train.txt", ["__label__red __label__car a red car", "__label__sky blue"])
    text(source / "test.txt", ["__label__car cars"])
    data = load_xmc_dataset(source)
    assert data.format == "fasttext"
    assert named(data) == {"a red car": ["red", "car"], "blue": ["sky"], "cars": ["car"]}


@pytest.mark.parametrize("name", ["trn.jsonl", "train.jsonl", "posts.ndjson"])
def test_json_lines_with_names(name: str, source: Path) -> None:
    records(source / name, [{"text": "red car", "labels": ["red", "car"]}, {"text": "sky", "labels": ["blue"]}])
    assert named(load_xmc_dataset(source)) == {"red car": ["red", "car"], "sky": ["blue"]}


def test_json_lines_with_uids(source: Path) -> None:
    records(source / "lbl.jsonl", [{"uid": f"l{i}", "text": t} for i, t in enumerate(("red", "car", "blue"))])
    records(source / "trn.jsonl", [{"uid": "a", "text": "red car", "labels": ["l0", "car"]}])
    assert named(load_xmc_dataset(source)) == {"red car": ["red", "car"]}


def test_a_saved_data_set(source: Path) -> None:
    load_xmc_dataset("sample").queries["test"].select(range(3)).remove_columns("labels").add_column(
        "tags", [["a"], ["b"], ["a", "b"]]
    ).save_to_disk(source / "train")
    (source / "dataset_dict.json").write_text('{"splits": ["train"]}')
    assert load_xmc_dataset(source).labels["text"][:] == ["a", "b"]


def test_tables_with_a_split_in_their_names(source: Path) -> None:
    text(source / "docs_train.csv", ["text,labels", "a,x", "b,y"])
    text(source / "docs_test.csv", ["text,labels", "c,x"])
    data: XMCDataset = load_xmc_dataset(source)
    assert data.queries["test"]["text"][:] == ["c"]


def test_a_repeated_uid_with_another_text_stays_an_error(source: Path, tmp_path: Path) -> None:
    text(source / "train.csv", ["id,text,label", "1,a,x", "1,b,y", "2,c,x"])
    _, problems = prepared(source, tmp_path)
    assert problems.counts["repeated uids"] == 1


def test_one_column_of_0_and_1_for_each_label(source: Path) -> None:
    text(source / "train.csv", ["id,text,red,car,extra", "a,a red car,1,1,x", "b,nothing,0,0,y", "c,a car,0,1,z"])
    text(source / "test.csv", ["id,text,car,red,extra", "d,red is this,0,1,x"])
    data = load_xmc_dataset(source)
    assert named(data) == {"a red car": ["red", "car"], "nothing": [], "a car": ["car"], "red is this": ["red"]}
    assert "2 columns of 0 and 1, one for each label" in data.reason
    text(source / "train.csv", ["text,label_red,label_car", "a red car,1,1", "nothing,0,0"])
    (source / "test.csv").unlink()
    assert named(load_xmc_dataset(source)) == {"a red car": ["label_red", "label_car"], "nothing": []}


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("train.csv", ["text,labels", 'a red car,"[1, 1, 0]"', 'blue,"[0, 0, 1]"']),
        ("train.jsonl", ['{"text": "a red car", "labels": [1, 1, 0]}', '{"text": "blue", "labels": [0, 0, 1]}']),
        ("train.jsonl", ['{"text": "a red car", "labels": [1.0, 0.0]}', '{"text": "blue", "labels": [0.0, 1.0]}']),
        (
            "trn.jsonl",
            ['{"uid": "1", "text": "a", "labels": [1, 1, 0]}', '{"uid": "2", "text": "b", "labels": [0, 0, 1]}'],
        ),
    ],
    ids=["csv", "jsonl", "floats", "ids"],
)
def test_multi_hot_vectors_are_refused(name: str, rows: list[str], source: Path) -> None:
    text(source / name, rows)
    if name == "trn.jsonl":
        text(source / "lbl.jsonl", [f'{{"uid": "{i}", "text": "label {i}"}}' for i in range(3)])
    with pytest.raises(DataError, match=r"labels are multi-hot vectors, as .* expected the names or ids"):
        load_xmc_dataset(source)


def test_so_many_words_of_each_column_are_read_wherever_the_table_is(tmp_path: Path) -> None:
    rows = [f'{i},"one two three","four five six seven eight","nine ten",red;car' for i in range(30)]
    table = tmp_path / "a.csv"
    text(table, ["id,title,abstract,body,labels", *rows])
    data = load_xmc_dataset(table, Options(text_column="title:2,abstract:3,body:rest"))
    assert data.queries["train"]["text"][0] == "one two. four five six. nine ten"
    assert data.reading is not None
    assert data.reading.words == (2, 3, 0)
    assert Reading.from_json(data.reading.to_json()) == data.reading
    assert "'title' (first 2 words)" in str(data.reading)
    again = open_texts(table, remembered=data.reading)  # as predict reads a table of the same columns
    [window] = read_windows(again, 100)
    assert texts_of(window, again.reading, table)[0] == "one two. four five six. nine ten"
    named = open_texts(table, "body:1,title").reading
    assert named.text_of({"title": "one two", "body": "nine ten"}) == "nine. one two"
    with pytest.raises(DataError, match="reads no words"):
        open_texts(table, "body:0")
