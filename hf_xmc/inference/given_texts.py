"""The texts that a caller gives: checked before anything reads them, and cut where they are as long as libraries."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence

from hf_xmc.errors import SettingsError

MOST_CHARACTERS = 1_000_000  # of a text that are read, which are more than most books have

logger = logging.getLogger(__name__)


def given_texts(texts: Sequence[str]) -> list[str]:
    """Texts as a list of strings of at most `MOST_CHARACTERS`; of a longer one the beginning, which is logged. An
    encoder reads a few hundred words, but channels count all words of a text.

    Raises:
        SettingsError: a single string, a text that is no string, or one with halves of characters (surrogates).

    >>> given_texts(["a red car", None])
    Traceback (most recent call last):
    hf_xmc.errors.SettingsError: text 1 is of type NoneType; expected a string, and an empty one where there is no text
    """
    if isinstance(texts, str):
        raise SettingsError("one string was given in place of a list of texts", hint=f"give [{texts[:40]!r}]")
    if not isinstance(texts, Iterable):
        raise SettingsError(
            f"the texts are of type {type(texts).__name__}", hint="expected a string, or a list of them"
        )
    rows = list(texts)
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
