"""Tables of what peers.py measured."""

from __future__ import annotations

import statistics
import time
from typing import Any

from peer_job import SYSTEMS  # beside this file
from rich.table import Table

SHOWN = ("P@1", "P@3", "P@5", "nDCG@5", "PSP@1", "PSP@5", "R@10")
COSTS = ("train_seconds", "train_processor_seconds", "train_memory_bytes", "model_bytes", "texts_per_second")
COLUMNS = (*SHOWN, "train, s", "CPU, s", "memory, GB", "model, MB", "texts/s")
NARROW = ("P@1", "P@5", "nDCG@5", "PSP@5", "CPU, s", "texts/s")  # what fits a terminal


def summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean and, over several seeds, standard deviation of each system's figures."""
    systems = dict[str, Any]()
    for name in dict.fromkeys(run["system"] for run in runs):
        done = [run for run in runs if run["system"] == name and "metrics" in run]
        if not done:
            last = next(run for run in reversed(runs) if run["system"] == name)
            systems[name] = {key: last[key] for key in ("skipped", "failed") if key in last}
            continue
        figures = {key: [run["metrics"][key] for run in done] for key in SHOWN}
        figures |= {key: [run[key] for run in done] for key in COSTS}
        systems[name] = {"seeds": len(done)} | {
            key: {"mean": statistics.fmean(values), "sd": statistics.stdev(values) if len(values) > 1 else None}
            for key, values in figures.items()
        }
    return systems


def cells(system: dict[str, Any]) -> dict[str, str]:
    """The figures of a system as they stand in tables, by column."""
    means = {key: system[key]["mean"] for key in (*SHOWN, *COSTS)}
    quality = [f"{100 * means[key]:.1f}" for key in SHOWN]
    costs = [
        f"{means['train_seconds']:,.0f}",
        f"{means['train_processor_seconds']:,.0f}",
        f"{means['train_memory_bytes'] / 2**30:.1f}",
        f"{means['model_bytes'] / 2**20:,.0f}",
        rate(means["texts_per_second"]),
    ]
    return dict(zip(COLUMNS, quality + costs, strict=True))


def rate(speed: float) -> str:
    """Texts per second, with three digits; what is not worth measuring is cut.

    >>> rate(8.123), rate(1234.5), rate(4e6)
    ('8.1', '1,230', '> 100,000')
    """
    if speed > 100_000:
        return "> 100,000"
    return f"{speed:.1f}" if speed < 10 else f"{float(f'{speed:.3g}'):,.0f}"


def table(name: str, part: dict[str, Any]) -> Table:
    """The results on one data set for the screen."""
    found = Table(title=f"{name}: {part['num_texts']:,} texts, {part['counts']['labels']:,} labels, per cent")
    found.add_column("", no_wrap=True)
    for column in NARROW:
        found.add_column(column, justify="right")
    for system, figures in part["systems"].items():
        reason = figures.get("skipped") or figures.get("failed")
        shown = {NARROW[0]: "not run"} if reason else cells(figures)
        found.add_row(SYSTEMS[system].title, *(shown.get(column, "") for column in NARROW))
    return found


def markdown(results: dict[str, Any]) -> str:
    """The results on all data sets as tables of Markdown."""
    lines = []
    for name, part in results.items():
        lines += [f"## {name}", "", f"| | {' | '.join(COLUMNS)} |", "|---" + "|---:" * len(COLUMNS) + "|"]
        for system, figures in part["systems"].items():
            reason = figures.get("skipped") or figures.get("failed")
            row = [f"not run: {reason}"] + [""] * (len(COLUMNS) - 1) if reason else list(cells(figures).values())
            lines.append(f"| {SYSTEMS[system].title} | {' | '.join(row)} |")
        lines.append("")
    return "\n".join(lines)


def line(name: str, result: dict[str, Any]) -> str:
    """One result in one line."""
    title = f"{time.strftime('%H:%M')} {name}: {SYSTEMS[result['system']].title}, seed {result['seed']}"
    if "metrics" not in result:
        return f"{title}: {result.get('skipped') or result.get('failed')}"
    found = " ".join(f"{key} {100 * result['metrics'][key]:.1f}" for key in ("P@1", "P@5", "nDCG@5", "PSP@5"))
    return f"{title}: {found}; {result['train_seconds']:,.0f} s, {rate(result['texts_per_second'])} texts/s"
