"""Draw the pictures of results, and write the tables of docs/experiments.md that come from the same files.

    python scripts/plot_results.py
    python scripts/plot_results.py --peers outputs/benchmarks/peers.json --output outputs/benchmarks/peers.svg

The first draws those of the README: docs/images/results.svg from results.json beside it, and peers.svg from
peers.json, which scripts/benchmarks/peers.py wrote; the tables of peers.json are put into docs/experiments.md. The
second draws what peers.py measured elsewhere.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

sys.path.insert(0, str(Path(__file__).with_name("benchmarks")))
from peer_job import SYSTEMS  # the systems of peers.py
from peer_tables import markdown

IMAGES = Path(__file__).parents[1] / "docs/images"
PAGE = IMAGES.parent / "experiments.md"
MARKS = ("<!-- peers -->", "<!-- end of peers -->")
OURS, OTHER, TEXT = "#0f766e", "#b8c4c2", "#1f2937"


def main() -> None:
    """Write the pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=Path, help="A file of results of peers.py to draw, and nothing else.")
    parser.add_argument("--output", type=Path, help="Picture to write: .svg, .png or .pdf.")
    args = parser.parse_args()
    plt.rcParams.update({"font.size": 9, "svg.hashsalt": "hf_xmc", "text.color": TEXT, "axes.labelcolor": TEXT})
    if args.peers is not None:
        save(peers(read(args.peers)), args.output or args.peers.with_suffix(".svg"))
        return
    save(overview(read(IMAGES / "results.json")), IMAGES / "results.svg")
    found = read(IMAGES / "peers.json")
    save(peers(found), IMAGES / "peers.svg")
    text = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(with_tables(text, markdown(found)), encoding="utf-8")


def with_tables(page: str, tables: str) -> str:
    """A page with other tables of peers.py between the two comments that mark them.

    >>> print(with_tables("a\\n<!-- peers -->\\nold\\n<!-- end of peers -->\\nb", "## new\\n"))
    a
    <!-- peers -->
    ### new
    <BLANKLINE>
    <!-- end of peers -->
    b
    """
    start, end = page.index(MARKS[0]) + len(MARKS[0]), page.index(MARKS[1])
    return f"{page[:start]}\n{tables.replace('## ', '### ')}\n{page[end:]}"


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def save(figure: Figure, path: Path) -> None:
    """Write a picture. The same figures give the same file: no date is in it."""
    metadata = {"Date": None} if path.suffix == ".svg" else None
    figure.savefig(path, metadata=metadata, facecolor="white")
    plt.close(figure)


def overview(figures: dict[str, Any]) -> Figure:
    """The demo, and what two further steps of training by hand bring."""
    figure, (demo, classifier, memory) = plt.subplots(
        1, 3, figsize=(11, 2.8), layout="constrained", width_ratios=(1, 1, 1)
    )
    draw_bars(demo, figures["demo"])
    draw_steps(classifier, figures["classifier"])
    draw_steps(memory, figures["memory"])
    figure.get_layout_engine().set(wspace=0.06)  # type: ignore[union-attr, call-arg]
    return figure


def peers(results: dict[str, Any]) -> Figure:
    """P@1 and P@5 of every system, one panel per data set; in the last one, texts per second on one core."""
    names = list(dict.fromkeys(name for part in results.values() for name in part["systems"]))
    names = [name for name in SYSTEMS if name in names]
    size = (2.6 * (len(results) + 1) + 1.6, 0.42 * len(names) + 0.9)
    figure, (*panels, last) = plt.subplots(1, len(results) + 1, figsize=size, layout="constrained", sharey=True)
    for axes, (title, part) in zip(panels, results.items(), strict=True):
        labels = f"{title}\n{part['counts']['labels']:,} labels"
        draw_systems(axes, labels, names, part["systems"])
    draw_speed(last, names, [part["systems"] for part in results.values()])
    panels[0].set_yticks(range(len(names))[::-1], [SYSTEMS[name].title for name in names])
    return figure


