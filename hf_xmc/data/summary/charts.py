"""Charts as SVG text, for a report that needs neither scripts nor the network."""

from __future__ import annotations

import math
from html import escape

import numpy as np

WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 460, 240, 56, 42, 12
BINS = 30


def frequency_chart(frequencies: np.ndarray) -> str:
    """Training queries per label by the rank of the label, both on a logarithmic scale."""
    counts = frequencies[frequencies > 0]
    if not len(counts):
        return frame("No label has a training query", "", "", "")
    ranks = np.unique(np.geomspace(1, len(counts), 200).astype(int))
    right, top = math.log10(max(len(counts), 10)), math.log10(max(counts[0], 10))
    points = " ".join(
        f"{x_of(math.log10(rank) / right):.1f},{y_of(math.log10(counts[rank - 1]) / top):.1f}" for rank in ranks
    )
    marks = "".join(x_mark(p / right, f"{10**p:,}") for p in range(int(right) + 1))
    marks += "".join(y_mark(p / top, f"{10**p:,}") for p in range(int(top) + 1))
    line = f'<polyline class="line" points="{points}"/>'
    return frame("Label frequency", "labels, most frequent first", "training queries", marks + line)


def histogram(values: np.ndarray, title: str, unit: str) -> str:
    """The distribution of values; the last bar contains all values above the 99th percentile."""
    if not len(values):
        return frame(title, unit, "share", "")
    most = max(int(np.percentile(values, 99)), 1)
    step = max(1, math.ceil((most + 1) / BINS))
    shares = np.bincount(np.minimum(values, most) // step) / len(values)
    top, count = float(shares.max()), len(shares)
    bars = "".join(
        f'<rect class="bar" x="{x_of(i / count) + 0.5:.1f}" y="{y_of(share / top):.1f}" '
        f'width="{max(x_of(1 / count) - x_of(0) - 1, 1):.1f}" height="{y_of(0) - y_of(share / top):.1f}">'
        f"<title>{label(i * step, step, last=i == count - 1)} {escape(unit)}: {share:.1%}</title></rect>"
        for i, share in enumerate(shares)
    )
    shown = sorted({0, count // 4, count // 2, 3 * count // 4, count - 1})
    marks = "".join(x_mark((i + 0.5) / count, label(i * step, 1, last=i == count - 1)) for i in shown)
    marks += "".join(y_mark(part, f"{part * top:.0%}" if top > 0.1 else f"{part * top:.1%}") for part in (0, 0.5, 1))
    return frame(title, unit, "share", marks + bars)


def label(start: int, step: int, last: bool) -> str:
    """The values in one bar, as `4-7`, or `8+` for the last one."""
    return f"{start:,}{'+' if last else f'-{start + step - 1:,}' if step > 1 else ''}"


def x_of(part: float) -> float:
    """The coordinate of a part (0 to 1) of the horizontal axis."""
    return LEFT + part * (WIDTH - LEFT - 12)


def y_of(part: float) -> float:
    """The coordinate of a part (0 to 1) of the vertical axis."""
    return HEIGHT - BOTTOM - part * (HEIGHT - BOTTOM - TOP)


def x_mark(part: float, text: str) -> str:
    """A tick with its text on the horizontal axis."""
    x, y = x_of(part), HEIGHT - BOTTOM
    return (
        f'<line class="axis" x1="{x:.1f}" y1="{y}" x2="{x:.1f}" y2="{y + 4}"/>'
        f'<text x="{x:.1f}" y="{y + 16}" text-anchor="middle">{escape(text)}</text>'
    )


def y_mark(part: float, text: str) -> str:
    """A grid line with its text on the vertical axis."""
    y = y_of(part)
    return (
        f'<line class="grid" x1="{LEFT}" y1="{y:.1f}" x2="{WIDTH - 12}" y2="{y:.1f}"/>'
        f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{escape(text)}</text>'
    )


def frame(title: str, x_name: str, y_name: str, content: str) -> str:
    """The content of a chart with labelled axes."""
    base = HEIGHT - BOTTOM
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">{content}'
        f'<line class="axis" x1="{LEFT}" y1="{base}" x2="{WIDTH - 12}" y2="{base}"/>'
        f'<line class="axis" x1="{LEFT}" y1="{TOP}" x2="{LEFT}" y2="{base}"/>'
        f'<text x="{(LEFT + WIDTH) / 2}" y="{HEIGHT - 6}" text-anchor="middle">{escape(x_name)}</text>'
        f'<text x="12" y="{HEIGHT / 2}" text-anchor="middle" transform="rotate(-90 12 {HEIGHT / 2})">'
        f"{escape(y_name)}</text></svg>"
    )
