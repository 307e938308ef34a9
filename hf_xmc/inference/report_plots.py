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
        {"alt": alt, "svg": _svg(draw, *arguments)}
        for alt, draw, arguments in (
            (frequency, _by_frequency, (deciles,)),
            (coverage, _coverage, (hits,)),
            (distribution, _distribution, (scores, right)),
            (calibration, _calibration, (scores, right)),
        )
    ]


def scored_predictions(hits: Hits, topk: TopK) -> tuple[np.ndarray, np.ndarray]:
    """Score and truth of every finite-scored prediction that counts, `[P]` each."""
    given = topk.sorted()
    # The ranks of hits are those after filtering, so scores are found by id: both sides sorted by (row, id).
    stride = max(int(given.ids.max(initial=0)), int(hits.ids.max(initial=0))) + 2
    rows = np.arange(len(given.ids))[:, None] * stride
    keys, where = np.unique((rows + given.ids + 1).ravel(), return_index=True)  # first: the best of a repeated label
    wanted = (rows + hits.ids + 1)[hits.ids >= 0]
    scores = given.scores.ravel()[where[np.searchsorted(keys, wanted)]].astype(np.float64)
    finite = np.isfinite(scores)
    return scores[finite], hits.hit[hits.ids >= 0][finite]


def calibration_bins(scores: np.ndarray, right: np.ndarray, num_bins: int = 15) -> tuple[np.ndarray, np.ndarray]:
    """Mean score and share of right predictions in bins of equal size, `[bins]` each.

    >>> calibration_bins(np.array([0.1, 0.3, 0.6, 0.8]), np.array([False, False, True, True]), num_bins=2)
    (array([0.2, 0.7]), array([0., 1.]))
    """
    order = np.argsort(scores, kind="stable")
    bins = [part for part in np.array_split(order, num_bins) if len(part)]
    return np.array([scores[part].mean() for part in bins]), np.array([right[part].mean() for part in bins])


def _svg(draw: Any, *arguments: Any) -> str:
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
    axes.plot(*calibration_bins(scores, right), marker="o", color=OTHER)
    axes.set(xlabel="mean score of the bin", ylabel="share right", ylim=(0, 1))
