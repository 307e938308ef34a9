"""Files that would grow without end, or fetch something, are refused before they are parsed."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from hf_xmc import load_xmc_dataset
from hf_xmc.data import spreadsheets
from hf_xmc.errors import DataError
from tests.data.made import text

NESTED = "".join(f'<!ENTITY a{i} "{f"&a{i - 1};" * 10}">' for i in range(1, 12))
DECLARED = {
    "nested": f'<!ENTITY a0 "ha">{NESTED}',
    "a file": '<!ENTITY a11 SYSTEM "file:///etc/passwd">',
    "an address": '<!ENTITY a11 SYSTEM "http://127.0.0.1:9/a">',
    "long": f'<!ENTITY a11 "{"x" * 50_000}">',
    "of the document type": '<!ENTITY % a11 SYSTEM "http://127.0.0.1:9/a">',
    "default attributes": f'<!ATTLIST rdf:RDF a CDATA "{"x" * 1000}">',
}
CONTEXTS = ('"http://127.0.0.1:9/c"', '"context.jsonld"', '[{}, "c"]', '{"@import": "c"}', '{"a": {"@context": "c"}}')


def rdf(declared: str, use: str = "&a11;") -> str:
    return (
        f'<?xml version="1.0"?><!DOCTYPE rdf:RDF [{declared}]>'
        '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#" '
        'xmlns:skos="http://www.w3.org/2004/02/skos/core#"><skos:Concept rdf:about="http://x/1">'
        f'<skos:prefLabel xml:lang="en">{use}</skos:prefLabel></skos:Concept></rdf:RDF>'
    )


def vocabulary(folder: Path, name: str, content: str) -> Path:
    text(folder / name, [content])
    text(folder / "train.csv", ["text,subjects", "a red car,http://x/1"])
    return folder


@pytest.mark.parametrize("kind", DECLARED)
def test_xml_entities_that_grow_or_read_are_refused(source: Path, kind: str) -> None:
    with pytest.raises(DataError, match="declares"):
        load_xmc_dataset(vocabulary(source, "voc.rdf", rdf(DECLARED[kind])))


def test_short_entities_of_ontology_editors_are_read(source: Path) -> None:
    folder = vocabulary(source, "voc.rdf", rdf('<!ENTITY a11 "red">'))
    assert load_xmc_dataset(folder).labels["text"][:] == ["red"]


@pytest.mark.parametrize("context", CONTEXTS)
def test_no_context_of_json_ld_is_fetched(source: Path, context: str) -> None:
    with pytest.raises(DataError, match="its context is at"):
        load_xmc_dataset(vocabulary(source, "voc.jsonld", f'{{"@context": {context}, "@graph": []}}'))


@pytest.mark.parametrize("name", ["voc.jsonld", "voc.ttl"])
def test_deep_nesting_is_refused(source: Path, name: str) -> None:
    with pytest.raises(DataError, match="not a SKOS vocabulary"):
        load_xmc_dataset(vocabulary(source, name, "[" * 20_000))


def workbook(path: Path, row: str) -> Path:
    spreadsheets.write_spreadsheet(path, ["text", "labels"], [["a red car", "red"]])
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in parts.items():
            archive.writestr(name, content.replace(b"</sheetData>", row.encode() + b"</sheetData>"))
    return path


def test_a_row_with_a_huge_number_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spreadsheets, "MAX_ROWS", 1000)
    with pytest.raises(DataError, match="a row beyond 1,000"):
        list(spreadsheets.spreadsheet_rows(workbook(tmp_path / "a.xlsx", '<row r="2000000000"><c r="A2"/></row>')))


def test_a_packed_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spreadsheets, "SMALL", 2**16)
    with pytest.raises(DataError, match="and unpacks to"):
        list(spreadsheets.spreadsheet_rows(workbook(tmp_path / "a.xlsx", " " * 2**23)))
