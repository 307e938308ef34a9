"""The last page of a fit: `fit.html`, and `fit.json` with the same figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hf_xmc.data.files import write_page
from hf_xmc.fit.machine import gigabytes
from hf_xmc.fit.measure import SHOWN, TAGGER
from hf_xmc.hub.run import write_json
from hf_xmc.inference.fitting.passages import passages_in_words
from hf_xmc.metrics.meaning import meaning
from hf_xmc.pages.page import render

REPORT, FIGURES = "fit.html", "fit.json"
TEMPLATE = Path(__file__).with_name("fit.html.jinja")
POOLS_IN_WORDS = {"logsumexp": "soft maximum", "max": "maximum"}
GROUPS = {
    "labels": "Labels, by examples in training",
    "texts": "Texts, by length",
    "branches": "Branches, worst first",
}


class Report:
    """The figures of a run, which are saved as a part of the trained folder.

    Args:
        figures: the content of `fit.json`.
    """

    def __init__(self, figures: Mapping[str, Any]) -> None:
        self.figures = dict(figures)

    def save_pretrained(self, folder: Path) -> None:
        """Write `fit.json` and `fit.html`."""
        write_json(self.figures, folder / FIGURES)
        write_report(folder, self.figures)


def write_report(folder: Path, document: Mapping[str, Any]) -> Path:
    """Write `fit.html` into a folder.

    Args:
        document: what `fit.json` holds (`hf_xmc.fit.fit.Run.finish`).
    """
    split = main_split(document)
    queries = document["queries"]
    text = render(
        TEMPLATE,
        title=f"A tagger for {document['data']['name']}",
        headline=headline(document),
        tables=[
            {"caption": caption(name, queries[name]), **system_table(document["systems"][name])}
            for name in reversed(list(document["systems"]))
        ],
        measures=[(name, meaning(name)) for name in dict.fromkeys(name.split("@")[0] for name in SHOWN)],
        chart={"title": f"First label right, {split}", "bars": system_bars(document["systems"][split])},
        channels=channel_table(document["channels"]),
        channels_note="Measured on validation texts. A channel is kept only if it helps.",
        chosen=[*passages_part(document.get("passages")), *label_texts_part(document.get("label_texts"))],
        weak=[
            {"title": title, "bars": [bar(row) for row in document["weak"][key]]}
            for key, title in GROUPS.items()
            if document["weak"].get(key)
        ],
        confidence=document["confidence"],
        facts={**document["data"]["facts"], **document["facts"]},
        stages=[
            (stage["title"], duration(60 * stage["minutes"]), duration(stage["seconds"]))
            for stage in document["stages"]
        ],
        commands=document["next"],
    )
    return write_page(text, folder / REPORT)


def main_split(document: Mapping[str, Any]) -> str:
    """The split whose figures come first: test, if there is one."""
    return "test" if "test" in document["systems"] else "validation"


def headline(document: Mapping[str, Any]) -> str:
    """The result in two sentences."""
    split = main_split(document)
    found, low, high = document["systems"][split][TAGGER]["P@1"]
    count, rate = document["queries"][split], document["texts_per_second"]
    return (
        f"The first label is right for {found:.1%} of {count:,} {split} texts (95 % interval {low:.1%} to "
        f"{high:.1%}). "
        f"The tagger takes {gigabytes(document['bytes'])} on disk and tags about {rate:,.0f} texts a second here."
    )


def caption(split: str, queries: int) -> str:
    """What a table of systems shows."""
    chosen = ", which chose nothing but probabilities" if split == "validation" else ", which nothing was chosen on"
    return f"{queries:,} {split} texts{chosen}; per cent"


def system_table(systems: Mapping[str, Mapping[str, Sequence[float]]]) -> dict[str, Any]:
    """Rows of systems with their metrics."""
    rows = []
    for name, metrics in systems.items():
        intervals = [metrics[metric] for metric in SHOWN]
        cells = [{"value": f"{100 * v:.1f}", "half": f"{50 * (high - low):.1f}"} for v, low, high in intervals]
        rows.append({"name": name, "own": name == TAGGER, "cells": cells})
    return {"columns": SHOWN, "rows": rows}


def system_bars(systems: Mapping[str, Mapping[str, Sequence[float]]]) -> list[dict[str, Any]]:
    """Bars of P@1 with their intervals."""
    bars = []
    for name, metrics in systems.items():
        value, low, high = (100 * x for x in metrics["P@1"])
        bars.append(
            {
                "name": name,
                "own": name == TAGGER,
                "width": round(value, 2),
                "low": round(low, 2),
                "span": round(max(high - low, 0.2), 2),
                "value": f"{value:.1f} %",
            }
        )
    return bars


def channel_table(channels: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Rows of channels: kept or not, and the metrics with and without each."""
    if not channels:
        return None
    columns = ("channel", "kept", *(f"{name} without → with" for name in ("P@1", "P@5", "PSP@5")), "size", "seconds")
    rows = []
    for row in channels:
        gains = [gain(row, name) for name in ("P@1", "P@5", "PSP@5")]
        size = "" if row["bytes"] is None else gigabytes(row["bytes"])
        rows.append((row["name"], "yes" if row["kept"] else "no", *gains, size, f"{row['seconds']:.1f}"))
    return {"columns": columns, "rows": rows}


