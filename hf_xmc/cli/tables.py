"""Tables, and commands to run next, that commands print."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from shlex import quote
from typing import Any

from rich import box
from rich.markup import escape
from rich.table import Table

from hf_xmc.cli.terminal import Console

console = Console()
SMALL_SET = 20  # labels that a person can still look through
DEFAULT_K = 5  # labels a text that predict returns unless it is told otherwise
COMPARED = ("P@1", "nDCG@5")  # a model that is behind a baseline at both is worse
COLUMNS = ("P@1", "P@3", "P@5", "nDCG@5", "R@5", "PSP@1", "PSP@5")


def new_table(*columns: str) -> Table:
    """A table whose first column is text, which is wrapped and never cut, and whose others are numbers."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for place, name in enumerate(columns):
        numbers: dict[str, Any] = {"justify": "right", "no_wrap": True} if place else {"overflow": "fold"}
        table.add_column(name, **numbers)
    return table


def print_table(title: str, table: Table) -> None:
    """A table below its title, which may be wider."""
    console.print(title, highlight=False)
    console.print(table)


def print_metrics(title: str, rows: Mapping[str, Mapping[str, float]], columns: Sequence[str] = COLUMNS) -> None:
    """One row per system, metrics in per cent, the best of each column in bold."""
    shown = [name for name in columns if all(name in metrics for metrics in rows.values())]
    table = new_table("", *shown)
    best = {name: max(metrics[name] for metrics in rows.values()) for name in shown}
    for system, metrics in rows.items():
        cells = [f"{100 * metrics[name]:.1f}" for name in shown]
        bold = [len(rows) > 1 and metrics[name] == best[name] for name in shown]
        table.add_row(escape(system), *(f"[bold]{c}[/]" if b else c for c, b in zip(cells, bold, strict=True)))
    print_table(escape(title), table)


def print_beaten(system: str, metrics: Mapping[str, float], baselines: Mapping[str, Mapping[str, float]]) -> None:
    """Say so where a baseline, which needs no training, is better than a model."""
    for name, other in baselines.items():
        worse = [f"{key} {100 * other[key]:.1f} against {100 * metrics[key]:.1f}" for key in COMPARED if key in other]
        if all(other[key] > metrics[key] for key in COMPARED if key in other) and worse:
            console.print(
                f"[yellow]{escape(name)} is better than {escape(system)}[/] ({', '.join(worse)}): it needs no "
                "training. Train longer or with more data, or from another encoder.",
                highlight=False,
            )


def print_channels(rows: Sequence[Mapping[str, Any]], learned: bool) -> None:
    """What each ranking channel brings: points of per cent that are lost without it, or gained if it was left out.

    Args:
        rows: `summary["channels"]` of a calibration.
        learned: whether a linear model combines them, and not a weighted sum.
    """
    shown = ("P@1", "P@5", "nDCG@5", "PSP@5")
    weight = [] if learned else ["weight"]
    table = new_table("", "kept", *weight, *shown, "seconds", "MB")
    for row in rows:
        both = row["with"] or {}
        brought = [f"{100 * (both[name] - row['without'][name]):+.1f}" if both else "-" for name in shown]
        size = "-" if row["bytes"] is None else f"{row['bytes'] / 1e6:.1f}"
        own = [f"{row['weight']:.2f}"] if weight else []
        table.add_row(
            escape(row["name"]), "yes" if row["kept"] else "no", *own, *brought, f"{row['seconds']:.0f}", size
        )
    print_table("What each channel brings, in points of per cent", table)


