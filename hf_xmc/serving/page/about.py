"""The tab "About": what the tagger was made from, how good it is, what the page accepts, and its API."""

from __future__ import annotations

from typing import Any

import gradio as gr

from hf_xmc.serving.answers import About
from hf_xmc.serving.page.look import render
from hf_xmc.serving.page.tab import Page

MEASURES = ("P@1", "P@3", "P@5", "nDCG@5", "R@5", "PSP@5")


def about_tab(page: Page) -> None:
    """Build the tab."""
    measured = page.about.metrics.get("metrics", {})
    results = [(name, measured[name], measure_of(name)) for name in MEASURES if name in measured]
    gr.HTML(render("about", page.words, facts=facts_of(page.about), results=results, about=page.about))


def facts_of(about: About) -> list[tuple[str, Any]]:
    """Key and value of what is known of the tagger."""
    counts = about.data.get("counts") or {}
    facts = {
        "data": about.data.get("name"),
        "source": about.data.get("source"),
        "licence": about.data.get("licence"),
        "labels": about.num_labels,
        "train": counts.get("train"),
        "base_model": about.base_model,
        "languages": ", ".join(about.languages),
        "max_tokens": about.max_tokens,
        "version": f"hf_xmc {about.version}",
    }
    return [(key, value) for key, value in facts.items() if value]


def measure_of(name: str) -> tuple[str, int]:
    """The key of the sentence that explains a measure, and its number.

    >>> measure_of("nDCG@5")
    ('nDCG', 5)
    """
    kind, _, k = name.partition("@")
    return ("first" if name == "P@1" else kind), int(k)
