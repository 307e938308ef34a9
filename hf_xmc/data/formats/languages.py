"""Languages of label names: codes in any spelling, and the language that the texts of a data set are in."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from hf_xmc.data.formats.label_names import fold
from hf_xmc.data.formats.source import Choices, Options
from hf_xmc.errors import DataError, Problems

WORD = re.compile(r"[^\W\d_]{3,}")
ELSEWHERE = "labels without a name in the language"


def language_code(tag: object) -> str:
    """A language without region or script, in lower case; empty if there is none.

    >>> language_code("en-GB"), language_code("EN"), language_code("pt_BR"), language_code(None)
    ('en', 'en', 'pt', '')
    """
    return re.split("[-_]", str(tag or "").strip(), maxsplit=1)[0].lower()


def chosen_language(
    names: Mapping[str, Iterable[str]], options: Options, choices: Choices, evidence: Iterable[str], path: Path
) -> str:
    """The language of the label texts: the one that the user named; or the only one; or the one that the texts are in.
    Empty if names have no language. `choices` is told.

    Args:
        names: names of labels by language (`language_code`).
        evidence: texts and headings of some documents.
        path: the vocabulary, for errors.

    Raises:
        DataError: the user named a language that no name is in.
    """
    if options.language:
        chosen = language_code(options.language)
        if names and chosen not in names:
            there = ", ".join(sorted(names))
            raise DataError(f"no label has a name in {options.language!r}", path, hint=f"there are names in {there}")
    else:
        chosen, by_texts = best_language(names, evidence)
        if len(names) > 1:
            why = "the language of your texts" if by_texts else "the language that most labels have a name in"
            there = listing(sorted(names))
            choices.said.append(f"Label texts are those in {chosen!r}, {why}; --language changes it (found {there})")
    if choices.reading is not None and chosen:
        choices.reading = choices.reading.in_language(chosen)
    return chosen


def best_language(names: Mapping[str, Iterable[str]], evidence: Iterable[str]) -> tuple[str, bool]:
    """The language whose names fit the texts best, as whole headings or word by word; of several that fit as well,
    the one that most names are in. And whether it was the texts that decided.

    >>> best_language({"en": ["red car", "house"], "de": ["rotes Auto", "Haus"]}, ["Das Haus am See"])
    ('de', True)
    """
    found = {code: list(dict.fromkeys(some)) for code, some in names.items()}
    if len(found) < 2:
        return next(iter(found), ""), False
    words = {code: {word for name in some for word in WORD.findall(name.casefold())} for code, some in found.items()}
    headings = {code: {*map(fold, some)} for code, some in found.items()}
    points: Counter[str] = Counter()
    for text in evidence:
        here = set(WORD.findall(text.casefold()))
        for code in found:
            points[code] += len(here & words[code]) + 5 * (fold(text) in headings[code])
    best = min(found, key=lambda code: (-points[code], -len(found[code]), code != "en", code))
    return best, all(points[code] < points[best] for code in found if code != best)


def note_elsewhere(
    elsewhere: Mapping[str, str], count: int, language: str, choices: Choices, problems: Problems
) -> None:
    """Say which labels have no name in the language.

    Args:
        elsewhere: uid of such a label -> the name in another language that it has instead.
        count: of all labels.
    """
    for uid, name in elsewhere.items():
        handled = "named in another language; add a name to the vocabulary"
        problems.note(ELSEWHERE, f"{uid!r}: {name!r:.60}, none in {language!r}", handled)
    if elsewhere:
        some = listing([repr(name)[:60] for name in elsewhere.values()], 3)
        share = f"{len(elsewhere):,} of {count:,} labels"
        choices.said.append(f"{share} have no name in {language!r} and keep one in another language: {some}")


def listing(items: list[str], most: int = 12) -> str:
    """The first items of a list in words.

    >>> listing(["a", "b", "c"], 2)
    'a, b, ...'
    """
    return ", ".join(items[:most]) + (", ..." if len(items) > most else "")