def print_comparison(
    system: str,
    other: str,
    comparison: Mapping[str, Mapping[str, float]],
    columns: Sequence[str] = COLUMNS,
    labels: str = "",
) -> None:
    """Differences of two systems on the same queries, in points of per cent.

    Args:
        labels: which labels they were compared on, if not on all.
    """
    on = f", on {labels}" if labels else ""
    table = new_table("", "difference", "interval", "p")
    for name in columns:
        if row := comparison.get(name):
            low, high = 100 * row["low"], 100 * row["high"]
            table.add_row(
                name, f"{100 * row['difference']:+.2f}", f"{low:+.2f} to {high:+.2f}", f"{row['p_value']:.4f}"
            )
    title = f"{escape(system)} minus {escape(other)}{on}: points, with the 95 % interval of a paired bootstrap"
    print_table(title, table)


def print_threshold(found: Mapping[str, float], where: str, advice: bool = True) -> None:
    """What a threshold gives, in a sentence.

    Args:
        found: as `advised_threshold` returns it.
        where: the queries that it was measured on.
        advice: it is recommended, and not only measured.
    """
    k = f" --k {found['k']}" if found["k"] > DEFAULT_K else ""
    use = "[bold]Use[/] " if advice else ""
    console.print(
        f"{use}--threshold {found['threshold']:.2f}{k}: {found['labels']:.1f} labels a text, "
        f"precision {100 * found['precision']:.0f} %, recall {100 * found['recall']:.0f} %, "
        f"{100 * found['untagged']:.0f} % of the texts without a label ({where})",
        highlight=False,
    )


def print_confidence(calibration: Mapping[str, float], sets: Mapping[str, Mapping[str, Any]]) -> None:
    """Calibration errors before and after; the sets that are small enough to look through, what they cover if that was
    measured, and for larger ones the level at which they would be."""
    shown = ", ".join(f"{name} {100 * value:.1f} %" for name, value in calibration.items())
    console.print(f"Calibration: {shown}", highlight=False)
    small = {name: row for name, row in sets.items() if "error" not in row and row["mean_size"] <= SMALL_SET}
    measured = {
        name: title
        for name, title in (("share_covered", "true labels in it"), ("all_covered", "all of them"))
        if any(name in row for row in small.values())
    }
    if small:
        table = new_table("--set_method", "--conformal", "labels a text", *measured.values())
        for method, row in small.items():
            covered = [f"{100 * row[name]:.1f} %" if name in row else "-" for name in measured]
            table.add_row(method, f"{row['level']:g}", f"{row['mean_size']:.1f}", *covered)
        print_table("Label sets", table)
    for method, row in sets.items():
        if "error" in row:
            console.print(f"[yellow]No sets {method}:[/] {escape(row['error'])}", highlight=False)
        elif method not in small:
            console.print(too_large(method, row), highlight=False)


def too_large(method: str, row: Mapping[str, Any]) -> str:
    """A line about sets that nobody can look through.

    >>> too_large("fnr", {"level": 0.9, "mean_size": 168.2, "small_level": 0.7, "small_size": 17.5})
    'Sets fnr of 90 % have 168 labels a text; --conformal 0.7 gives 18.'
    """
    size = f"Sets {method} of {100 * row['level']:.0f} % have {row['mean_size']:,.0f} labels a text"
    if "small_level" not in row:
        return f"{size}: too many to look through."
    return f"{size}; --conformal {row['small_level']:g} gives {row['small_size']:.0f}."


def print_tags(text: str, tags: Sequence[Mapping[str, object]]) -> None:
    """One text with its labels and their probabilities in per cent, or scores if there are no probabilities; uids only
    where they say more than the label."""
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(overflow="fold")
    uids = any(tag["uid"] != tag["label"] for tag in tags)
    if uids:
        table.add_column(style="dim", overflow="fold")
    for tag in tags:
        probability: Any = tag.get("probability")
        value = f"{tag['score']:.3f}" if probability is None else f"{100 * probability:.0f} %"
        table.add_row(f"  {value}", escape(str(tag["label"])), *([escape(str(tag["uid"]))] if uids else []))
    console.print(f"[italic]“{escape(text)}”[/]", highlight=False)
    console.print(table if tags else "  no label above the threshold")


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
