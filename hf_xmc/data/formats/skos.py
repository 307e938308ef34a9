"""SKOS vocabularies: concepts as labels, in one of the languages that they have names in.

Preferred labels become `text`, other names `texts`, definitions or scope notes `description`, broader concepts
`parents`, and notations `notation`. Deprecated concepts are left out; where they name a successor, a document that
refers to them has that one.
"""

from __future__ import annotations

import json
import logging
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hf_xmc.data.files import BYTE_ORDER_MARKS, open_bytes, plain_suffix
from hf_xmc.data.formats.fields import template
from hf_xmc.data.formats.label_names import LabelNames, fold
from hf_xmc.data.formats.source import Choices, Options, Record, Records
from hf_xmc.errors import DataError

VOCABULARIES = {
    ".ttl": "turtle",
    ".nt": "nt",
    ".n3": "n3",
    ".rdf": "xml",
    ".xml": "xml",
    ".skos": "xml",
    ".owl": "xml",
    ".jsonld": "json-ld",
}
SKOS = "http://www.w3.org/2004/02/skos/core#"
WORD = re.compile(r"[^\W\d_]{3,}")


def vocabulary(folder: Path) -> Path | None:
    """The SKOS vocabulary in a folder: the first one by name."""
    found = [p for p in sorted(folder.iterdir()) if p.is_file() and plain_suffix(p) in VOCABULARIES]
    return found[0] if found else None


def concepts(
    path: Path, names: LabelNames, options: Options, choices: Choices, evidence: Iterable[str] = ()
) -> Records:
    """The concepts of a vocabulary, sorted by uri; `names` learns how documents may refer to them.

    Args:
        choices: is told the language.
        evidence: texts and headings of some documents, which decide the language where the user does not.

    Raises:
        DataError: the file is not a SKOS vocabulary.
    """
    from rdflib import DCTERMS, OWL, Literal, Namespace, URIRef

    skos, graph = Namespace(SKOS), parsed(path)
    chosen = options.language or language_of(graph, evidence)
    if chosen and not options.language:
        choices.said.append(f"Label texts are those in {chosen!r}, the language of your texts; --language changes it")
    if choices.reading is not None and chosen:
        choices.reading = choices.reading.in_language(chosen)
    by_template = template(options.label_template)
    above = broader(graph)
    replaced: list[tuple[Any, Any]] = []
    count = 0
    for uri in concept_uris(graph):
        found = Names(graph, uri, chosen)
        if str(graph.value(uri, OWL.deprecated)).lower() == "true":
            replaced += [(uri, new) for new in graph.objects(uri, DCTERMS.isReplacedBy) if isinstance(new, URIRef)]
            continue
        if not found.text:
            continue
        notes = in_language([*graph.objects(uri, skos.definition), *graph.objects(uri, skos.scopeNote)], chosen)
        codes = sorted({str(code) for code in graph.objects(uri, skos.notation) if isinstance(code, Literal)})
        record: Record = {
            "uid": str(uri),
            "text": found.text,
            "texts": found.texts,
            "description": notes[0] if notes else None,
            "parents": above.get(str(uri), []),
            **({"notation": codes[0]} if codes else {}),
        }
        names.add(record["uid"], count, *found.preferred, parents=record["parents"])
        for level, others in enumerate((codes, found.texts, *found.elsewhere, [re.split(r"[/#]", str(uri))[-1]])):
            names.also(count, level, *others)
        count += 1
        yield count, {**record, **({"text": by_template.fill(record)} if by_template else {})}
    for old, new in replaced:
        if (id_ := names.id_of.get(str(new))) is not None:
            names.add(str(old), id_)


class Names:
    """The names of a concept in a language; in all languages if it has none in that one.

    Args:
        preferred: preferred labels. The first of them is `text`.
        texts: the others, and alternative labels, without `text`.
        elsewhere: preferred labels, and alternative and hidden ones, in other languages.
    """

    def __init__(self, graph: Any, uri: Any, language: str) -> None:
        from rdflib import RDFS, Namespace

        skos = Namespace(SKOS)
        given = {kind: [*graph.objects(uri, skos[kind])] for kind in ("prefLabel", "altLabel", "hiddenLabel")}
        given["prefLabel"] = given["prefLabel"] or [*graph.objects(uri, RDFS.label)]
        self.preferred = in_language(given["prefLabel"], language)
        self.text = self.preferred[0] if self.preferred else ""
        others = [*self.preferred[1:], *in_language(given["altLabel"], language, strict=bool(language))]
        self.texts = [text for text in dict.fromkeys(others) if text != self.text]
        rest = in_language([*given["altLabel"], *given["hiddenLabel"]], "")
        self.elsewhere = in_language(given["prefLabel"], ""), rest


