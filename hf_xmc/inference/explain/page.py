"""Explanations as an HTML page: one file that needs no scripts and no network."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hf_xmc.data.files import replacing, write_page
from hf_xmc.inference.explain.channels import Evidence
from hf_xmc.inference.explain.explanations import Carried, Explanation, Word
from hf_xmc.inference.explain.passages import Spoken
from hf_xmc.inference.explain.texts import TextScore
from hf_xmc.pages.page import render
from hf_xmc.retrieval.label_texts import split_text

TEMPLATE = Path(__file__).with_name("explain.html.jinja")
MINUS = "\N{MINUS SIGN}"
SHOWN = 80  # characters of a text in a line
SHADES = 5  # steps from no colour to the deepest
CARRIED, MOST = 0.05, 5  # words with this share of a word of the label are listed, and so many at most
SAID = 0.25  # words with this share of the largest attribution have their value above them


def render_explanations(explanations: Sequence[Explanation], title: str = "Why these labels") -> str:
    """The page as a string. All texts are escaped.

    Args:
        explanations: of one text, or of several.
    """
    texts = list(dict.fromkeys(explanation.text for explanation in explanations))
    return render(
        TEMPLATE,
        title=title,
        queries=[{"text": text, "labels": [shown(one) for one in explanations if one.text == text]} for text in texts],
        method=", ".join(dict.fromkeys(explanation.method for explanation in explanations)),
    )


def write_explanations(explanations: Sequence[Explanation], path: str | Path, title: str = "Why these labels") -> Path:
    """Write explanations as a page, or as JSON if the path ends in `.json`."""
    if Path(path).suffix != ".json":
        return write_page(render_explanations(explanations, title), path)
    with replacing(path) as temporary:
        text = json.dumps([one.to_dict() for one in explanations], indent=2, ensure_ascii=False) + "\n"
        temporary.write_text(text, encoding="utf-8", errors="xmlcharrefreplace")
    return Path(path)


def shown(one: Explanation) -> dict[str, Any]:
    """An explanation for the page."""
    name, definition = split_text(one.label)
    return {
        "name": name,
        "definition": definition,
        "uid": one.uid,
        "score": f"{one.score:.3f}",
        "pieces": pieces(one.part().text, one.part().words),
        "label_pieces": pieces(one.label, one.label_words),
        "words": [(word.text, signed(word.attribution, 4)) for word in sorted(one.words, key=strength)],
        "transport": [carried_line(word) for word in one.transport],
        "channels": [channel_line(name, said) for name, said in one.channels.items() if said.rank is not None],
        "passages": [(f"{its.start:,}", its.text, f"{its.score:.3f}") for its in one.passages],
        "texts": [(its.kind, its.text, f"{its.score:.3f}") for its in one.label_texts],
        "neighbours": [
            {"name": n.text or n.uid or f"training query {n.row:,}", "similarity": f"{n.similarity:.3f}"}
            for n in one.neighbours
        ],
    }


def passage_line(its: Spoken) -> str:
    """A passage in a few words.

    >>> passage_line(Spoken("They sow wheat.", 1200, 1215, 0.5312))
    'characters 1,200 to 1,215 (0.531): "They sow wheat."'
    """
    text = its.text if len(its.text) <= SHOWN else its.text[: SHOWN - 3] + "..."
    return f'characters {its.start:,} to {its.end:,} ({its.score:.3f}): "{" ".join(text.split())}"'


def strength(word: Word) -> float:
    """Sorts the strongest words first."""
    return -abs(word.attribution)


def signed(value: float, digits: int) -> str:
    """A number with its sign, the minus as wide as the plus.

    >>> signed(0.123, 2), signed(-0.5, 1) == MINUS + "0.5"
    ('+0.12', True)
    """
    return f"{value:+.{digits}f}".replace("-", MINUS)


def channel_line(name: str, said: Evidence) -> str:
    """What a channel says of a label, in a few words.

    >>> channel_line("names", Evidence(0.5, 0.91, 1, ("gene expression",)))
    'names +0.50 (score 0.910, rank 1: gene expression)'
    """
    words = f": {', '.join(dict.fromkeys(said.words))}" if said.words else ""
    return f"{name} {said.contribution:+.2f} (score {said.score:.3f}, rank {said.rank}{words})"


def text_line(its: TextScore) -> str:
    """A text of a label in a few words.

    >>> text_line(TextScore("Making gold of other metals", "definition", 0.612, 0.3))
    'definition 0.612 "Making gold of other metals"'
    """
    text = its.text if len(its.text) <= SHOWN else its.text[: SHOWN - 3] + "..."
    return f'{its.kind} {its.score:.3f} "{text}"'


def carried_line(word: Carried) -> tuple[str, str]:
    """A word of the label, and the words of the text that carry most of it.

    >>> carried_line(Carried("cars", 0, 4, [Word("red", 0, 3, 0.04), Word("car", 4, 7, 0.96)]))
    ('cars', 'car 0.96')
    """
    strongest = [one for one in sorted(word.words, key=strength) if one.text and one.attribution >= CARRIED][:MOST]
    return word.text, ", ".join(f"{one.text} {one.attribution:.2f}" for one in strongest)


def pieces(text: str, words: Sequence[Word]) -> list[dict[str, str]]:
    """The text in pieces: words by what they add, the strongest with its value, and what stands between them.

    >>> found = pieces("red car", [Word("red", 0, 3, 0.2), Word("car", 4, 7, -0.01)])
    >>> [(piece["text"], piece["kind"], piece["value"]) for piece in found]
    [('red', 'word for w5', '+0.20'), (' ', '', ''), ('car', 'word against w0', '')]
    """
    largest = max((abs(word.attribution) for word in words), default=0.0) or 1.0
    digits = 2 if largest >= 0.05 else 3
    found, place = [], 0
    for word in sorted(words, key=lambda word: word.start):
        share = abs(word.attribution) / largest
        sign = "against" if word.attribution < 0 else "for"
        found.append({"text": text[place : word.start], "kind": "", "value": ""})
        value = signed(word.attribution, digits) if share >= SAID else ""
        found.append({"text": word.text, "kind": f"word {sign} w{round(SHADES * share)}", "value": value})
        place = word.end
    found.append({"text": text[place:], "kind": "", "value": ""})
    return [piece for piece in found if piece["text"]]
