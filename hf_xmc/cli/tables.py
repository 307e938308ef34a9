"""Tables, and commands to run next, that commands print."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from shlex import quote
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

console = Console()
COLUMNS = ("P@1", "P@3", "P@5", "nDCG@5", "R@5", "PSP@1", "PSP@5")


def print_metrics(title: str, rows: Mapping[str, Mapping[str, float]], columns: Sequence[str] = COLUMNS) -> None:
    """One row per system, metrics in per cent, the best of each column in bold."""
    table = Table(title=escape(title), title_justify="left")
    table.add_column("")
    shown = [name for name in columns if all(name in metrics for metrics in rows.values())]
    for name in shown:
        table.add_column(name, justify="right")
    best = {name: max(metrics[name] for metrics in rows.values()) for name in shown}
    for system, metrics in rows.items():
        cells = [f"{100 * metrics[name]:.1f}" for name in shown]
        bold = [len(rows) > 1 and metrics[name] == best[name] for name in shown]
        table.add_row(escape(system), *(f"[bold]{c}[/]" if b else c for c, b in zip(cells, bold, strict=True)))
    console.print(table)


def print_channels(rows: Sequence[Mapping[str, Any]], learned: bool) -> None:
    """What each ranking channel brings: points of per cent that are lost without it, or gained if it was left out.

    Args:
        rows: `summary["channels"]` of a calibration.
        learned: whether a linear model combines them, and not a weighted sum.
    """
    table = Table(title="What each channel brings, in points of per cent", title_justify="left")
    shown = ("P@1", "P@5", "nDCG@5", "PSP@5")
    for name in ("", "kept", *([] if learned else ["weight"]), *shown, "seconds", "MB"):
        table.add_column(name, justify="right" if name else "left")
    for row in rows:
        weight = [] if learned else [f"{row['weight']:.2f}"]
        both = row["with"] or {}
        brought = [f"{100 * (both[name] - row['without'][name]):+.1f}" if both else "" for name in shown]
        size = "" if row["bytes"] is None else f"{row['bytes'] / 1e6:.1f}"
        table.add_row(
            escape(row["name"]), "yes" if row["kept"] else "no", *weight, *brought, f"{row['seconds']:.0f}", size
        )
    console.print(table)


def print_comparison(
    system: str, other: str, comparison: Mapping[str, Mapping[str, float]], columns: Sequence[str] = COLUMNS
) -> None:
    """Differences of two systems on the same queries, in points of per cent."""
    table = Table(
        title=f"{escape(system)} minus {escape(other)}, 95 % paired bootstrap interval", title_justify="left"
    )
    for name in ("", "difference", "interval", "p"):
        table.add_column(name, justify="right" if name else "left")
    for name in columns:
        if row := comparison.get(name):
            low, high = 100 * row["low"], 100 * row["high"]
            table.add_row(
                name, f"{100 * row['difference']:+.2f}", f"{low:+.2f} to {high:+.2f}", f"{row['p_value']:.4f}"
            )
    console.print(table)


def print_confidence(calibration: Mapping[str, float], sets: Mapping[str, Mapping[str, Any]]) -> None:
    """Calibration errors before and after; size of the sets, and what they cover if that was measured."""
    shown = ", ".join(f"{name} {value:.4f}" for name, value in calibration.items())
    console.print(f"Calibration: {shown}", highlight=False)
    table = Table(title="Label sets", title_justify="left")
    measured = {
        name: title
        for name, title in (("share_covered", "true labels in it"), ("all_covered", "all true labels in it"))
        if any(name in row for row in sets.values())
    }
    for title in ("", "level", "mean size", *measured.values()):
        table.add_column(title, justify="right" if title else "left")
    for method, row in sets.items():
        if "error" in row:
            table.add_row(method, f"{row['level']:.0%}", "not reachable")
        else:
            covered = [f"{row[name]:.1%}" if name in row else "" for name in measured]
            table.add_row(method, f"{row['level']:.0%}", f"{row['mean_size']:.1f}", *covered)
    console.print(table)
    for method, row in sets.items():
        if "error" in row:
            console.print(f"[yellow]{method}:[/] {escape(row['error'])}")


def print_tags(text: str, tags: Sequence[Mapping[str, object]]) -> None:
    """One text with its labels and their probabilities, or scores if there are no probabilities."""
    table = Table(
        title=f"“{escape(text)}”", title_justify="left", title_style="italic", show_header=False, expand=True
    )
    table.add_column(justify="right", no_wrap=True)
    table.add_column(no_wrap=True, overflow="ellipsis", ratio=1)  # long label texts are cut at the width of the screen
    table.add_column(style="dim", no_wrap=True)
    for tag in tags:
        table.add_row(
            f"{tag.get('probability', tag['score']):.3f}", escape(str(tag["label"])), escape(str(tag["uid"]))
        )
    console.print(table)


def print_explanation(text: str, label: str, score: float, words: Sequence[tuple[str, float]], most: int = 8) -> None:
    """The words of a text that count most, those for the label in green and those against it in red."""
    largest = sorted(words, key=lambda word: -abs(word[1]))[:most]
    shown = [f"[{'green' if value > 0 else 'red'}]{escape(word)} {value:+.3f}[/]" for word, value in largest]
    console.print(f"[italic]“{escape(text)}”[/]", highlight=False)
    console.print(f"  [bold]{escape(label)}[/] {score:.3f}: " + ", ".join(shown), highlight=False)


def print_faithfulness(measures: Mapping[str, float]) -> None:
    """The measures of one explanation, in one line."""
    shown = {
        "deletion": f"{measures['deletion']:.3f} (random order {measures['random_deletion']:.3f}; low is good)",
        "insertion": f"{measures['insertion']:.3f} (random order {measures['random_insertion']:.3f}; high is good)",
        "max-sensitivity": f"{measures['max_sensitivity']:.3f} (low is good)",
    }
    console.print("  " + ", ".join(f"{name} {text}" for name, text in shown.items()), highlight=False, style="dim")


def print_removed(files: Sequence[str]) -> None:
    """Files that a command removed, because they were fitted to the index before."""
    if files:
        console.print(
            f"[yellow]Removed, as fitted to the index before: {', '.join(files)};[/] fit again with hf-xmc calibrate."
        )


def predict_command(model: str | Path, run: str | Path | None = None, options: str = "") -> str:
    """A command that tags a text, with the example of the folder's run.json if it has one.

    Args:
        model: folder or Hub repository to tag with.
        run: the folder whose example is shown; by default `model`.
    """
    try:
        example = json.loads((Path(run or model) / "run.json").read_text(encoding="utf-8"))["data"]["example"]
    except (OSError, ValueError, KeyError, TypeError):
        example = "A text to tag"
    return " ".join(["hf-xmc predict", quoted(model), *([options] if options else []), f"--text {quoted(example)}"])


def quoted(argument: str | Path) -> str:
    """An argument as a shell reads it, quoted if need be.

    >>> quoted("outputs/demo"), quoted("my model")
    ('outputs/demo', "'my model'")
    """
    return quote(str(argument))


def print_next(*commands: str) -> None:
    """Commands to run next."""
    console.print("\n[bold]Next:[/]")
    for command in commands:
        console.print(f"  {command}", highlight=False, soft_wrap=True, markup=False)
