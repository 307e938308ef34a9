from __future__ import annotations

from pathlib import Path

import pytest

from hf_xmc import load_xmc_dataset
from hf_xmc.data.formats import annif
from tests.data.made import LABELS, text
from tests.data.reading import named

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
