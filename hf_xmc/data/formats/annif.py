"""A SKOS vocabulary with document corpora in the formats of Annif.

The vocabulary is a `.ttl`, `.rdf`, `.nt` or `.xml` file: preferred labels become `text`, alternative labels `texts`,
broader concepts `parents`, and the definition or scope note `description`. A corpus is a `.tsv` file (text, tab,
`<uri>`s separated by white space) or a folder of `.txt` files, each with a `.key` (labels) or `.tsv` (uris) file of
the same name. A word in the name of a corpus says whether it is for training, validation or test; a single corpus is
for training.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from hf_xmc.data.files import lines, open_bytes, plain_suffix
from hf_xmc.data.formats.fields import template
from hf_xmc.data.formats.source import (
    LEFT_OUT,
    UNREADABLE,
    LabelNames,
    Options,
    Reader,
    Record,
    Records,
    Source,
    Split,
)
from hf_xmc.errors import DataError, Problems

VOCABULARIES = {".ttl": "turtle", ".nt": "nt", ".rdf": "xml", ".xml": "xml", ".skos": "xml"}
SPLIT_WORDS = {  # whole words: no letter before or after them
    "test": r"test|tst|eval|evaluation",
    "validation": r"validation|validate|valid|val|dev",
    "train": r"train|training|trn",
}
URI = re.compile(r"<([^<>\s]+)>")


def vocabulary(folder: Path) -> Path | None:
    """The vocabulary in a folder: the first one by name."""
    found = [p for p in sorted(folder.iterdir()) if p.is_file() and plain_suffix(p) in VOCABULARIES]
    return found[0] if found else None


def detect(path: Path) -> str | None:
    """The reason why the folder has this format."""
    found = vocabulary(path) if path.is_dir() else None
    return None if found is None else f"has the SKOS vocabulary {found.name}"


def open_source(folder: Path, options: Options) -> Source:
    """Streams over the corpora; the vocabulary itself is read into memory.

    Raises:
        DataError: there is no corpus.
    """
    label_path = Path(options.label_file) if options.label_file else vocabulary(folder)
    if label_path is None or not label_path.is_file():
        raise DataError("no vocabulary", folder, hint=f"expected one of {', '.join(VOCABULARIES)}")
    names = LabelNames(closed=True)
    corpora = split_corpora(folder)
    if "train" not in corpora:
        raise DataError("no document corpus", folder, hint="expected train.tsv or a folder train with .txt and .key")
    readers: dict[bool, Any] = {True: document_queries, False: line_queries}
    return Source(
        format="annif",
        reason="",
        splits={
            split: Split(path, partial(readers[path.is_dir()], path, names, options))
            for split, path in corpora.items()
        },
        labels=partial(labels, label_path, names, options),
        label_path=label_path,
        files=[label_path, *corpora.values()],
    )


READER = Reader(
    expected="a SKOS vocabulary with an Annif corpus (.ttl with train.tsv)",
    detect=detect,
    open_source=open_source,
    order=20,
)


def split_corpora(folder: Path) -> dict[str, Path]:
    """The corpora by split."""
    found = [p for p in sorted(folder.iterdir()) if plain_suffix(p) == ".tsv" or (p.is_dir() and any(documents(p)))]
    if not found and any(documents(folder)):
        return {"train": folder}
    if len(found) == 1:
        return {"train": found[0]}
    splits: dict[str, Path] = {}
    for path in found:
        name = path.name.lower()
        split = next((s for s, w in SPLIT_WORDS.items() if re.search(rf"(?<![a-z])(?:{w})(?![a-z])", name)), None)
        if split in splits:
            raise DataError(f"{splits[split].name} and {path.name} are both {split}", folder, hint="keep one of them")
        if split is not None:
            splits[split] = path
    return splits


def documents(folder: Path) -> Iterator[Path]:
    """The texts of a full-text corpus that have a file with their subjects."""
    return (
        p for p in sorted(folder.glob("*.txt")) if p.with_suffix(".key").is_file() or p.with_suffix(".tsv").is_file()
    )


def line_queries(path: Path, names: LabelNames, options: Options, problems: Problems) -> Records:
    """The queries of a `.tsv` corpus. A uri that the vocabulary does not have is reported as a bad id."""
    for line, text in lines(path, options.encoding):
        if not text.strip():
            continue
        body, tab, subjects = text.partition("\t")  # the first tab: uris may be separated by tabs too
        if not tab or (subjects.strip() and not URI.search(subjects)):
            bad = DataError(f"found {text!r:.60}", path, line, "expected a text, a tab and uris in angle brackets")
            problems.error(UNREADABLE, bad, LEFT_OUT)
            continue
        ids = names.ids(URI.findall(subjects), path, line, problems)
        yield line, {"uid": f"{path.name.split('.')[0]}-{line}", "text": body.strip(), "labels": ids}


def document_queries(folder: Path, names: LabelNames, options: Options, problems: Problems) -> Records:
    """The queries of a full-text corpus. The number of the file is used as the line in messages."""
    for number, path in enumerate(documents(folder), start=1):
        try:
            yield number, document(path, names, options, problems)
        except DataError as error:
            problems.error(UNREADABLE, error, LEFT_OUT)


def document(path: Path, names: LabelNames, options: Options, problems: Problems) -> Record:
    """A text with its subjects as a query."""
    text = "\n".join(line for _, line in lines(path, options.encoding))
    by_uri = path.with_suffix(".tsv").is_file()
    subjects = path.with_suffix(".tsv" if by_uri else ".key")
    ids: list[int] = []
    for line, subject in lines(subjects, options.encoding):
        name = subject.split("\t")[0].strip().strip("<>") if by_uri else subject.strip()
        ids += [id_ for id_ in names.ids([name], subjects, line, problems) if id_ not in ids]
    return {"uid": path.stem, "text": text.strip(), "labels": ids}


def labels(path: Path, names: LabelNames, options: Options, problems: Problems) -> Records:
    """The concepts, sorted by uri; deprecated ones are skipped."""
    from rdflib import RDF, Graph, Namespace, URIRef

    skos = Namespace("http://www.w3.org/2004/02/skos/core#")
    deprecated = URIRef("http://www.w3.org/2002/07/owl#deprecated")
    graph = Graph()
    logging.getLogger("rdflib").setLevel(logging.ERROR)  # it warns about every invalid date
    try:
        with open_bytes(path) as file:
            graph.parse(data=file.read(), format=VOCABULARIES[plain_suffix(path)])
    except Exception as error:  # rdflib's parsers raise exceptions of many kinds
        raise DataError(f"not a SKOS vocabulary ({error!s:.120})", path, hint="is the file complete?") from error
    by_template = template(options.label_template)
    concepts = sorted({uri for uri in graph.subjects(RDF.type, skos.Concept) if isinstance(uri, URIRef)})
    count = 0
    for uri in concepts:
        preferred = in_language(graph.objects(uri, skos.prefLabel), options.language)
        if not preferred or str(graph.value(uri, deprecated)).lower() == "true":
            continue
        others = in_language(graph.objects(uri, skos.altLabel), None)
        all_preferred = in_language(graph.objects(uri, skos.prefLabel), None)
        notes = in_language(
            [*graph.objects(uri, skos.definition), *graph.objects(uri, skos.scopeNote)], options.language
        )
        record: Record = {
            "uid": str(uri),
            "text": preferred[0],
            "texts": [text for text in dict.fromkeys([*all_preferred, *others]) if text != preferred[0]],
            "description": notes[0] if notes else None,
            "parents": sorted(str(parent) for parent in graph.objects(uri, skos.broader)),
        }
        names.add(record["uid"], count, *all_preferred)
        count += 1
        yield count, {**record, **({"text": by_template.fill(record)} if by_template else {})}


def in_language(values: Any, language: str | None) -> list[str]:
    """Literals as strings, only those in the given language if there are any.

    They are sorted by language and text, so that the order does not depend on the graph.
    """
    found = sorted({(str(getattr(value, "language", None) or ""), str(value)) for value in values})
    chosen = [text for tag, text in found if language and tag.split("-")[0] == language]
    return chosen or [text for _, text in found]
