"""The plots of `report.html`, as SVG."""

from __future__ import annotations

import io
from base64 import b64encode
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hf_xmc.metrics.breakdown import LabelGroup
from hf_xmc.metrics.calibration import reliability, scored_predictions
from hf_xmc.metrics.hits import Hits
from hf_xmc.types import TopK

RIGHT, WRONG, OTHER = "#1a7f37", "#b3261e", "#3b6fb6"
STYLE: Any = {
    "svg.fonttype": "none",  # text stays text: small, and drawn with the reader's own fonts
    "svg.hashsalt": "hf_xmc",  # the same input gives the same bytes
    "font.family": "sans-serif",
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def draw_plots(hits: Hits, topk: TopK, deciles: Sequence[LabelGroup]) -> list[dict[str, str]]:
    """Precision by label frequency, coverage, score distribution and calibration: `alt` and base64 `svg` of each."""
    depth = hits.ids.shape[1]
    scores, right = scored_predictions(hits, topk)
    frequency = f"Precision and recall of the first {depth} by label frequency, a tenth of the labels a step"
    coverage = "Share of the true labels that are predicted rightly at least once, by cut-off"
    distribution = f"Scores of right and wrong predictions among the first {depth}"
    calibration = "Share of right predictions by score, in bins of equal size"
    return [
        {"alt": alt, "svg": svg(draw, *arguments)}
        for alt, draw, arguments in (
            (frequency, _by_frequency, (deciles,)),
            (coverage, _coverage, (hits,)),
            (distribution, _distribution, (scores, right)),
            (calibration, _calibration, (scores, right)),
        )
    ]


def svg(draw: Any, *arguments: Any) -> str:
    """A plot that `draw(axes, *arguments)` makes, as base64."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(5.2, 3.2), layout="constrained")  # no pyplot: no global state, no display
        draw(figure.subplots(), *arguments)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return b64encode(buffer.getvalue()).decode()


def _by_frequency(axes: Axes, deciles: Sequence[LabelGroup]) -> None:
    x = np.arange(len(deciles))
    axes.bar(x - 0.2, [g["precision"] for g in deciles], 0.4, label="precision", color=OTHER)
    axes.bar(x + 0.2, [g["recall"] for g in deciles], 0.4, label="recall", color="#e0a030")
    axes.set_xticks(x, [f"{g['min_count']}-{g['max_count']}" for g in deciles], rotation=40, ha="right")
    axes.set(xlabel="training queries of the label", ylim=(0, 1))
    axes.legend(frameon=False)


def _coverage(axes: Axes, hits: Hits) -> None:
    true = max(len(np.unique(hits.positives.indices)), 1)
    depth = hits.ids.shape[1]
    found = [len(np.unique(hits.ids[:, :k][hits.hit[:, :k]])) / true for k in range(1, depth + 1)]
    axes.plot(range(1, depth + 1), found, marker="o", color=OTHER)
    axes.set(xlabel="k", ylabel="coverage@k", ylim=(0, 1))
    if depth <= 20:
        axes.set_xticks(range(1, depth + 1))


def _distribution(axes: Axes, scores: np.ndarray, right: np.ndarray) -> None:
    if not len(scores):
        return
    edges = np.histogram_bin_edges(scores, 40).tolist()
    axes.hist(scores[~right], edges, color=WRONG, alpha=0.6, label="wrong")
    axes.hist(scores[right], edges, color=RIGHT, alpha=0.6, label="right")
    axes.set(xlabel="score", ylabel="predictions")
    axes.legend(frameon=False)


def _calibration(axes: Axes, scores: np.ndarray, right: np.ndarray) -> None:
    if not len(scores):
        return
    if scores.min() >= 0 and scores.max() <= 1:
        axes.plot([0, 1], [0, 1], color="#9aa3af", linestyle="--", linewidth=1, label="a probability")
        axes.legend(frameon=False)
    table = reliability(scores, right, equal_count=True)
    axes.plot([row["mean_score"] for row in table], [row["share_right"] for row in table], marker="o", color=OTHER)
    axes.set(xlabel="mean score of the bin", ylabel="share right", ylim=(0, 1))
