"""Explanations as an HTML page: one file that needs no scripts and no network."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from hf_xmc.data.files import replacing
from hf_xmc.inference.explain.channels import Evidence
from hf_xmc.inference.explain.explanations import Explanation, Word

FOR, AGAINST = (20, 130, 90), (190, 60, 50)  # green and red, as red, green, blue
STRONGEST = 0.65  # opacity of the word with the largest attribution


def render_explanations(explanations: Sequence[Explanation], title: str = "Why these labels") -> str:
    """The page as a string. All texts are escaped.

    Args:
        explanations: of one text, or of several.
    """
    template = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    page = template.from_string(Path(__file__).with_name("explain.html.jinja").read_text(encoding="utf-8"))
    texts = list(dict.fromkeys(explanation.text for explanation in explanations))
    return page.render(
        title=title,
        queries=[{"text": text, "labels": [shown(one) for one in explanations if one.text == text]} for text in texts],
        method=", ".join(dict.fromkeys(explanation.method for explanation in explanations)),
    )


def write_explanations(explanations: Sequence[Explanation], path: str | Path, title: str = "Why these labels") -> Path:
    """Write explanations as a page, or as JSON if the path ends in `.json`."""
    if Path(path).suffix == ".json":
        text = json.dumps([one.to_dict() for one in explanations], indent=2, ensure_ascii=False) + "\n"
    else:
        text = render_explanations(explanations, title)
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="xmlcharrefreplace")
    return Path(path)


def shown(one: Explanation) -> dict[str, Any]:
    strongest = sorted(one.words, key=lambda word: -abs(word.attribution))[:5]
    return {
        "label": one.label,
        "uid": one.uid,
        "score": f"{one.score:.3f}",
        "pieces": pieces(one.text, one.words),
        "label_pieces": pieces(one.label, one.label_words),
        "strongest": [
            {"text": word.text, "value": f"{word.attribution:+.3f}", "for": word.attribution > 0} for word in strongest
        ],
        "channels": [channel_line(name, said) for name, said in one.channels.items() if said.rank is not None],
        "neighbours": [
            {"name": n.text or n.uid or f"training query {n.row:,}", "similarity": f"{n.similarity:.3f}"}
            for n in one.neighbours
        ],
    }


def channel_line(name: str, said: Evidence) -> str:
    """What a channel says of a label, in a few words.

    >>> channel_line("names", Evidence(0.5, 0.91, 1, ("gene expression",)))
    'names +0.50 (score 0.910, rank 1: gene expression)'
    """
    words = f": {', '.join(dict.fromkeys(said.words))}" if said.words else ""
    return f"{name} {said.contribution:+.2f} (score {said.score:.3f}, rank {said.rank}{words})"


def pieces(text: str, words: Sequence[Word]) -> list[dict[str, str]]:
    """The text in pieces, each coloured by what it adds; the deepest colour is that of the largest value."""
    largest = max((abs(word.attribution) for word in words), default=0.0) or 1.0
    found, place = [], 0
    for word in sorted(words, key=lambda word: word.start):
        share = word.attribution / largest
        colour = ", ".join(map(str, FOR if share > 0 else AGAINST))
        found.append({"text": text[place : word.start], "style": "", "title": ""})
        style = f"background: rgba({colour}, {STRONGEST * abs(share):.2f})"
        found.append({"text": word.text, "style": style, "title": f"{word.attribution:+.4f}"})
        place = word.end
    found.append({"text": text[place:], "style": "", "title": ""})
    return [piece for piece in found if piece["text"]]
