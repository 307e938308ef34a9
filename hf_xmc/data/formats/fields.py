"""Fields of a record: the usual names of columns, and texts, uids, label names and weights, each checked."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hf_xmc.data.formats.label_cells import as_text
from hf_xmc.data.formats.source import Record
from hf_xmc.data.reading import plain_name
from hf_xmc.data.templates import Template as Template
from hf_xmc.data.templates import template as template  # readers find both here
from hf_xmc.errors import DataError

# Names of columns in `plain_name`'s spelling: without case, accents and separators. The usual English ones come first.
TEXT_FIELDS = ("text", "sentence", "content", "document", "abstract", "description", "body", "query", "title")
BODY_FIELDS = (
    *("text", "sentence", "content", "document", "body", "query", "question", "full_text", "fulltext", "doc_text"),
    *("teksti", "volltext", "inhalt", "texte", "contenu", "texto", "contenido", "conteudo", "testo", "contenuto"),
    *("tekst", "inhoud", "innehall", "sisalto", "texts", "document_text", "article", "post", "message", "comment"),
)
TITLE_FIELDS = (
    *("title", "headline", "heading", "titel", "haupttitel", "otsikko", "nimeke", "titre", "titulo", "titolo"),
    *("tittel", "rubrik", "tytul", "nazev", "titlu", "cim", "dc_title", "main_title"),
)
NAME_FIELDS = ("name", "nimi", "nom", "nombre", "nome", "naam", "navn", "namn")  # a title beside a description
ABSTRACT_FIELDS = (
    *("abstract", "summary", "zusammenfassung", "kurzfassung", "resume", "resumen", "riassunto", "tiivistelma"),
    *("sammanfattning", "sammendrag", "samenvatting", "resumo", "abstrakt", "streszczenie", "dc_abstract"),
)
DESCRIPTION_FIELDS = (
    *("description", "beschreibung", "kuvaus", "descripcion", "descricao", "descrizione", "beskrivning"),
    *("beskrivelse", "omschrijving", "opis", "dc_description"),
)
LABEL_TEXT_FIELDS = ("text", "title", "name", "label", "prefLabel")
LABEL_COLUMNS = (
    *("labels", "label", "tags", "tag", "subjects", "subject_uris", "categories", "category", "keywords", "subject"),
    *(
        "keyword",
        "topics",
        "topic",
        "classes",
        "class",
        "descriptors",
        "descriptor",
        "headings",
        "terms",
        "mesh_terms",
    ),
    *("codes", "subject_headings", "dc_subject", "schlagworter", "schlagworte", "schlagwort", "themen", "kategorien"),
    *("sachgruppen", "asiasanat", "asiasana", "aiheet", "aihe", "avainsanat", "luokat", "amnesord", "nyckelord"),
    *("taggar", "kategorier", "emneord", "nokkelord", "mots_cles", "sujets", "sujet", "etiquettes", "themes"),
    *("palabras_clave", "materias", "etiquetas", "temas", "categorias", "palavras_chave", "assuntos", "parole_chiave"),
    *("soggetti", "soggetto", "categorie", "etichette", "trefwoorden", "onderwerpen", "categorieen", "słowa_kluczowe"),
    *("etykiety", "hasla", "klicova_slova"),
)
UID_COLUMNS = ("uid", "id", "doc_id", "document_id")
TERM_UIDS = (
    *(*UID_COLUMNS, "label_id", "uri", "url", "concept", "concept_uri", "subject_uri", "code", "notation"),
    *("identifier", "iri", "kennung", "codigo", "codice", "kod", "kode", "tunnus", "index"),
)
TERM_TEXTS = (
    *("text", "title", "name", "label", "preflabel", "pref_label", "label_text", "label_name", "label_title"),
    *("preferred_label", "heading", "term", "caption", "tag", "subject", "keyword", "category", "topic"),
    *(
        "bezeichnung",
        "benennung",
        "nimi",
        "nom",
        "nombre",
        "nome",
        "naam",
        "namn",
        "navn",
        "libelle",
        "titel",
        "titre",
    ),
    *("titulo", "titolo", "etiqueta", "preferredlabel", "description", "beschreibung", "descripcion", "descrizione"),
)
TERM = r"(?:concept|term|label|subject|class|tag|topic|category|keyword|heading|descriptor)_?"
TERM_UID = re.compile(TERM + r"(?:uid|id|uri|iri|url|code|identifier|number)")  # in `plain_name`'s spelling
TERM_TEXT = re.compile(TERM + r"(?:name|title|text|label|term|caption)")
SPLIT_NAMES = {
    "train": ("train", "trn", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "tst"),
}
SPLIT_WORDS = {  # whole words in the name of a file: no letter before or after them
    "test": r"test|tst|eval|evaluation",
    "validation": r"validation|validate|valid|val|dev",
    "train": r"train|training|trn",
}


def named_column(header: Iterable[str], usual: Iterable[str]) -> str:
    """The column with the first of the usual names, in any spelling; empty if there is none.

    >>> named_column(["Id", "Titre", "Mots-clés"], LABEL_COLUMNS)
    'Mots-clés'
    """
    plain: dict[str, str] = {}
    for name in header:
        plain.setdefault(plain_name(name), name)
    return next((plain[name] for name in usual if name in plain), "")


def term_columns(header: list[str]) -> tuple[str, str]:
    """The columns of a label table with the uids and with the texts, in any spelling; empty where there is none.

    >>> term_columns(["Code", "Bezeichnung"]), term_columns(["conceptUri", "Subject name"]), term_columns(["a", "b"])
    (('Code', 'Bezeichnung'), ('conceptUri', 'Subject name'), ('', ''))
    """

    def like(pattern: re.Pattern[str], names: list[str]) -> str:
        return next((name for name in names if pattern.fullmatch(plain_name(name))), "")

    uid = named_column(header, TERM_UIDS) or like(TERM_UID, header)
    free = [name for name in header if name != uid] or header
    return uid, named_column(free, TERM_TEXTS) or like(TERM_TEXT, free)


def text_columns(header: list[str], sample: list[Record]) -> list[str]:
    """The columns that make up the text, in their order: the title, and what follows it.

    That is a column with a whole text; or else abstract and description. A title is left out where the text begins
    with it already.

    >>> text_columns(["id", "Titel", "Kurzfassung", "Jahr"], []), text_columns(["name", "description"], [])
    (['Titel', 'Kurzfassung'], ['name', 'description'])
    """
    body = named_column(header, BODY_FIELDS)
    parts = [name for usual in (ABSTRACT_FIELDS, DESCRIPTION_FIELDS) if (name := named_column(header, usual))]
    rest = [body] if body else parts
    title = named_column(header, TITLE_FIELDS) or (named_column(header, NAME_FIELDS) if parts and not body else "")
    if not title or not rest:
        return rest or ([title] if title else [])
    return rest if begins_with(sample, title, rest[0]) else [title, *rest]


def begins_with(sample: list[Record], title: str, text: str) -> bool:
    """Whether most texts of a sample begin with their title."""
    pairs = [(str(row.get(title) or "").strip()[:40], str(row.get(text) or "").strip()) for row in sample]
    found = [body.casefold().startswith(start.casefold()) for start, body in pairs if start and body]
    return 2 * sum(found) > len(found)


def text_of(record: Record, template: Template | None, fields: tuple[str, ...], path: Path, line: int) -> str:
    """The text of a record: filled into the template, or else the first of the given fields that the record has.

    Raises:
        DataError: there is no such field, or it is not a string.
    """
    if template is not None:
        if not any(name in record for name in template.fields):
            raise DataError(f"none of the fields {template.fields}", path, line, f"found {list(record)[:8]}")
        return template.fill(record)
    name = next((name for name in fields if name in record), fields[0])
    value = record.get(name)
    if not isinstance(value, str):
        found = "is missing" if name not in record else f"is {value!r:.60}"
        raise DataError(f'"{name}" {found}', path, line, "it must be a string")
    return value


def uid_of(record: Record, path: Path, line: int) -> str:
    """The uid of a record; an integer is converted to a string.

    Raises:
        DataError: the uid is missing, or neither a string nor an integer.
    """
    uid = record.get("uid")
    uid = as_text(uid)
    if not isinstance(uid, str):
        found = "is missing" if uid is None else f"is {uid!r:.60}"
        raise DataError(f'"uid" {found}', path, line, "it must be a string")
    return uid


def find_column(header: list[str], path: Path, given: str | None, usual: tuple[str, ...], flag: str | None) -> str:
    """The column that the user named, or else the first of the usual ones, in any spelling. Without a `flag` the
    column is optional, and the result is empty if there is none.

    Raises:
        DataError: there is no such column.
    """
    if given is not None and given not in header:
        if not (found := named_column(header, (plain_name(given),))):
            raise DataError(f"no column {given!r}", path, 1, f"it has {', '.join(header)[:200]}")
        return found
    found = given or named_column(header, usual)
    if not found and flag:
        if not any(header):
            raise DataError("the file is empty", path, 1, "expected a line with the names of the columns")
        shown = ", ".join(usual[:9]) + (", ..." if len(usual) > 9 else "")
        raise DataError(
            f"no column with one of the names {shown}",
            path,
            1,
            f"it has {', '.join(header)[:200]}; name it with {flag}, if the first row has the names of the columns",
        )
    return found


def checked_schemes(schemes: Any, path: Path, line: int) -> list[str]:
    """The catalogues that a query was annotated with: a list of names, or names separated by `|`, `;` or `,`.

    >>> checked_schemes("topic; format", Path("a.csv"), 1)
    ['topic', 'format']
    """
    if isinstance(schemes, str):
        schemes = [name.strip() for name in re.split(r"[|;,]", schemes) if name.strip()]
    if not isinstance(schemes, list) or not all(isinstance(name, str) for name in schemes):
        raise DataError(f'"schemes" is {schemes!r:.60}', path, line, "expected a list of names of catalogues")
    return schemes


def checked_weights(weights: Any, count: int, name: str, path: Path, line: int) -> list[float]:
    """The relevance of each label of a row: one non-negative number per label.

    Raises:
        DataError: there are more or fewer, or something else.
    """
    good = isinstance(weights, list) and all(type(w) in (int, float) and 0 <= w < 1e30 for w in weights)
    if not good or len(weights) != count:
        raise DataError(f'"{name}" is {weights!r:.60}', path, line, f"expected {count} numbers, one per label")
    return [float(w) for w in weights]
