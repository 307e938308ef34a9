"""Texts that are composed of fields."""

from __future__ import annotations

import string
from collections.abc import Mapping
from typing import Any

from hf_xmc.errors import DataError

ENDS = (*".?!:;", "\u2026", "\u3002", "\uff1f", "\uff01")  # of a sentence; the last three in Chinese and Japanese


class Template:
    """A text composed of fields: `"{title}. {content}"`. Only plain field names are allowed, so a template cannot
    reach into a value.

    A field that is missing or empty is left out together with the text between it and the field before it.

    >>> Template("{title}. {content}").fill({"title": "Dune", "content": None})
    'Dune'
    """

    def __init__(self, template: str) -> None:
        try:
            parsed = list(string.Formatter().parse(template))
        except ValueError as error:
            raise DataError(f"template {template!r}: {error}", hint="write it as '{title}. {content}'") from error
        self.parts = [(literal, name) for literal, name, _, _ in parsed]
        self.fields = [name for _, name in self.parts if name is not None]
        if not self.fields or not all(name and not set(name) & set(".[]!:") for name in self.fields):
            raise DataError(f"template {template!r} has no plain fields", hint="write it as '{title}. {content}'")

    def fill(self, record: Mapping[str, Any]) -> str:
        """The text of one record."""
        text = ""
        for i, (literal, name) in enumerate(self.parts):
            value = "" if name is None else record.get(name)
            value = "" if value is None else value if isinstance(value, str) else str(value)
            if i == 0 or name is None:
                text += (literal if value or name is None else "") + value
            elif value.strip():
                text += (literal if text.strip() else "") + value
        return text.strip()


def template(text: str | None) -> Template | None:
    """A template, or None if none is given."""
    return None if text is None else Template(text)


def as_sentences(values: list[str]) -> str:
    """Title, abstract and the like one after the other, each ended by a full stop unless it has an end of its own.

    >>> as_sentences(["Why red?", " On cars ", "", "All of it."]), as_sentences(["", "Alone"])
    ('Why red? On cars. All of it.', 'Alone')
    """
    text = ""
    for value in map(str.strip, values):
        if text and value:
            text += " " if text.endswith(ENDS) else ". "
        text += value
    return text
