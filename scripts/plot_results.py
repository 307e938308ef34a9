"""Draw the picture of results in the README from docs/images/results.json, whose figures stand in docs/experiments.md.

python scripts/plot_results.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

IMAGES = Path(__file__).parents[1] / "docs/images"
OURS, OTHER, TEXT = "#0f766e", "#b8c4c2", "#1f2937"


def main() -> None:
    """Write docs/images/results.svg."""
    figures = json.loads((IMAGES / "results.json").read_text(encoding="utf-8"))
    plt.rcParams.update({"font.size": 9, "svg.hashsalt": "hf_xmc", "text.color": TEXT, "axes.labelcolor": TEXT})
    figure, (demo, classifier, memory) = plt.subplots(
        1, 3, figsize=(11, 2.8), layout="constrained", width_ratios=(1, 1, 1)
    )
    draw_bars(demo, figures["demo"])
    draw_steps(classifier, figures["classifier"])
    draw_steps(memory, figures["memory"])
    figure.get_layout_engine().set(wspace=0.06)  # type: ignore[union-attr, call-arg]
    # No date in the file: the same figures give the same file.
    figure.savefig(IMAGES / "results.svg", metadata={"Date": None}, facecolor="white")
    plt.close(figure)


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
