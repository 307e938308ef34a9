"""SKOS vocabularies: concepts as labels, in one of the languages that they have names in.

Preferred labels become `text`, the first definition or scope note `description`, broader concepts `parents`, and
notations `notation`. Other names, hidden labels, further notes and examples are `texts`, and `kinds` tells them apart.
Deprecated concepts are left out; where they name a successor, a document that refers to them has that one.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any

from hf_xmc.data.files import BYTE_ORDER_MARKS, ENCODINGS, open_bytes, plain_suffix
from hf_xmc.data.formats.fields import template
from hf_xmc.data.formats.label_names import LabelNames
from hf_xmc.data.formats.languages import chosen_language, language_code, note_elsewhere
from hf_xmc.data.formats.source import Choices, Options, Record, Records
from hf_xmc.errors import DataError, Problems

VOCABULARIES = {
    ".ttl": "turtle",
    ".nt": "nt",
    ".n3": "n3",
    ".rdf": "xml",
    ".xml": "xml",
    ".skos": "xml",
    ".owl": "xml",
    ".jsonld": "json-ld",
    ".json-ld": "json-ld",
    ".trig": "trig",
    ".nq": "nquads",
}
WITH_GRAPHS = ("trig", "nquads", "json-ld")  # in which statements may be in graphs that have names
SKOS = "http://www.w3.org/2004/02/skos/core#"
SKOS_XL = "http://www.w3.org/2008/05/skos-xl#"
KINDS_OF_BROADER = "http://purl.org/iso25964/skos-thes#"  # broaderGeneric, broaderPartitive, broaderInstantial
MAX_BYTES = 2**31  # of a vocabulary, which is parsed as a whole
MAX_ENTITY = 250  # characters; what files declare as an entity is the beginning of an address


def vocabulary(folder: Path) -> Path | None:
    """The SKOS vocabulary in a folder: the first one by name."""
    found = [p for p in sorted(folder.iterdir()) if p.is_file() and plain_suffix(p) in VOCABULARIES]
    return found[0] if found else None


def concepts(
    path: Path,
    names: LabelNames,
    options: Options,
    choices: Choices,
    evidence: Iterable[str] = (),
    problems: Problems | None = None,
) -> Records:
    """The concepts of a vocabulary, sorted by uri; `names` learns how documents may refer to them.

    A concept without a name in the language keeps one in another language, which is noted.

    Args:
        choices: is told the language.
        evidence: texts and headings of some documents, which decide the language where the user does not.
        problems: is told what is left out, and which concepts have no name in the language.

    Raises:
        DataError: the file is not a SKOS vocabulary, or the user named a language that no concept has a name in.
    """
    from rdflib import DCTERMS, OWL, Literal, Namespace, URIRef

    skos, graph = Namespace(SKOS), parsed(path, options.encoding)
    problems = problems or Problems()
    uris = concept_uris(graph)
    old = {uri for uri in uris if str(graph.value(uri, OWL.deprecated)).strip().lower() in ("true", "1")}
    for name in nameless_nodes(graph):
        problems.note("concepts without a uri", f"{path}: {name!r:.80}", "left out; give the concept a uri")
    names_found = names_by_language(graph, (uri for uri in uris if uri not in old))
    language = chosen_language(names_found, options, choices, evidence, path)
    by_template = template(options.label_template)
    above = broader(graph)
    replaced: list[tuple[Any, Any]] = []
    elsewhere: dict[str, str] = {}
    count = 0
    for uri in uris:
        found = Names(graph, uri, language, options.language or "")
        if uri in old:
            replaced += [(uri, new) for new in graph.objects(uri, DCTERMS.isReplacedBy) if isinstance(new, URIRef)]
            continue
        if not found.text:
            problems.note("concepts without a name", f"{path}: {uri}", "left out")
            continue
        if found.language != language:
            elsewhere[str(uri)] = found.text
        notes = in_language(
            [*graph.objects(uri, skos.definition), *graph.objects(uri, skos.scopeNote)], found.language
        )
        more = further_texts(graph, uri, found, notes)
        codes = sorted({str(code) for code in graph.objects(uri, skos.notation) if isinstance(code, Literal)})
        record: Record = {
            "uid": str(uri),
            "text": found.text,
            "texts": [*found.texts, *(text for text, _ in more)],
            "kinds": ["synonym"] * len(found.texts) + [kind for _, kind in more],
            "description": notes[0] if notes else None,
            "parents": above.get(str(uri), []),
            **({"notation": codes[0]} if codes else {}),
        }
        names.add(record["uid"], count, *found.preferred, parents=record["parents"])
        for level, others in enumerate((codes, found.texts, *found.elsewhere, [re.split(r"[/#]", str(uri))[-1]])):
            names.also(count, level, *others)
        count += 1
        yield count, {**record, **({"text": by_template.fill(record)} if by_template else {})}
    for before, new in replaced:
        if (id_ := names.id_of.get(str(new))) is not None:
            names.add(str(before), id_)
    note_elsewhere(elsewhere, count, language, choices, problems)


def further_texts(graph: Any, uri: Any, names: Names, notes: list[str]) -> list[tuple[str, str]]:
    """Hidden labels, the notes but the first, and examples of a concept, each with its kind."""
    from rdflib import Namespace

    skos = Namespace(SKOS)
    hidden, examples = (
        in_language(graph.objects(uri, skos[name]), names.language) for name in ("hiddenLabel", "example")
    )
    given = [(text, "hidden") for text in hidden] + [(text, "definition") for text in notes[1:]]
    given += [(text, "example") for text in examples]
    taken = {names.text, *names.texts, *notes[:1]}
    return [(text, kind) for text, kind in dict(given).items() if text.strip() and text not in taken]


class Names:
    """The names of a concept in a language; in another one if it has none in that one.

    Args:
        language: of the names: the one that was asked for, unless there are names in others only.
        preferred: preferred labels. The first of them is `text`.
        texts: the others, and alternative labels, without `text`.
        elsewhere: preferred labels, and alternative and hidden ones, in other languages.
    """

    def __init__(self, graph: Any, uri: Any, language: str, exactly: str = "") -> None:
        from rdflib import RDFS, Namespace

        skos = Namespace(SKOS)
        given = {kind: [*graph.objects(uri, skos[kind])] for kind in ("prefLabel", "altLabel", "hiddenLabel")}
        given["prefLabel"] = given["prefLabel"] or [*graph.objects(uri, RDFS.label)]
        self.language = language
        self.preferred = in_language(given["prefLabel"], language, exactly)
        if not self.preferred and given["prefLabel"]:
            self.language = min(language_code(getattr(name, "language", None)) for name in given["prefLabel"])
            self.preferred = in_language(given["prefLabel"], self.language)
        self.text = self.preferred[0] if self.preferred else ""
        others = [*self.preferred[1:], *in_language(given["altLabel"], self.language, exactly)]
        self.texts = [text for text in dict.fromkeys(others) if text != self.text]
        rest = in_language([*given["altLabel"], *given["hiddenLabel"]], "")
        self.elsewhere = in_language(given["prefLabel"], ""), rest


def parsed(path: Path, encoding: str | None = None) -> Any:
    """A vocabulary as a graph. Nothing that it refers to is fetched.

    Args:
        encoding: of the file, if it has no byte order mark, and is not XML, which states its own.

    Raises:
        DataError: it cannot be read, is too large, declares XML entities that grow, or needs a JSON-LD context from
            elsewhere.
    """
    from rdflib import Dataset, Graph

    kind = VOCABULARIES[plain_suffix(path)]
    graph = Dataset(default_union=True) if kind in WITH_GRAPHS else Graph()
    logging.getLogger("rdflib").setLevel(logging.ERROR)  # it warns about every invalid date
    try:
        with open_bytes(path) as file:
            raw: bytes = file.read(MAX_BYTES + 1)
        if len(raw) > MAX_BYTES:
            raise DataError(f"larger than {MAX_BYTES:,} bytes", path, hint="keep the concepts that you need")
        mark = next((name for start, name in BYTE_ORDER_MARKS if raw.startswith(start)), "")
        kind = syntax_of(raw) or kind
        content: bytes | str = raw
        if mark or kind != "xml":
            content = raw.decode(mark or encoding or "utf-8")
            content = re.sub(r"^\s*<\?xml[^>]*\?>", "", content)  # its encoding is that of the file, not of the text
        if kind == "json-ld" and (remote := remote_context(json.loads(content))):
            raise DataError(f"its context is at {remote!r:.100}", path, hint="put the context into the file")
        if kind == "xml":
            refuse_entities(content, path)
        graph.parse(BytesIO(content) if isinstance(content, bytes) else StringIO(content), format=kind)
        name_by_literals(graph)
    except DataError:
        raise
    except UnicodeError as error:
        reason = getattr(error, "reason", error)
        raise DataError(f"not {encoding or 'UTF-8'} ({reason})", path, hint=ENCODINGS) from error
    except Exception as error:  # rdflib's parsers raise exceptions of many kinds
        raise DataError(f"not a SKOS vocabulary ({error!s:.120})", path, hint="is the file complete?") from error
    return graph


def syntax_of(content: bytes) -> str:
    """The syntax of a vocabulary where its beginning leaves no doubt, whatever the file is called; else empty."""
    start = content[:500].lstrip(b"\xef\xbb\xbf\xff\xfe \t\r\n\0").replace(b"\0", b"")  # of UTF-8 and UTF-16
    if start.startswith((b"<?xml", b"<rdf:", b"<!DOCTYPE", b"<!--")):
        return "xml"
    return "turtle" if re.match(rb"@prefix\s|@base\s|PREFIX\s", start) and b"{" not in content else ""


def name_by_literals(graph: Any) -> None:
    """Give concepts that are named by resources of SKOS-XL the plain names that these stand for, as the standard says
    (SKOS Reference, section B.3.4.1)."""
    from rdflib import Namespace

    skos, xl = Namespace(SKOS), Namespace(SKOS_XL)
    for kind in ("prefLabel", "altLabel", "hiddenLabel"):
        found = [
            (concept, literal)
            for concept, label in graph.subject_objects(xl[kind])
            for literal in graph.objects(label, xl.literalForm)
        ]
        for concept, literal in found:
            graph.add((concept, skos[kind], literal))


def nameless_nodes(graph: Any) -> list[str]:
    """The names of concepts without a uri, which nothing can refer to."""
    from rdflib import RDF, BNode, Namespace

    skos = Namespace(SKOS)
    nodes = [node for node in graph.subjects(RDF.type, skos.Concept) if isinstance(node, BNode)]
    return sorted(str(next(graph.objects(node, skos.prefLabel), "")) for node in nodes)


class RootReached(Exception):
    """The declarations at the beginning of an XML file are over."""


def refuse_entities(content: bytes | str, path: Path) -> None:
    """Refuse an XML file whose entities would grow when they are resolved, before anything resolves them.

    What editors of ontologies declare stays allowed: a short name for the beginning of an address.

    Raises:
        DataError: an entity that refers to another, to a file or to an address, or one that is long; or attributes
            with default values.
    """
    from xml.parsers import expat

    def entity(name: str, is_parameter: bool, value: str | None, *_: Any) -> None:
        if is_parameter or value is None or "&" in value or "%" in value or len(value) > MAX_ENTITY:
            hint = "entities may stand for short texts only; write out what they stand for"
            raise DataError(
                f"declares the XML entity {name!r:.40}, which refers to others or is long", path, hint=hint
            )

    def attributes(element: str, *_: Any) -> None:
        hint = "write the attributes into the elements"
        raise DataError(f"declares attributes of {element!r:.40} in its document type", path, hint=hint)

    def root(*_: Any) -> None:
        raise RootReached

    parser = expat.ParserCreate("utf-8" if isinstance(content, str) else None)
    parser.EntityDeclHandler, parser.AttlistDeclHandler, parser.StartElementHandler = entity, attributes, root
    try:
        parser.Parse(content, True)
    except (RootReached, expat.ExpatError):
        return  # rdflib says what is wrong with XML that cannot be read


def remote_context(value: Any) -> str:
    """The address of a JSON-LD context that would have to be fetched; empty if there is none."""
    if isinstance(value, dict):
        context = value.get("@context")
        for part in context if isinstance(context, list) else [context]:
            if isinstance(part, str):
                return part
            if isinstance(part, dict) and "@import" in part:
                return str(part["@import"])
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
    for kind in ("Generic", "Partitive", "Instantial"):
        its = Namespace(KINDS_OF_BROADER)
        pairs |= {(str(child), str(parent)) for child, parent in graph.subject_objects(its[f"broader{kind}"])}
        pairs |= {(str(child), str(parent)) for parent, child in graph.subject_objects(its[f"narrower{kind}"])}
    above: dict[str, list[str]] = {}
    for child, parent in sorted(pairs):
        above.setdefault(child, []).append(parent)
    return above


def names_by_language(graph: Any, uris: Iterable[Any]) -> dict[str, list[str]]:
    """The preferred labels of concepts by language, without those that have none."""
    from rdflib import RDFS, Namespace

    preferred, names = Namespace(SKOS).prefLabel, dict[str, list[str]]()
    for uri in uris:
        for label in [*graph.objects(uri, preferred)] or graph.objects(uri, RDFS.label):
            if code := language_code(getattr(label, "language", None)):
                names.setdefault(code, []).append(str(label))
    return names


def in_language(values: Iterable[Any], language: str, exactly: str = "") -> list[str]:
    """The literals in a language as strings; or else those without a language. Without a language: all.

    They are sorted by language and text, so that the order does not depend on the graph.

    Args:
        exactly: the language with its region, as in `"en-GB"`; literals of just this one come first.
    """
    tagged = [(str(getattr(value, "language", None) or "").lower(), str(value).strip()) for value in values]
    tagged = [(tag, text) for tag, text in tagged if text]
    exactly = exactly.replace("_", "-")
    found = sorted({(tag != exactly.lower() if exactly else False, tag, text) for tag, text in tagged})
    if not language:
        return [text for _, _, text in found]
    own = [text for _, tag, text in found if language_code(tag) == language]
    return own or [text for _, tag, text in found if not tag]
