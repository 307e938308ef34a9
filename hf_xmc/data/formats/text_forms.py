"""Forms that all texts of a source can be brought into when it is read (`hf-xmc prepare --text_form`)."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

from hf_xmc.data.formats.source import Record, Records, Source, Stream
from hf_xmc.errors import DataError, Problems

NO_TERM = re.compile(r"[^a-z0-9.]+")


def alphanumeric(text: str) -> str:
    """A text in lower case, of which unaccented letters, digits and full stops are left, with single spaces between.

    As DEXML prepares LF-Wikipedia-500K (nilesh2797/DEXML 7690769, `preprocess` in dexml.ipynb).

    >>> alphanumeric("The Sun-King (Louis XIV), v.2:  'L’État'")
    'the sun king louis xiv v.2 l tat'
    """
    return NO_TERM.sub(" ", text.lower()).strip()


FORMS: dict[str, Callable[[str], str]] = {"alphanumeric": alphanumeric}


def in_form(source: Source, name: str) -> Source:
    """A source whose texts are in a form: those of queries, and names and descriptions of labels. Labels are found by
    their names as they stand in the files.

    Raises:
        DataError: there is no form of that name.
    """
    form = FORMS.get(name)
    if form is None:
        raise DataError(f"invalid --text_form {name!r}", hint=f"expected one of {', '.join(FORMS)}")
    source.choices.said.append(
        f"Texts are stored in the form {name!r} (--text_form); a tagger that is trained on them expects texts in "
        "this form as well"
    )
    splits = {split: replace(part, rows=reformed(part.rows, form)) for split, part in source.splits.items()}
    return replace(source, splits=splits, labels=reformed(source.labels, form))


def reformed(stream: Stream, form: Callable[[str], str]) -> Stream:
    """A stream of records with their texts in a form. A missing text stays missing."""

    def records(problems: Problems) -> Records:
        for line, record in stream(problems):
            new: Record = {
                key: form(record[key]) for key in ("text", "description") if isinstance(record.get(key), str)
            }
            if isinstance(record.get("texts"), list):
                new["texts"] = [form(text) for text in record["texts"]]
            yield line, {**record, **new}

    return records
