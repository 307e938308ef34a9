"""The texts of the page in several languages: one JSON file each, with the same keys."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

TEXTS = Path(__file__).with_name("texts")
LANGUAGES = {"en": "English", "de": "Deutsch", "fi": "Suomi"}  # the first one is that of visitors with another


class Words:
    """The texts of one language.

    Args:
        language: a key of `LANGUAGES`.

    >>> words = Words("en")
    >>> words("tag.button"), words.count("tags", 1), words.count("tags", 2000)
    ('Tag', '1 tag', '2,000 tags')
    >>> Words("de").number(2000.5), Words("fi").percent(0.984)
    ('2.000,5', '98 %')
    """

    def __init__(self, language: str) -> None:
        self.language = language
        self.texts = read_texts(language)

    def __call__(self, key: str, **values: Any) -> str:
        """A text with its values filled in.

        Raises:
            KeyError: no such text, or a value that the text needs is missing.
        """
        return self.texts[key].format(**{name: self.number(value) for name, value in values.items()})

    def count(self, key: str, number: int, **values: Any) -> str:
        """A text with a number in it: that of `key.one` or `key.other`."""
        return self(f"{key}.{'one' if number == 1 else 'other'}", n=number, **values)

    def number(self, value: Any) -> Any:
        """A number as the language writes it; anything else as it is."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            return value
        text = f"{value:,}" if isinstance(value, int) else f"{value:,.3f}".rstrip("0").rstrip(".")
        marks = {",": self.texts["thousands"], ".": self.texts["decimal"]}
        return "".join(marks.get(sign, sign) for sign in text)

    def percent(self, share: float) -> str:
        """A share of 1 in whole per cent. Only 0 is 0 %, and only 1 is 100 %."""
        value = 0 if share <= 0 else 100 if share >= 1 else min(99, max(1, round(100 * share)))
        return self("percent", n=value)


@lru_cache
def read_texts(language: str) -> dict[str, str]:
    """Key -> text of a language."""
    texts: dict[str, str] = json.loads((TEXTS / f"{language}.json").read_text(encoding="utf-8"))
    return texts
