"""A SKOS vocabulary with document corpora as Annif has them.

The vocabulary is `.ttl`, `.rdf`, `.nt` or `.xml`: preferred labels are texts, alternative ones `texts`, broader
concepts `parents`, definitions and scope notes the `description`. Corpora are `.tsv` (a text, a tab, `<uri>`s with
white space between them) or folders of `.txt` files, each with a `.key` (labels) or `.tsv` (uris) of its name. Whether
a corpus is training, validation or test is read off a word in its name; the only one is training.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from hf_xmc.data.files import lines, open_bytes, plain_suffix
from hf_xmc.data.formats.source import (
    LEFT_OUT,
    UNREADABLE,
    LabelNames,
    Options,
    Record,
    Records,
    Source,
    Split,
    template,
)
from hf_xmc.errors import DataError, Problems

VOCABULARIES = {".ttl": "turtle", ".nt": "nt", ".rdf": "xml", ".xml": "xml", ".skos": "xml"}
SPLIT_WORDS = {  # whole words between what is no letter
    "test": r"test|tst|eval|evaluation",
    "validation": r"validation|validate|valid|val|dev",
    "train": r"train|training|trn",
}
URI = re.compile(r"<([^<>\s]+)>")


def vocabulary(folder: Path) -> Path | None:
    found = [p for p in sorted(folder.iterdir()) if p.is_file() and plain_suffix(p) in VOCABULARIES]
    return found[0] if found else None


def detect(path: Path) -> str | None:
    """The reason why the folder is one of these."""
    found = vocabulary(path) if path.is_dir() else None
    return None if found is None else f"has the SKOS vocabulary {found.name}"


def open_source(folder: Path, options: Options) -> Source:
    """Streams over corpora; the vocabulary itself is read at once.

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


def split_corpora(folder: Path) -> dict[str, Path]:
    """Corpora by split."""
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
    """The texts of a full-text corpus that have their subjects beside them."""
    return (
        p for p in sorted(folder.glob("*.txt")) if p.with_suffix(".key").is_file() or p.with_suffix(".tsv").is_file()
    )


def line_queries(path: Path, names: LabelNames, options: Options, problems: Problems) -> Records:
    """A `.tsv` corpus. Deprecated uris that the vocabulary lacks are problems, as any bad id."""
    for line, text in lines(path, options.encoding):
        if not text.strip():
            continue
        body, tab, subjects = text.partition("\t")  # the first: uris too may have tabs between them
        if not tab or (subjects.strip() and not URI.search(subjects)):
            bad = DataError(f"found {text!r:.60}", path, line, "expected a text, a tab and uris in angle brackets")
            problems.error(UNREADABLE, bad, LEFT_OUT)
            continue
        ids = names.ids(URI.findall(subjects), path, line, problems)
        yield line, {"uid": f"{path.name.split('.')[0]}-{line}", "text": body.strip(), "labels": ids}


def document_queries(folder: Path, names: LabelNames, options: Options, problems: Problems) -> Records:
    """A full-text corpus; a file stands for a line in messages."""
    for number, path in enumerate(documents(folder), start=1):
        try:
            yield number, document(path, names, options, problems)
        except DataError as error:
            problems.error(UNREADABLE, error, LEFT_OUT)


def document(path: Path, names: LabelNames, options: Options, problems: Problems) -> Record:
    text = "\n".join(line for _, line in lines(path, options.encoding))
    by_uri = path.with_suffix(".tsv").is_file()
    subjects = path.with_suffix(".tsv" if by_uri else ".key")
    ids: list[int] = []
    for line, subject in lines(subjects, options.encoding):
        name = subject.split("\t")[0].strip().strip("<>") if by_uri else subject.strip()
        ids += [id_ for id_ in names.ids([name], subjects, line, problems) if id_ not in ids]
    return {"uid": path.stem, "text": text.strip(), "labels": ids}


def labels(path: Path, names: LabelNames, options: Options, problems: Problems) -> Records:
    """The concepts, by uri."""
    from rdflib import RDF, Graph, Namespace, URIRef

    skos = Namespace("http://www.w3.org/2004/02/skos/core#")
    deprecated = URIRef("http://www.w3.org/2002/07/owl#deprecated")
    graph = Graph()
    logging.getLogger("rdflib").setLevel(logging.ERROR)  # it warns of every date that is none
    try:
        with open_bytes(path) as file:
            graph.parse(data=file.read(), format=VOCABULARIES[plain_suffix(path)])
    except Exception as error:  # rdflib's parsers raise what they like
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
    """Literals as texts, sorted by language and text so that the order does not depend on the graph; of one language
    if it is given and there are any."""
    found = sorted({(str(getattr(value, "language", None) or ""), str(value)) for value in values})
    chosen = [text for tag, text in found if language and tag.split("-")[0] == language]
    return chosen or [text for _, text in found]
