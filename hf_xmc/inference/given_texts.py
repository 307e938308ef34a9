"""The texts and labels that a caller gives: checked before anything reads them. Texts as long as libraries are cut."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from hf_xmc.errors import SettingsError

MOST_CHARACTERS = 1_000_000  # of a text that are read, which are more than most books have

logger = logging.getLogger(__name__)


def given_list(values: Any, what: str) -> list[Any]:
    """Several things as a list: of a list, tuple, set, array, series, column or generator.

    Args:
        what: they are, for the message: `"labels"`.

    Raises:
        SettingsError: a single string or number, whose letters would be read one by one; or a table or dict, of which
            the names would be read.

    >>> given_list((label for label in ["c1", "c2"]), "labels")
    ['c1', 'c2']
    >>> given_list("c1", "labels")
    Traceback (most recent call last):
    hf_xmc.errors.SettingsError: labels is one string; expected a list; pass ['c1']
    """
    if isinstance(values, str | bytes):
        raise SettingsError(f"{what} is one string; expected a list", hint=f"pass [{values[:40]!r}]")
    if isinstance(values, Mapping):
        raise SettingsError(f"{what} is a dict; expected a list", hint="pass [its values] or [the dict]")
    if hasattr(values, "columns") or hasattr(values, "column_names"):
        hint = 'pass one of its columns, as in table["text"]'
        raise SettingsError(f"{what} is a {type(values).__name__}; expected a list", hint=hint)
    if not isinstance(values, Iterable):
        hint = "" if values is None else f"pass [{values!r:.40}]"
        raise SettingsError(f"{what} is {values!r:.40}; expected a list", hint=hint)
    return list(values)


def given_texts(texts: Sequence[str]) -> list[str]:
    """Texts as a list of strings of at most `MOST_CHARACTERS`; of a longer one the beginning, which is logged. An
    encoder reads a few hundred words, but channels count all words of a text.

    Raises:
        SettingsError: a single string or a table, a text that is no string, or one with halves of characters
            (surrogates).

    >>> given_texts(["a red car", None])
    Traceback (most recent call last):
    hf_xmc.errors.SettingsError: text 1 is of type NoneType; expected a string, and an empty one where there is no text
    """
    rows = given_list(texts, "texts")
    for number, text in enumerate(rows):
        if not isinstance(text, str):
            hint = "expected a string, and an empty one where there is no text"
            raise SettingsError(f"text {number:,} is of type {type(text).__name__}", hint=hint)
        if len(text) > MOST_CHARACTERS:
            logger.warning("Of text %d with %d characters the first %d are read", number, len(text), MOST_CHARACTERS)
            rows[number] = text = text[:MOST_CHARACTERS]
        if not is_unicode(text):
            hint = "decode the text with the right encoding, or leave such characters out"
            raise SettingsError(f"text {number:,} holds half of a character (a surrogate)", hint=hint)
    return rows


def is_unicode(text: str) -> bool:
    """Whether a text has no halves of characters, as undecodable bytes and careless JSON leave them.

    >>> is_unicode("naïve"), is_unicode("na\\udcefve")
    (True, False)
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
