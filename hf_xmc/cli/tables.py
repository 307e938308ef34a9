"""Tables and hints that commands print."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

console = Console()
COLUMNS = ("P@1", "P@3", "P@5", "nDCG@5", "R@5", "PSP@1", "PSP@5")


def print_metrics(title: str, rows: Mapping[str, Mapping[str, float]], columns: Sequence[str] = COLUMNS) -> None:
    """One row a system, metrics in per cent, the best of each column in bold."""
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
    """Calibration errors before and after; size of the sets, and what they cover where that was measured."""
    shown = ", ".join(f"{name} {value:.4f}" for name, value in calibration.items())
    console.print(f"Calibration: {shown}", highlight=False)
    table = Table(title="Label sets", title_justify="left")
    for name in ("", "level", "labels a set", "true labels in it", "all true labels in it"):
        table.add_column(name, justify="right" if name else "left")
    for method, row in sets.items():
        if "error" in row:
            table.add_row(method, f"{row['level']:.0%}", "not reachable", "", "")
        else:
            covered = [f"{row[name]:.1%}" if name in row else "" for name in ("share_covered", "all_covered")]
            table.add_row(method, f"{row['level']:.0%}", f"{row['mean_size']:.1f}", *covered)
    console.print(table)
    for method, row in sets.items():
        if "error" in row:
            console.print(f"[yellow]{method}:[/] {escape(row['error'])}")


def print_tags(text: str, tags: Sequence[Mapping[str, object]]) -> None:
    """One text with its labels and their probabilities, or scores where these are all there is."""
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
    """The words of a text that count most for a label, those for it in green and those against it in red."""
    largest = sorted(words, key=lambda word: -abs(word[1]))[:most]
    shown = [f"[{'green' if value > 0 else 'red'}]{escape(word)} {value:+.3f}[/]" for word, value in largest]
    console.print(f"[italic]“{escape(text)}”[/]", highlight=False)
    console.print(f"  [bold]{escape(label)}[/] {score:.3f}: " + ", ".join(shown), highlight=False)


def print_next(*commands: str) -> None:
    """What to type next."""
    console.print("\n[bold]Next:[/]")
    for command in commands:
        console.print(f"  {command}", highlight=False, soft_wrap=True, markup=False)
