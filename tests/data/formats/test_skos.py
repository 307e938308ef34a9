"""Headings and SKOS vocabularies, joined in every way in which documents refer to concepts."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from rdflib import Graph

from hf_xmc import load_xmc_dataset
from hf_xmc.data.formats.label_names import SHARED, UNKNOWN
from hf_xmc.data.formats.source import Options
from hf_xmc.errors import DataError
from tests.data.made import records, text
from tests.data.reading import named, prepared

TURTLE = """
@prefix skos: <http://www.w3.org/2004/02/skos/core#> .
@prefix owl: <http://www.w3.org/2002/07/owl#> .
@prefix dct: <http://purl.org/dc/terms/> .
@prefix x: <http://x/> .
x:c1 a skos:Concept ; skos:prefLabel "gardens"@en, "puutarhat"@fi ; skos:altLabel "yards"@en, "pihat"@fi ;
  skos:notation "712" ; skos:scopeNote "Places with plants"@en ; skos:broader x:c3 .
x:c2 a skos:Concept ; skos:prefLabel "red cars"@en-GB, "autot"@fi ; skos:hiddenLabel "carz" .
x:c3 a skos:Concept ; skos:prefLabel "places"@en, "paikat"@fi ; skos:narrower x:c4 .
x:c4 a skos:Concept ; skos:prefLabel "kitchen gardens"@en, "kasvimaat"@fi ; skos:altLabel "yards"@en .
x:old a skos:Concept ; skos:prefLabel "motor cars"@en ; owl:deprecated true ; dct:isReplacedBy x:c2 .
"""
HEADINGS = {
    "by uri": "http://x/c1",
    "by uri in brackets": "<http://x/c1>",
    "by notation": "712",
    "by preferred label": "gardens",
    "in any case": "GARDENS",
    "in another language": "puutarhat",
    "by the end of the uri": "c1",
}


def documents(folder: Path, headings: list[str], name: str = "train.csv") -> Path:
    rows = [f'"the gardens and places, no {i}","{heading}"' for i, heading in enumerate(headings)]
    text(folder / name, ["text,subjects", *rows])
    return folder


def test_headings_are_matched_in_every_way(source: Path) -> None:
    text(source / "voc.ttl", [TURTLE])
    data = load_xmc_dataset(documents(source, [*HEADINGS.values(), "Carz;pihat", "http://x/old"]))
    assert data.labels["uid"][:] == ["http://x/c1", "http://x/c2", "http://x/c3", "http://x/c4"]
    first = data.labels[0]
    assert (first["text"], first["texts"], first["description"]) == ("gardens", ["yards"], "Places with plants")
    assert data.labels["parents"][:] == [["http://x/c3"], [], [], ["http://x/c3"]]
    found = list(named(data).values())
    assert sorted(found[:]) == sorted([*[["gardens"]] * len(HEADINGS), ["gardens", "red cars"], ["red cars"]])
    assert data.reading is not None
    assert data.reading.language == "en"
    assert any("in 'en', the language of your texts; --language" in line for line in data.said)


@pytest.mark.parametrize("kind", ["xml", "nt", "json-ld", "turtle with a mark"])
def test_every_way_of_writing_a_vocabulary(kind: str, source: Path) -> None:
    if kind == "turtle with a mark":
        (source / "voc.ttl").write_text(TURTLE, encoding="utf-8-sig")
    else:
        graph = Graph().parse(data=TURTLE, format="turtle")
        name = {"xml": "voc.rdf", "nt": "voc.nt", "json-ld": "voc.jsonld"}[kind]
        graph.serialize(source / name, format=kind)
    data = load_xmc_dataset(documents(source, ["gardens", "red cars; places"], "docs.csv"))
    assert sorted(named(data).values()) == [["gardens"], ["red cars", "places"]]


def test_a_json_ld_context_is_never_fetched(source: Path) -> None:
    (source / "voc.jsonld").write_text('{"@context": "http://example.org/context", "@graph": []}')
    with pytest.raises(DataError, match=r"its context is at 'http://example\.org/context'; put the context into"):
        load_xmc_dataset(documents(source, ["gardens"]))


def test_the_vocabulary_may_be_named_and_its_language(tmp_path: Path) -> None:
    text(tmp_path / "voc.ttl", [TURTLE])
    table = documents(tmp_path, ["gardens", "Autot"]) / "train.csv"
    options = Options(label_file=str(tmp_path / "voc.ttl"), language="fi")
    data = load_xmc_dataset(table, options)
    assert data.labels["text"][:] == ["puutarhat", "autot", "paikat", "kasvimaat"]
    assert data.labels["texts"][0] == ["pihat"]
    assert sorted(named(data).values()) == [["autot"], ["puutarhat"]]


def test_the_separator_is_the_one_that_the_vocabulary_knows(source: Path) -> None:
    text(source / "voc.ttl", [TURTLE.replace('"places"@en', '"places, common"@en')])
    data = load_xmc_dataset(documents(source, ["gardens, red cars", "red cars, kitchen gardens", "gardens"]))
    assert max(map(len, named(data).values())) == 2
    other = load_xmc_dataset(documents(source, ["places, common", "gardens"]))
    assert sorted(named(other).values()) == [["gardens"], ["places, common"]]


def test_what_is_unknown_or_shared_is_counted(source: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    text(source / "voc.ttl", [TURTLE])
    documents(source, ["gardens;moons", "red cars;moons", "yards", "places", "stars;places"])
    data, problems = prepared(source, tmp_path)
    assert (problems.counts[UNKNOWN], problems.counts[SHARED], problems.errors) == (3, 1, 0)
    assert [problem.message.split(",")[0] for problem in problems.left_out] == ["'moons'", "'stars'"]
    assert any(line.startswith("3 of 8 headings (2 different ones) are not in voc.ttl") for line in data.said)
    with caplog.at_level(logging.WARNING, "hf_xmc"):
        load_xmc_dataset(source)
    assert "3 headings were left out, as 'moons', 2 times" in caplog.text


def test_another_vocabulary_is_an_error(source: Path) -> None:
    text(source / "voc.ttl", [TURTLE])
    with pytest.raises(DataError, match=r"2 of 3 headings are not in it, as 'moons' \(1 times\).*another vocabulary"):
        load_xmc_dataset(documents(source, ["gardens", "moons", "stars"]))


def test_annif_corpora_of_every_kind(source: Path) -> None:
    text(source / "voc.ttl", [TURTLE])
    (source / "train").mkdir()
    (source / "train" / "a.json").write_text(
        '{"title": "On gardens", "text": "With plants.", "subjects": [{"uri": "http://x/c1"}, {"label": "places"}]}'
    )
    text(source / "train" / "b.txt", ["Of cars"])
    text(source / "train" / "b.tsv", ["<http://x/c2>\tred cars"])
    text(source / "train" / "c.txt", ["Of nothing"])
    text(source / "train" / "c.key", ["Places"])
    assert named(load_xmc_dataset(source)) == {
        "On gardens. With plants.": ["gardens", "places"],
        "Of cars": ["red cars"],
        "Of nothing": ["places"],
    }


def test_annif_tables(source: Path) -> None:
    text(source / "voc.ttl", [TURTLE])
    text(source / "train.csv", ["document_id,text,subject_uris", "d1,a garden,<http://x/c1> <http://x/c3>"])
    assert named(load_xmc_dataset(source)) == {"a garden": ["gardens", "places"]}
    (source / "train.csv").unlink()
    records(source / "train.jsonl", [{"document_id": "1", "text": "a garden", "subjects": [{"uri": "http://x/c1"}]}])
    assert named(load_xmc_dataset(source)) == {"a garden": ["gardens"]}


def test_an_annif_vocabulary_table(source: Path) -> None:
    text(source / "subjects.tsv", ["<http://x/1>\tred", "<http://x/2>\tcar\t629"])
    text(source / "train.tsv", ["red car\t<http://x/1> <http://x/2>", "car\t<http://x/2>"])
    data = load_xmc_dataset(source)
    assert named(data) == {"red car": ["red", "car"], "car": ["car"]}