def draw_systems(axes: Axes, title: str, names: list[str], systems: dict[str, Any]) -> None:
    """Two bars per system, P@1 over P@5; those of `hf-xmc fit` are in colour."""
    for row, name in zip(range(len(names))[::-1], names, strict=True):
        found = systems.get(name, {})
        if "seeds" not in found:
            axes.text(1, row, "not run", va="center", fontsize=7.5, color="#9ca3af")
            continue
        strong, pale = (OURS, "#7cc4bb") if name.startswith("fit-") else ("#8a9a97", OTHER)
        for metric, offset, colour in (("P@1", 0.19, strong), ("P@5", -0.19, pale)):
            value = 100 * found[metric]["mean"]
            axes.barh(row + offset, value, height=0.36, color=colour)
            axes.text(value + 2, row + offset, f"{value:.1f}", va="center", fontsize=7.5)
    finish(axes, title, [], [])
    axes.set_xlabel("P@1 (dark), P@5 (light)")


def draw_speed(axes: Axes, names: list[str], sets: list[dict[str, Any]]) -> None:
    """Texts per second, on a logarithmic scale: a line from the slowest to the fastest data set."""
    for row, name in zip(range(len(names))[::-1], names, strict=True):
        speeds = [found[name]["texts_per_second"]["mean"] for found in sets if "seeds" in found.get(name, {})]
        if name == "popularity" or not speeds:  # which does not read the text
            continue
        colour = OURS if name.startswith("fit-") else "#8a9a97"
        axes.plot([min(speeds), max(speeds)], [row, row], color=colour, linewidth=2)
        axes.scatter(speeds, [row] * len(speeds), color=colour, s=16)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.xaxis.set_minor_formatter(lambda *_: "")
    axes.set_title("Speed", loc="left", fontsize=9.5, fontweight="bold")
    axes.set_xlabel("texts per second, one core")
    axes.tick_params(length=0, colors=TEXT)
    axes.grid(axis="x", color="#e5e7eb")
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)


def draw_bars(axes: Axes, part: dict[str, Any]) -> None:
    """One bar per system, the last in colour."""
    names, values = list(part["P@1"]), list(part["P@1"].values())
    rows = range(len(names))[::-1]
    colours = [OTHER] * (len(names) - 1) + [OURS]
    axes.barh(rows, values, color=colours, height=0.62)
    for row, value in zip(rows, values, strict=True):
        axes.text(value + 1.5, row, f"{value:.1f}", va="center")
    finish(axes, part["title"], list(rows), names)


def draw_steps(axes: Axes, part: dict[str, Any]) -> None:
    """One line per data set, from the figure before to the one after."""
    names = list(part["P@1"])
    rows = range(len(names))[::-1]
    for row, (before, after) in zip(rows, part["P@1"].values(), strict=True):
        axes.plot([before, after], [row, row], color=OTHER, linewidth=3, zorder=1, solid_capstyle="round")
        axes.scatter([before], [row], color=OTHER, s=42, zorder=2, label=part["before"] if row == 0 else None)
        axes.scatter([after], [row], color=OURS, s=42, zorder=3, label=part["after"] if row == 0 else None)
        axes.text(before - 2.5, row, f"{before:.1f}", va="center", ha="right")
        axes.text(after + 2.5, row, f"{after:.1f}", va="center", ha="left")
    finish(axes, part["title"], list(rows), names)
    axes.set_ylim(-0.6, len(names) - 0.4)
    axes.legend(loc="lower right", frameon=False, fontsize=8, handletextpad=0.1, borderaxespad=0.1)


def finish(axes: Axes, title: str, rows: list[int], names: list[str]) -> None:
    """What the panels share."""
    axes.set_title(title, loc="left", fontsize=9.5, fontweight="bold")
    axes.set_yticks(rows, names)
    axes.set_xlim(0, 105)
    axes.set_xticks([0, 25, 50, 75, 100])
    axes.set_xlabel("P@1 on test, per cent")
    axes.tick_params(length=0, colors=TEXT)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(OTHER)


if __name__ == "__main__":
    main()
