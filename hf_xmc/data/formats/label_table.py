"""Tables of labels: one with a header, as `uid,text,texts,parents`; or one of Annif's, which are lines of a uri, a tab
and a name, or have the columns `uri,notation,label_en,label_fi` with a name in each language."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from hf_xmc.data.files import lines, plain_suffix
from hf_xmc.data.formats.fields import (
    TERM_TEXTS,
    template,
    term_columns,
    text_of,
)
from hf_xmc.data.formats.label_cells import URI_CELL, as_text, names_in, uri_of
from hf_xmc.data.formats.languages import chosen_language, language_code, note_elsewhere
from hf_xmc.data.formats.separators import delimiter_of
from hf_xmc.data.formats.source import Choices, LabelNames, Options, Record, Records
from hf_xmc.data.reading import plain_name
from hf_xmc.data.rows import TEXT_TABLES, header_of, rows
from hf_xmc.errors import DataError, Problems

LIST_COLUMNS = ("texts", "kinds", "parents")  # several values in one cell
WITHOUT_NAME = "labels without a name"
IN_LANGUAGE = re.compile(
    rf"(?:{'|'.join(TERM_TEXTS)})_([a-z]{{2,3}})(?:_[a-z0-9]{{2,8}})*"
)  # in `plain_name`'s spelling
Named = Iterator[tuple[int, Record, str, list[str]]]  # line, row, text of the label, names in other languages


def labels(
    path: Path,
    names: LabelNames,
    options: Options,
    choices: Choices,
    evidence: Iterable[str],
    problems: Problems,
) -> Records:
    """The label table; queries refer to a label by its uid or its text. A bad row is always an error.

    Args:
        choices: is told the language, if there are names in several.
        evidence: texts and headings of some documents, which decide it where the user does not.
        problems: is told which labels have no name, as deprecated concepts in Annif's tables do.
    """
    if starts_with_uri(path, options.encoding):
        yield from terms(path, names, options, problems)
        return
    header = header_of(path, options.encoding)
    uid, usual = term_columns(header)
    free = [name for name in header if name != uid] or header
    columns = language_columns(free, options.language)
    if columns and not options.label_template and (not usual or language_code(options.language) in columns):
        field, stream = "", in_languages(path, uid, columns, options, choices, evidence, problems)
    else:
        field = usual or ("" if options.label_template else only_column(free, path))
        if not options.label_template and (uid, field) != ("uid", "text"):
            identified = f", and they are identified by {uid!r}" if uid else ""
            choices.said.append(
                f"Label texts are those in {field!r} of {path.name}{identified}; rename columns to change it"
            )
        stream = in_one_column(path, field, options)
    delimiters = {name: column_delimiter(path, name, options) for name in LIST_COLUMNS if name in header}
    for i, (line, record, text, elsewhere) in enumerate(stream):
        label: Record = {"uid": uri_of(str(as_text(record[uid]))) if uid else text, "text": text}
        label |= {key: value for key, value in record.items() if key not in (uid, field, "uid", "text")}
        for key, delimiter in delimiters.items():
            if isinstance(label.get(key), str):
                label[key] = names_in(label[key], delimiter, path, line)
        if "weight" in label and isinstance(label["weight"], str):
            label["weight"] = number(label["weight"], path, line)
        names.add(label["uid"], i, text.strip())
        names.also(i, 0, str(label.get("notation") or ""))
        if isinstance(others := label.get("texts"), list):
            names.also(i, 1, *(other for other in others if isinstance(other, str)))
        names.also(i, 2, *elsewhere)
        yield line, label


def only_column(free: list[str], path: Path) -> str:
    """The column of texts where none has a usual name: the only one that is neither uid nor anything else known.

    Raises:
        DataError: there are several.
    """
    rest = [name for name in free if plain_name(name) not in (*LIST_COLUMNS, "weight", "notation", "description")]
    if len(rest) > 1:
        found = f"no column is clearly the text of labels; it has {', '.join(free)[:200]}"
        hint = "call the column with the texts text, and the one that identifies labels uid, in the first row"
        raise DataError(found, path, 1, hint)
    return "".join(rest or free[:1])


def in_one_column(path: Path, field: str, options: Options) -> Named:
    """The rows of a table with the text in one column, or composed by a template."""
    by_template = template(options.label_template)
    for line, record in rows(path, options.encoding, Problems()):
        yield line, record, text_of(record, by_template, (field,), path, line), []


def language_columns(free: list[str], language: str | None = None) -> dict[str, list[str]]:
    """Language -> the columns with names in it; the one of the given region first.

    >>> language_columns(["label_en", "label_fi", "label_en-GB", "notation"], "en-gb")
    {'en': ['label_en-GB', 'label_en'], 'fi': ['label_fi']}
    """
    found: dict[str, list[str]] = {}
    for name in free:
        if match := IN_LANGUAGE.fullmatch(plain_name(name)):
            found.setdefault(match[1], []).append(name)
    region = plain_name(language or "")
    return {code: sorted(some, key=lambda n: not plain_name(n).endswith(f"_{region}")) for code, some in found.items()}


def in_languages(
    path: Path,
    uid: str,
    columns: dict[str, list[str]],
    options: Options,
    choices: Choices,
    evidence: Iterable[str],
    problems: Problems,
) -> Named:
    """The rows of a table with a name in each language: those with a name in the chosen one, or else in another, which
    is noted. Rows without any name, as Annif writes deprecated concepts, are left out."""

    def cells(record: Record, codes: Iterable[str]) -> list[str]:
        return [text for code in codes for name in columns[code] if (text := str(record.get(name) or "").strip())]

    by_language: dict[str, list[str]] = {code: [] for code in columns}
    for _, record in rows(path, options.encoding, Problems()):
        for code, found in by_language.items():
            found += cells(record, [code])
    language = chosen_language(by_language, options, choices, evidence, path)
    elsewhere: dict[str, str] = {}
    count = 0
    for line, record in rows(path, options.encoding, Problems()):
        own, others = cells(record, [language]), cells(record, (code for code in columns if code != language))
        name = uri_of(str(as_text(record[uid]))) if uid else f"line {line}"
        if not own and not others:
            problems.note(WITHOUT_NAME, f"{path}, line {line}: {name!r:.80}", "left out as deprecated")
            continue
        if not own:
            elsewhere[name] = others[0]
        count += 1
        yield line, record, (own or others)[0], [*own[1:], *others]
    note_elsewhere(elsewhere, count, language, choices, problems)


def starts_with_uri(path: Path, encoding: str | None) -> bool:
    """Whether a table has no header, but lines of a uri and a name, as Annif's TSV vocabularies."""
    if plain_suffix(path) not in (".tsv", ".tab"):
        return False
    first = next((text for _, text in lines(path, encoding) if text.strip()), "")
    return URI_CELL.fullmatch(first.partition("\t")[0].strip()) is not None