def parsed(path: Path) -> Any:
    """A vocabulary as a graph. Nothing that it refers to is fetched.

    Raises:
        DataError: it cannot be read, or needs a JSON-LD context from elsewhere.
    """
    from rdflib import Graph

    graph, kind = Graph(), VOCABULARIES[plain_suffix(path)]
    logging.getLogger("rdflib").setLevel(logging.ERROR)  # it warns about every invalid date
    try:
        with open_bytes(path) as file:
            content: bytes | str = file.read()
        mark = next((name for start, name in BYTE_ORDER_MARKS if content.startswith(start)), "")  # type: ignore[arg-type]
        if mark and isinstance(content, bytes):
            content = content.decode(mark)
            content = re.sub(r"^\s*<\?xml[^>]*\?>", "", content)  # its encoding is that of the file, not of the text
        if kind == "json-ld" and (remote := remote_context(json.loads(content))):
            raise DataError(f"its context is at {remote!r:.100}", path, hint="put the context into the file")
        graph.parse(data=content, format=kind)
    except DataError:
        raise
    except Exception as error:  # rdflib's parsers raise exceptions of many kinds
        raise DataError(f"not a SKOS vocabulary ({error!s:.120})", path, hint="is the file complete?") from error
    return graph


def remote_context(value: Any) -> str:
    """The address of a JSON-LD context that would have to be fetched; empty if there is none."""
    if isinstance(value, dict):
        context = value.get("@context")
        for part in context if isinstance(context, list) else [context]:
            if isinstance(part, str):
                return part
            if isinstance(part, dict) and isinstance(part.get("@import"), str):
                return part["@import"]
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return next((found for part in parts if (found := remote_context(part))), "")


def concept_uris(graph: Any) -> list[Any]:
    """The concepts of a graph, sorted: what is a `skos:Concept`, or else all that has a preferred label."""
    from rdflib import RDF, RDFS, Namespace, URIRef

    skos = Namespace(SKOS)
    groups = (skos.ConceptScheme, skos.Collection, skos.OrderedCollection)
    for found in (
        graph.subjects(RDF.type, skos.Concept),
        graph.subjects(skos.prefLabel, None),
        graph.subjects(RDFS.label, None),
    ):
        uris = {uri for uri in found if isinstance(uri, URIRef)}
        uris -= {uri for group in groups for uri in graph.subjects(RDF.type, group)}
        if uris:
            return sorted(uris)
    return []


def broader(graph: Any) -> dict[str, list[str]]:
    """The uris of the broader concepts, sorted, by uri: what says `broader`, or is said to be `narrower`."""
    from rdflib import Namespace

    skos = Namespace(SKOS)
    pairs = {(str(child), str(parent)) for child, parent in graph.subject_objects(skos.broader)}
    pairs |= {(str(child), str(parent)) for parent, child in graph.subject_objects(skos.narrower)}
    above: dict[str, list[str]] = {}
    for child, parent in sorted(pairs):
        above.setdefault(child, []).append(parent)
    return above


def language_of(graph: Any, evidence: Iterable[str]) -> str:
    """The language whose labels fit the texts best: as whole headings, or word by word. Empty if there is only one,
    or nothing tells them apart."""
    from rdflib import Namespace

    words: dict[str, set[str]] = {}
    headings: dict[str, set[str]] = {}
    for label in graph.objects(None, Namespace(SKOS).prefLabel):
        if tag := tag_of(label):
            words.setdefault(tag, set()).update(WORD.findall(str(label).casefold()))
            headings.setdefault(tag, set()).add(fold(str(label)))
    if len(words) < 2:
        return ""
    points: Counter[str] = Counter(dict.fromkeys(sorted(words), 0))
    for text in evidence:
        found = set(WORD.findall(text.casefold()))
        for tag in words:
            points[tag] += len(found & words[tag]) + 5 * (fold(text) in headings[tag])
    (best, most), (_, second) = points.most_common(2)
    return best if most > second else ""


def tag_of(literal: Any) -> str:
    """The language of a literal without region, in lower case; empty if it has none."""
    return str(getattr(literal, "language", None) or "").split("-")[0].lower()


def in_language(values: Iterable[Any], language: str | None, strict: bool = False) -> list[str]:
    """Literals as strings, only those in the given language if there are any; with `strict` only those anyway, and
    those without a language.

    They are sorted by language and text, so that the order does not depend on the graph.
    """
    found = sorted({(tag_of(value), str(getattr(value, "language", None) or ""), str(value)) for value in values})
    wanted = (language or "").split("-")[0].lower()
    chosen = [text for tag, _, text in found if wanted and tag == wanted]
    if strict and not chosen:
        return [text for tag, _, text in found if not tag]
    return chosen or [text for _, _, text in found]
