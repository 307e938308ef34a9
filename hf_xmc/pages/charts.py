"""Charts as SVG text: small, in the colours of the page, light or dark, and with their values as a table.

A series is told by its shape as well as by its colour: the first is full, the second is hollow or dashed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from markupsafe import Markup

WIDTH, HEIGHT, LEFT, RIGHT, BOTTOM, TOP = 350, 220, 62, 16, 46, 12
BINS = 30
MOST_TICKS = 6


@dataclass(frozen=True)
class Axis:
    """One axis of a chart.

    Args:
        name: what it shows, with its unit.
        low, high: its ends.
        percent: values are fractions, and ticks are in per cent.
        log: the scale is logarithmic, from 1.
    """

    name: str
    low: float = 0.0
    high: float = 1.0
    percent: bool = False
    log: bool = False

    def at(self, value: float) -> float:
        """The place of a value, 0 to 1."""
        if self.log:
            return math.log10(max(value, 1)) / math.log10(max(self.high, 10))
        return (value - self.low) / (self.high - self.low or 1)

    def ticks(self) -> list[tuple[float, str]]:
        """Round values with their texts.

        >>> Axis("share", 0, 0.5, percent=True).ticks()[:2], Axis("texts", 1, 200, log=True).ticks()
        ([(0.0, '0 %'), (0.1, '10 %')], [(1, '1'), (10, '10'), (100, '100')])
        """
        if self.log:
            return [(10**power, f"{10**power:,}") for power in range(int(math.log10(max(self.high, 10))) + 1)]
        step = round_step((self.high - self.low) / (MOST_TICKS - 1))
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        values = [round(i * step, 10) for i in range(first, last + 1)]
        return [(value, f"{100 * value:g} %" if self.percent else f"{value:,g}") for value in values]


def round_step(least: float) -> float:
    """The smallest of 1, 2 and 5 times a power of ten that is not below `least`.

    >>> round_step(0.13), round_step(7), round_step(0)
    (0.2, 10, 1.0)
    """
    if least <= 0:
        return 1.0
    unit = 10 ** math.floor(math.log10(least))
    return next(factor * unit for factor in (1, 2, 5, 10) if factor * unit >= least * (1 - 1e-9))


@dataclass(frozen=True)
class Chart:
    """A chart with its values.

    Args:
        title: what it shows; also its name for screen readers.
        svg: the drawing.
        columns, rows: the same values as a table.
        legend: name of each series, if there are several; one without a name is not shown.
        lines: series are lines, not bars.
    """

    title: str
    svg: Markup
    columns: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    legend: Sequence[str] = ()
    lines: bool = False

    def key(self, series: int) -> Markup:
        """The sign of a series in the legend."""
        if self.lines:
            mark = f'<line class="line s{series}" x1="0" x2="26" y1="8" y2="8"/>'
            mark += f'<circle class="dot s{series}" cx="13" cy="8" r="4"/>'
        else:
            mark = f'<rect class="bar s{series}" x="6" y="1" width="14" height="12"/>'
        return Markup(f'<svg viewBox="0 0 26 15" aria-hidden="true">{mark}</svg>')  # nosec B704: of numbers


def lines(
    title: str, x: Axis, y: Axis, series: Sequence[tuple[str, Sequence[tuple[float, float]]]], diagonal: bool = False
) -> Chart:
    """Lines through points, at most two, which have a point in the table for each value.

    Args:
        series: name and points (x, y) of each.
        diagonal: draw a thin line where both are equal.
    """
    guide = [(max(x.low, y.low),) * 2, (min(x.high, y.high),) * 2]
    content = f'<polyline class="guide" points="{places(x, y, guide)}"/>' if diagonal else ""
    for number, (_, points) in enumerate(series, 1):
        content += f'<polyline class="line s{number}" points="{places(x, y, points)}"/>'
        content += "".join(
            f'<circle class="dot s{number}" cx="{x_of(x.at(a)):.1f}" cy="{y_of(y.at(b)):.1f}" r="3.5"/>'
            for a, b in points
        )
    several = len(series) > 1
    rows = [(*([name] if several else []), *values_of(x, y, point)) for name, points in series for point in points]
    return Chart(
        title=title,
        svg=frame(title, x.name, y.name, content, ticks_of(x), ticks_of(y)),
        columns=(*(["series"] if several else []), x.name, y.name),
        rows=rows,
        legend=[name for name, _ in series] if several else (),
        lines=True,
    )


def bars(
    title: str, groups: Sequence[str], x_name: str, y: Axis, series: Sequence[tuple[str, Sequence[float]]]
) -> Chart:
    """Bars side by side, at most two for each group.

    Args:
        groups: name of each group; at most about ten of them are written below.
        series: name and values `[groups]` of each.
    """
    count, each = max(len(groups), 1), 0.8 / max(len(series), 1)
    content = "".join(
        bar((i + 0.1 + each * number) / count, each / count, y.at(value), number + 1)
        for number, (_, values) in enumerate(series)
        for i, value in enumerate(values)
    )
    step = math.ceil(count / 10)
    ticks = [((i + 0.5) / count, name) for i, name in enumerate(groups) if i % step == 0]
    several = len(series) > 1
    return Chart(
        title=title,
        svg=frame(title, x_name, y.name, content, ticks, ticks_of(y), slanted=count > 5),
        columns=(x_name, *(name or y.name for name, _ in series)),
        rows=[(name, *(shown(y, values[i]) for _, values in series)) for i, name in enumerate(groups)],
        legend=[name for name, _ in series] if several else (),
    )


def frequency_chart(title: str, frequencies: np.ndarray) -> Chart:
    """Training queries per label by the rank of the label, both on a logarithmic scale.

    Args:
        frequencies: training queries per label, in descending order, `[L]`.
    """
    counts = frequencies[frequencies > 0]
    x_name, y_name = "labels, most frequent first", "training queries"
    if not len(counts):
        return Chart(title, frame("No label has a training query", x_name, y_name, "", [], []))
    x, y = Axis(x_name, 1, len(counts), log=True), Axis(y_name, 1, float(counts[0]), log=True)
    ranks = np.unique(np.geomspace(1, len(counts), 200).astype(int))
    line = f'<polyline class="line s1" points="{places(x, y, [(r, counts[r - 1]) for r in ranks.tolist()])}"/>'
    some = np.unique(np.geomspace(1, len(counts), 12).astype(int)).tolist()
    rows = [(f"{rank:,}", f"{counts[rank - 1]:,}") for rank in some]
    return Chart(title, frame(title, x_name, y_name, line, ticks_of(x), ticks_of(y)), ("label no.", y_name), rows)


def histogram(title: str, values: np.ndarray, unit: str) -> Chart:
    """The distribution of whole numbers; the last bar holds all values above the 99th percentile.

    Args:
        values: not below 0, `[n]`.
    """
    if not len(values):
        return Chart(title, frame(title, unit, "share", "", [], []))
    most = max(int(np.percentile(values, 99)), 1)
    step = max(1, math.ceil((most + 1) / BINS))
    shares = np.bincount(np.minimum(values, most) // step) / len(values)
    count, y = len(shares), Axis("share", 0, float(shares.max()), percent=True)
    content = "".join(bar((i + 0.05) / count, 0.9 / count, y.at(share), 1) for i, share in enumerate(shares.tolist()))
    names = [range_name(i * step, step, last=i == count - 1) for i in range(count)]
    places_shown = sorted({0, count // 4, count // 2, 3 * count // 4, count - 1})
    ticks = [((i + 0.5) / count, range_name(i * step, 1, last=i == count - 1)) for i in places_shown]
    rows = [(name, f"{share:.1%}".replace("%", " %")) for name, share in zip(names, shares.tolist(), strict=True)]
    return Chart(title, frame(title, unit, "share", content, ticks, ticks_of(y)), (unit, "share"), rows)


def range_name(start: int, step: int, last: bool) -> str:
    """The values in one bar, as `4-7`, or `8+` for the last one."""
    return f"{start:,}{'+' if last else f'-{start + step - 1:,}' if step > 1 else ''}"


def shown(axis: Axis, value: float) -> str:
    """A value in the unit of its axis."""
    return f"{100 * value:.1f} %" if axis.percent else f"{value:,.4g}"


def values_of(x: Axis, y: Axis, point: tuple[float, float]) -> tuple[str, str]:
    """A point as the table shows it."""
    return shown(x, point[0]), shown(y, point[1])


def ticks_of(axis: Axis) -> list[tuple[float, str]]:
    """Places (0 to 1) and texts of the ticks of an axis."""
    return [(axis.at(value), text) for value, text in axis.ticks()]


def places(x: Axis, y: Axis, points: Sequence[tuple[float, ...]]) -> str:
    """Points as the coordinates of a polyline."""
    return " ".join(f"{x_of(x.at(a)):.1f},{y_of(y.at(b)):.1f}" for a, b in points)


def x_of(part: float) -> float:
    """The coordinate of a part (0 to 1) of the horizontal axis."""
    return LEFT + part * (WIDTH - LEFT - RIGHT)


def y_of(part: float) -> float:
    """The coordinate of a part (0 to 1) of the vertical axis."""
    return HEIGHT - BOTTOM - part * (HEIGHT - BOTTOM - TOP)


def bar(left: float, width: float, height: float, series: int) -> str:
    """A bar; all sizes are parts (0 to 1) of the axes."""
    return (
        f'<rect class="bar s{series}" x="{x_of(left):.1f}" y="{y_of(height):.1f}" '
        f'width="{max(x_of(width) - x_of(0), 1):.1f}" height="{y_of(0) - y_of(height):.1f}"/>'
    )


def frame(
    title: str,
    x_name: str,
    y_name: str,
    content: str,
    x_ticks: Sequence[tuple[float, str]],
    y_ticks: Sequence[tuple[float, str]],
    slanted: bool = False,
) -> Markup:
    """The content of a chart between labelled axes.

    Args:
        x_ticks, y_ticks: place (0 to 1) and text of each.
        slanted: write the ticks of the horizontal axis at an angle, since they are many.
    """
    base, right, more = HEIGHT - BOTTOM, WIDTH - RIGHT, 24 if slanted else 0
    marks = "".join(
        f'<line class="grid" x1="{LEFT}" y1="{y_of(at):.1f}" x2="{right}" y2="{y_of(at):.1f}"/>'
        f'<text x="{LEFT - 6}" y="{y_of(at) + 4:.1f}" text-anchor="end">{escape(text)}</text>'
        for at, text in y_ticks
    )
    for at, text in x_ticks:
        x = f"{x_of(at):.1f}"
        place = f'transform="translate({x} {base + 16}) rotate(-35)" text-anchor="end"' if slanted else ""
        place = place or f'x="{x}" y="{base + 17}" text-anchor="middle"'
        marks += (
            f'<line class="axis" x1="{x}" y1="{base}" x2="{x}" y2="{base + 4}"/><text {place}>{escape(text)}</text>'
        )
    return Markup(  # nosec B704: texts are escaped
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT + more}" role="img" aria-label="{escape(title)}">'
        f'{marks}{content}<line class="axis" x1="{LEFT}" y1="{base}" x2="{right}" y2="{base}"/>'
        f'<line class="axis" x1="{LEFT}" y1="{TOP}" x2="{LEFT}" y2="{base}"/>'
        f'<text x="{(LEFT + WIDTH) / 2}" y="{HEIGHT + more - 6}" text-anchor="middle">{escape(x_name)}</text>'
        f'<text x="12" y="{HEIGHT / 2}" text-anchor="middle" transform="rotate(-90 12 {HEIGHT / 2})">'
        f"{escape(y_name)}</text></svg>"
    )