def is_vocabulary(path: Path, encoding: str | None) -> bool:
    """Whether a table is a vocabulary as Annif writes it, which documents may be older or newer than."""
    if plain_suffix(path) not in TEXT_TABLES:
        return False
    if starts_with_uri(path, encoding):
        return True
    header = header_of(path, encoding)
    return "uri" in header and bool(language_columns(header))


def terms(path: Path, names: LabelNames, options: Options, problems: Problems) -> Records:
    """The terms of a TSV vocabulary of Annif: uri, with or without angle brackets, name, and perhaps a notation. A
    line without a name is a deprecated concept."""
    count = 0
    for line, text in lines(path, options.encoding):
        uri, name, code = (*(cell.strip() for cell in text.split("\t", 2)), "", "")[:3]
        if not text.strip():
            continue
        if not URI_CELL.fullmatch(uri):
            raise DataError(f"found {text!r:.60}", path, line, "expected a uri, a tab and a name")
        if not name:
            problems.note(WITHOUT_NAME, f"{path}, line {line}: {uri:.80}", "left out as deprecated")
            continue
        uid = uri_of(uri)
        names.add(uid, count, name)
        names.also(count, 0, code)
        count += 1
        yield line, {"uid": uid, "text": name, **({"notation": code} if code else {})}


def column_delimiter(path: Path, name: str, options: Options) -> str | None:
    """The separator between the values in all cells of a column."""
    cells = (record[name] for _, record in rows(path, options.encoding, Problems()))
    return delimiter_of(cell for cell in cells if isinstance(cell, str))


def number(cell: str, path: Path, line: int) -> float | None:
    """The number in a cell; None if it is empty."""
    try:
        return (
            float(cell.replace(",", ".") if cell.count(",") == 1 and "." not in cell else cell)
            if cell.strip()
            else None
        )
    except ValueError as error:
        raise DataError(f'"weight" is {cell!r:.60}', path, line, "expected a number") from error