def passages_part(tried: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """Whether long texts are read in passages, and what each pooling was worth; nothing if that was not tried."""
    if not tried:
        return []
    metrics = [name for name in tried["tried"][0] if name not in ("pool", "total")]
    rows = [(row["pool"], *(f"{100 * row[name]:.1f}" for name in metrics)) for row in tried["tried"]]
    caption = "What each pooling is worth, by label vectors alone, on the half of validation that chooses; per cent"
    columns = ("score of a label", *metrics)
    title, said = "Long texts", passages_in_words(tried)
    return [{"id": "long", "title": title, "said": said, "caption": caption, "columns": columns, "rows": rows}]


def label_texts_part(found: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """Which texts of labels are searched, and what each pooling was worth; nothing if labels have names alone."""
    if not found:
        return []
    rows = []
    for row in found["tried"]:
        kinds = ", ".join(f"{kind} {weight:.2f}" for kind, weight in row["weights"].items() if weight)
        rows.append((row["pool"], kinds, f"{100 * row['P@1']:.1f}", f"{100 * row['nDCG@5']:.1f}"))
    caption = "What each way is worth on the half of validation that chooses; per cent"
    columns = ("pooling", "weights by kind", "P@1", "nDCG@5")
    title, said = "Synonyms, definitions and other texts of labels", labels_in_words(found)
    return [{"id": "labels", "title": title, "said": said, "caption": caption, "columns": columns, "rows": rows}]


def labels_in_words(found: Mapping[str, Any]) -> str:
    """Which texts of labels are searched, in a sentence.

    Args:
        found: `kept`, and what was `tried`, names alone first.
    """
    if not found["kept"]:
        return "Labels are searched by their names: on validation texts their other texts bring too little."
    names, best = found["tried"][0], max(found["tried"], key=lambda row: row["P@1"] + row["nDCG@5"])
    gains = ", ".join(f"{name} {names[name]:.1%} \u2192 {best[name]:.1%}" for name in ("P@1", "nDCG@5"))
    kinds = ", ".join(kind for kind, weight in best["weights"].items() if weight)
    pool = POOLS_IN_WORDS.get(best["pool"], best["pool"])
    return f"Labels are searched by the {pool} of their texts ({kinds}): on validation texts {gains}."


def gain(row: Mapping[str, Any], metric: str) -> str:
    """A metric without and with a channel.

    >>> gain({"without": {"P@1": 0.5}, "with": {"P@1": 0.52}}, "P@1")
    '50.0 → 52.0'
    """
    before = f"{100 * row['without'][metric]:.1f}"
    return before if row["with"] is None else f"{before} → {100 * row['with'][metric]:.1f}"


def bar(row: Mapping[str, Any]) -> dict[str, Any]:
    """A bar of recall for one group."""
    value = 100 * row["recall"]
    shown = {"width": round(value, 2), "value": f"{value:.0f} %", "low": None, "span": None}
    return {"name": f"{row['name']} ({row['count']:,})", "own": False, **shown}


def duration(seconds: float) -> str:
    """A time as people read it.

    >>> duration(42), duration(150), duration(7300)
    ('42 s', '2 min 30 s', '2 h 1 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s" if whole % 60 else f"{whole // 60} min"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
