"""Files of texts, predictions and reviews in the kinds and encodings that `hf-xmc prepare` reads as well."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from hf_xmc import load_xmc_dataset
from hf_xmc.audit.review import apply_review
from hf_xmc.data.hierarchy import read_parents
from hf_xmc.errors import DataError
from hf_xmc.inference.evaluation.predictions import read_predictions
from hf_xmc.inference.text_files import open_texts, read_windows, texts_of

TEXTS = ["a r\u00e9d car", "a house"]
LINES = "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in TEXTS)
TABLE = "text;nr\na r\u00e9d car;1\na house;2\n"

FILES = {
    "a.json": json.dumps([{"text": text} for text in TEXTS]).encode(),
    "b.json": json.dumps({"data": [{"text": text} for text in TEXTS]}, indent=1).encode(),
    "c.ndjson": LINES.encode("cp1252"),
    "d.jsonl": gzip.compress(LINES.encode()),
    "e.jsonl": ("\ufeff" + LINES).encode(),
    "f.csv": ("sep=;\n" + TABLE).encode(),
    "g.tsv": TABLE.encode("utf-16-le"),
    "h.tab": TABLE.replace(";", "\t").encode("cp1252"),
    "i.txt": "\r".join(TEXTS).encode(),
    "j.txt.gz": "\n".join(TEXTS).encode(),
}


@pytest.mark.parametrize("name", FILES)
def test_texts_of_every_kind_of_file(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(FILES[name])
    file = open_texts(tmp_path / name)
    [window] = read_windows(file, 10)
    assert texts_of(window, file.reading, file.path) == TEXTS


@pytest.mark.parametrize(("name", "kind"), [("a.xls", "xlsx"), ("a.feather", "parquet"), ("a.pdf", "txt")])
def test_files_of_other_programs(name: str, kind: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"save it as \.{kind}"):
        open_texts(tmp_path / name)


ROWS = [{"uid": "q0", "labels": ["r\u00e9d"]}, {"uid": "q1", "labels": []}]
WRITTEN = {
    "a.jsonl": "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS).encode(),
    "b.jsonl": ("\ufeff" + "".join(json.dumps(row) + "\n" for row in ROWS)).encode(),
    "c.jsonl": "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS).encode("cp1252"),
    "d.json": json.dumps(ROWS).encode(),
    "e.jsonl.gz": gzip.compress("".join(json.dumps(row) + "\n" for row in ROWS).encode()),
}


@pytest.mark.parametrize("name", WRITTEN)
def test_predictions_of_every_kind_of_file(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(WRITTEN[name])
    found = read_predictions(tmp_path / name, ["q0", "q1"], ["car", "r\u00e9d"])
    assert found.ids.tolist() == [[1], [-1]]


def test_a_hierarchy_in_another_encoding(tmp_path: Path) -> None:
    (tmp_path / "h.tsv").write_bytes("child\tparent\nr\u00e9d\tcolour\n".encode("cp1252"))
    assert read_parents(tmp_path / "h.tsv", ["r\u00e9d", "colour"]).tolist() == [[0, 1]]


@pytest.mark.parametrize("code", ["cp1252", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_reviews_in_any_encoding(kind: str, code: str, five_rows: Path, tmp_path: Path) -> None:
    row = {"query_uid": "q3", "label_uid": "l0", "score": "0,5", "accept": "Yes", "note": "\u00e9"}
    text = json.dumps(row, ensure_ascii=False) if kind == "jsonl" else ";".join(row) + "\r\n" + ";".join(row.values())
    (tmp_path / f"missing.{kind}").write_bytes((text + "\r\n").encode(code))
    assert apply_review(load_xmc_dataset(five_rows), [tmp_path / f"missing.{kind}"]).added == 1


def test_a_review_that_is_not_there(five_rows: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"missing\.csv: no such file"):
        apply_review(load_xmc_dataset(five_rows), [tmp_path / "missing.csv"])
