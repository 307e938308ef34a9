"""Write the seed corpus: a small data set in every format that is read, as tests/data/made.py makes it, and more.

python -m tests.fuzz.make_seeds
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from hf_xmc.data.dataset import prepare_xmc_dataset
from hf_xmc.data.soft_positives import SoftPositives
from hf_xmc.data.spreadsheets import write_spreadsheet
from hf_xmc.errors import Problems
from tests.data.made import FORMATS, LABELS, TRAIN, records, text

SEEDS = Path(__file__).parent / "seeds"
RDF = """<?xml version="1.0"?>
<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#" xmlns:skos="http://www.w3.org/2004/02/skos/core#">
<skos:Concept rdf:about="http://x/1"><skos:prefLabel xml:lang="en">red</skos:prefLabel></skos:Concept>
<skos:Concept rdf:about="http://x/2"><skos:prefLabel xml:lang="fi">talo</skos:prefLabel></skos:Concept>
</rdf:RDF>"""
JSON_LD = {
    "@context": {"skos": "http://www.w3.org/2004/02/skos/core#", "name": "skos:prefLabel"},
    "@graph": [{"@id": "http://x/1", "@type": "skos:Concept", "name": {"@value": "red", "@language": "en"}}],
}


def write_seeds(folder: Path) -> None:
    """One folder for each format."""
    for name, make in FORMATS.items():
        (folder / name).mkdir(parents=True)
        make(folder / name)
    rows = [[words, "; ".join(LABELS[label] for label in labels)] for words, labels in TRAIN]
    (folder / "xlsx").mkdir()
    write_spreadsheet(folder / "xlsx" / "train.xlsx", ["text", "labels"], rows)
    text(folder / "fasttext" / "train.txt", ["__label__red __label__car a red car", "__label__house a house"])
    records(folder / "names" / "train.jsonl", [{"text": words, "labels": ["red", "car"]} for words, _ in TRAIN])
    for name, vocabulary in (("voc.rdf", RDF), ("voc.jsonld", json.dumps(JSON_LD))):
        place = folder / f"skos_{name.partition('.')[2]}"
        text(place / name, [vocabulary])
        text(place / "train.csv", ["text,subjects", "a red car,http://x/1", "a house,http://x/1"])
    write_prepared(folder / "prepared")
    terms = [{"string": "BRCA1", "text": "a gene of DNA repair."}, {"string": "WHO", "text": "a health agency"}]
    records(folder / "knowledge_jsonl" / "terms.jsonl", terms)
    text(folder / "knowledge_csv" / "terms.csv", ["string,text", *(f'{t["string"]},"{t["text"]}"' for t in terms)])


def write_prepared(folder: Path) -> None:
    """What `hf-xmc prepare` makes, with pairs that a teacher added."""
    with TemporaryDirectory() as scratch:
        source, built = Path(scratch, "source"), Path(scratch, "built")
        for place in (source, built):
            place.mkdir()
        FORMATS["csv"](source)
        made = prepare_xmc_dataset(source, built, Problems())
        replace(made, soft=SoftPositives.of([0, 1], [1, 0], [0.5, 0.0], "teacher")).save(folder)


if __name__ == "__main__":
    shutil.rmtree(SEEDS, ignore_errors=True)
    write_seeds(SEEDS)
