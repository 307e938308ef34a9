"""Everything that Annif reads: each form of a corpus with each form of a vocabulary, from a folder and by name."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from hf_xmc import load_xmc_dataset
from hf_xmc.data.formats.languages import ELSEWHERE
from hf_xmc.data.formats.source import Options
from hf_xmc.errors import DataError
from tests.data.made import records, text
from tests.data.reading import named, prepared

TURTLE = """
@prefix skos: <http://www.w3.org/2004/02/skos/core#> .
@prefix owl: <http://www.w3.org/2002/07/owl#> .
<http://x/red> a skos:Concept ; skos:prefLabel "red"@en, "punainen"@fi ; skos:notation "1.1" .
<http://x/car> a skos:Concept ; skos:prefLabel "car"@en, "auto"@fi .
<http://x/old> a skos:Concept ; skos:prefLabel "coach"@en ; owl:deprecated true .
"""
VOCABULARIES = {
    "voc.ttl": TURTLE,
    "subjects.tsv": "<http://x/red>\tred\t1.1\n<http://x/car>\tcar\n<http://x/old>\n",
    "vocab.tsv": "http://x/red\tred\nhttp://x/car\tcar\n",
    "subjects.csv": "uri,notation,label_fi,label_en\nhttp://x/red,1.1,punainen,red\n<http://x/car>,,auto,car\nhttp://x/old,,,\n",
}
DOCUMENTS = {"a red car on the road": ["red", "car"], "the car is old": ["car"], "like a rose": ["red"]}


def uris(labels: list[str], form: str = "<http://x/{}>") -> str:
    return " ".join(form.format(label) for label in labels)


def tsv(folder: Path, form: str = "<http://x/{}>") -> Path:
    text(folder / "train.tsv", [f"{document}\t{uris(labels, form)}" for document, labels in DOCUMENTS.items()])
    return folder / "train.tsv"


def csv(folder: Path, form: str = "<http://x/{}>") -> Path:
    rows = [f"d{i},{document},{uris(labels, form)}" for i, (document, labels) in enumerate(DOCUMENTS.items())]
    text(folder / "train.csv", ["document_id,text,subject_uris", *rows])
    return folder / "train.csv"


def jsonl(folder: Path, key: str = "uri") -> Path:
    rows = []
    for i, (document, labels) in enumerate(DOCUMENTS.items()):
        subjects = [{key: f"http://x/{label}" if key == "uri" else label} for label in labels]
        rows.append({"document_id": f"d{i}", "text": document, "metadata": {"pages": "3"}, "subjects": subjects})
    records(folder / "train.jsonl", rows)
    return folder / "train.jsonl"


def zipped(path: Path) -> Path:
    target = path.with_name(f"{path.name}.gz")
    target.write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()
    return target


def full_text(folder: Path, suffix: str, line: str) -> Path:
    for i, (document, labels) in enumerate(DOCUMENTS.items()):
        text(folder / "train" / f"d{i}.txt", [document])
        text(folder / "train" / f"d{i}{suffix}", [line.format(label) for label in labels])
    text(folder / "train" / "notes.txt", ["a text without subjects is no document"])
    return folder / "train"


def full_json(folder: Path) -> Path:
    (folder / "train").mkdir()
    for i, (document, labels) in enumerate(DOCUMENTS.items()):
        subjects = [{"uri": f"http://x/{label}", "label": label} for label in labels]
        content = {"document_id": f"d{i}", "text": document, "subjects": subjects}
        (folder / "train" / f"{i}.json").write_text(json.dumps(content))
    return folder / "train"


CORPORA: dict[str, Callable[[Path], Path]] = {
    "tsv": tsv,
    "tsv, bare uris": lambda folder: tsv(folder, "http://x/{}"),
    "tsv.gz": lambda folder: zipped(tsv(folder)),
    "csv": csv,
    "csv, bare uris": lambda folder: csv(folder, "http://x/{}"),
    "csv.gz": lambda folder: zipped(csv(folder)),
    "jsonl": jsonl,
    "jsonl, labels": lambda folder: jsonl(folder, "label"),
    "jsonl.gz": lambda folder: zipped(jsonl(folder)),
    "key": lambda folder: full_text(folder, ".key", "{}"),
    "key, uris": lambda folder: full_text(folder, ".key", "<http://x/{}>"),
    "tsv files": lambda folder: full_text(folder, ".tsv", "<http://x/{0}>\t{0}\t0.5"),
    "tsv files, labels": lambda folder: full_text(folder, ".tsv", "{}"),
    "json files": full_json,
}


@pytest.mark.parametrize("corpus", CORPORA)
def test_every_form_of_a_corpus(corpus: str, source: Path, tmp_path: Path) -> None:
    path = CORPORA[corpus](source)
    (tmp_path / "voc.ttl").write_text(TURTLE)
    by_name = load_xmc_dataset(path, Options(label_file=str(tmp_path / "voc.ttl"), language="en"))
    (source / "subjects.csv").write_text(VOCABULARIES["subjects.csv"])
    for data in (by_name, load_xmc_dataset(source, Options(language="en"))):
        assert {text: sorted(labels) for text, labels in named(data).items()} == {
            text: sorted(labels) for text, labels in DOCUMENTS.items()
        }
        assert sorted(data.labels["uid"][:]) == ["http://x/car", "http://x/red"]


@pytest.mark.parametrize("vocabulary", VOCABULARIES)
@pytest.mark.parametrize("corpus", ["tsv", "csv, bare uris", "key"])
def test_every_form_of_a_vocabulary(vocabulary: str, corpus: str, source: Path) -> None:
    CORPORA[corpus](source)
    (source / vocabulary).write_text(VOCABULARIES[vocabulary])
    data = load_xmc_dataset(source)
    assert sorted(data.labels["text"][:]) == ["car", "red"]
    assert named(data)["the car is old"] == ["car"]
    if "notation" in data.labels.column_names:
        assert dict(zip(data.labels["text"][:], data.labels["notation"][:], strict=True))["red"] == "1.1"


def test_without_a_vocabulary_the_uris_are_the_labels(source: Path) -> None:
    data = load_xmc_dataset(tsv(source))
    assert data.format == "annif"
    assert set(data.labels["uid"][:]) == {"http://x/red", "http://x/car"}


def test_a_concept_without_the_language_is_named_in_another_and_reported(source: Path, tmp_path: Path) -> None:
    tsv(source)
    text(source / "subjects.csv", ["uri,label_fi,label_en-GB", "http://x/red,punainen,red", "http://x/car,auto,"])
    data, problems = prepared(source, tmp_path)
    assert sorted(data.labels["text"][:]) == ["auto", "red"]
    assert any("1 of 2 labels have no name in 'en' and keep one in another language: 'auto'" in s for s in data.said)
    assert problems.counts[ELSEWHERE] == 1


@pytest.mark.parametrize("language", ["en", "EN", "en-GB", "en_us"])
def test_a_language_in_any_spelling(language: str, source: Path) -> None:
    tsv(source)
    label = '<http://x/{0}> a <http://www.w3.org/2004/02/skos/core#Concept> ; skos:prefLabel "{0}"@en-GB, "x{0}"@fi .'
    prefix = "@prefix skos: <http://www.w3.org/2004/02/skos/core#> ."
    text(source / "voc.ttl", [prefix, label.format("red"), label.format("car")])
    assert sorted(load_xmc_dataset(source, Options(language=language)).labels["text"][:]) == ["car", "red"]


def test_a_region_comes_first_where_it_is_named(source: Path) -> None:
    tsv(source)
    rows = ["http://x/red,red,scarlet", "http://x/car,automobile,car"]
    text(source / "subjects.csv", ["uri,label_en-US,label_en-GB", *rows])
    labels = load_xmc_dataset(source, Options(language="en-gb")).labels["text"][:]
    assert sorted(labels) == ["car", "scarlet"]


def test_a_vocabulary_never_mixes_languages(source: Path) -> None:
    """Nothing in the texts says which language it is: one is chosen for all, and said."""
    text(source / "train.tsv", ["xyz\t<http://x/red>", "zyx\t<http://x/car>"])
    (source / "voc.ttl").write_text(TURTLE.replace('"car"@en, "auto"@fi', '"auto"@fi, "Auto"@de'))
    data = load_xmc_dataset(source)
    assert sorted(data.labels["text"][:]) == ["auto", "punainen"]
    assert any("in 'fi', the language that most labels have a name in" in sentence for sentence in data.said)


@pytest.mark.parametrize("vocabulary", ["voc.ttl", "subjects.csv"])
def test_a_language_that_no_label_has_is_an_error(vocabulary: str, source: Path) -> None:
    tsv(source)
    (source / vocabulary).write_text(VOCABULARIES[vocabulary])
    with pytest.raises(DataError, match="no label has a name in 'sv'; there are names in en, fi"):
        load_xmc_dataset(source, Options(language="sv"))


def test_uris_may_hold_commas(source: Path) -> None:
    text(source / "train.csv", ["text,subject_uris", 'a,"http://x/a,b http://x/c"', "b,http://x/c"])
    assert named(load_xmc_dataset(source)) == {"a": ["http://x/a,b", "http://x/c"], "b": ["http://x/c"]}
