"""`report.html`: one self-contained page about a ranking, made from arrays and texts alone.

Plots are SVG images made by matplotlib, about 20 KB each; the script of an interactive library would add 4.5 MB. The
content policy of the page forbids all requests, and all scripts except its own.
"""

from __future__ import annotations

import io
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from jinja2 import Environment, StrictUndefined
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hf_xmc.data.files import replacing
from hf_xmc.metrics.breakdown import FREQUENT, RARE, LabelGroup, by_label_frequency, by_num_positives
from hf_xmc.metrics.calibration import reliability, scored_predictions
from hf_xmc.metrics.hits import Hits, find_hits
from hf_xmc.metrics.significance import Comparison, Interval
from hf_xmc.types import Array, Positives, TopK

SCRIPT = """
const kind = document.getElementById("kind"), words = document.getElementById("words");
const queries = [...document.querySelectorAll("article")];
function show() {
  const wanted = words.value.toLowerCase();
  let count = 0;
  for (const query of queries) {
    const found = query.textContent.toLowerCase().includes(wanted);
    const fits = found && (!kind.value || query.dataset.kind === kind.value);
    query.hidden = !fits;
    count += fits;
  }
  document.getElementById("shown").textContent = count + " shown";
}
kind.addEventListener("change", show);
words.addEventListener("input", show);
show();
"""
RELIABLE = 5  # predictions of each query that the reliability plot shows
QUERY_LENGTH, LABEL_LENGTH = 600, 160  # characters that are shown
RIGHT, WRONG, OTHER = "#1a7f37", "#b3261e", "#3b6fb6"
STYLE: Any = {
    "svg.fonttype": "none",  # text stays text: small, and drawn with the reader's own fonts
    "svg.hashsalt": "hf_xmc",  # the same input gives the same bytes
    "font.family": "sans-serif",
    "axes.spines.top": False,
    "axes.spines.right": False,
}


@dataclass(frozen=True)
class Texts:
    """The texts on the page.

    Args:
        queries: text of each query, `[N]`; anything that can be indexed by a row number.
        labels: text of each label, `[L]`.
        uids: uid of each query, `[N]`.
    """

    queries: Sequence[str]
    labels: Sequence[str]
    uids: Sequence[str]


def render_report(
    title: str,
    metrics: Mapping[str, float],
    topk: TopK,
    positives: Positives,
    texts: Texts,
    label_counts: Array,
    settings: Mapping[str, Any],
    filters: Positives | None = None,
    intervals: Mapping[str, Interval] | None = None,
    comparison: Mapping[str, Comparison] | None = None,
    comparison_name: str = "",
    baselines: Mapping[str, Mapping[str, float]] | None = None,
    confidence: Mapping[str, Any] | None = None,
    sample_size: int = 200,
    seed: int = 0,
) -> str:
    """The page as a string. All texts are escaped.

    Args:
        title: heading of the page.
        metrics: the result of `ranking_metrics`.
        topk, positives, filters: its arguments.
        texts: of queries and labels.
        label_counts: training queries per label, `[L]`.
        settings: every choice that the metrics depend on; shown as a table.
        intervals, comparison: results of `bootstrap_intervals` and `paired_test`, if there are any.
        baselines: name -> metrics of other systems.
        confidence: the result of `measure_confidence`, if there is one.
        sample_size, seed: number of queries to show, and the seed that chooses them.
    """
    ks = sorted({int(name.split("@")[1]) for name in metrics if "@" in name})
    depth = max(ks)
    hits = find_hits(topk, positives, depth, filters)
    counts = np.asarray(label_counts)
    deciles = by_label_frequency(hits, counts, depth)
    template = Environment(autoescape=True, undefined=StrictUndefined).from_string(
        Path(__file__).with_name("report.html.jinja").read_text(encoding="utf-8")
    )
    empty = int((hits.positives.counts == 0).sum())
    shown = [name for name in (f"P@{k}" for k in ks)] + [f"nDCG@{depth}", f"R@{depth}", "MRR"]
    return template.render(
        title=title,
        summary=f"{len(topk):,} queries ({empty:,} without positives), {len(counts):,} labels, "
        f"{len(hits.positives.indices):,} true pairs.",
        ks=ks,
        depth=depth,
        metric_rows=_metric_rows(metrics, ks, intervals or {}),
        has_intervals=bool(intervals),
        comparison=_comparison_rows(comparison or {}),
        comparison_name=comparison_name,
        baseline_names=shown,
        baselines=[(name, [_percent(values.get(m)) for m in shown]) for name, values in (baselines or {}).items()],
        confidence=confidence_section(confidence),
        plots=draw_plots(hits, topk, deciles),
        frequency=[*by_label_frequency(hits, counts, depth, "head"), *deciles],
        frequent=FREQUENT,
        rare=RARE,
        by_positives=by_num_positives(hits, ks),
        positives_names=shown,
        worst=_worst_labels(hits, texts.labels, counts),
        sample=_sample(hits, topk, texts, counts, sample_size, seed),
        settings=[(name, str(value)) for name, value in settings.items()],
        script=SCRIPT,
        script_hash=b64encode(sha256(SCRIPT.encode()).digest()).decode(),
    )


def write_report(page: str, path: str | Path) -> Path:
    """Write the page under a temporary name, then rename."""
    path = Path(path)
    with replacing(path) as temporary:
        temporary.write_text(page, encoding="utf-8", errors="xmlcharrefreplace")
    return path


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.2f}"


def _metric_rows(
    metrics: Mapping[str, float], ks: Sequence[int], intervals: Mapping[str, Interval]
) -> list[tuple[str, list[dict[str, str]]]]:
    def cell(name: str) -> dict[str, str]:
        bounds = intervals.get(name)
        interval = f"[{100 * bounds.low:.1f}, {100 * bounds.high:.1f}]" if bounds else ""
        return {"value": _percent(metrics.get(name)), "interval": interval}

    names = list(dict.fromkeys(name.split("@")[0] for name in metrics))
    return [
        (name, [cell(f"{name}@{k}") for k in ks] if f"{name}@{ks[0]}" in metrics else [cell(name)]) for name in names
    ]


def _comparison_rows(comparison: Mapping[str, Comparison]) -> list[dict[str, str]]:
    return [
        {
            "name": name,
            "a": _percent(row.a),
            "b": _percent(row.b),
            "difference": f"{100 * row.difference:+.2f}",
            "interval": f"{100 * row.low:+.2f} to {100 * row.high:+.2f}",
            "p": f"{row.p_value:.4f}",
            "sign": "high" if row.low > 0 else "low" if row.high < 0 else "",
        }
        for name, row in comparison.items()
    ]


def _worst_labels(hits: Hits, texts: Sequence[str], counts: np.ndarray, number: int = 25) -> list[dict[str, Any]]:
    true = np.bincount(hits.positives.indices, minlength=len(counts))
    predicted = np.bincount(hits.ids[hits.ids >= 0], minlength=len(counts))
    correct = np.bincount(hits.ids[hits.hit], minlength=len(counts))
    missed = true - correct
    return [
        {
            "text": _short(texts[int(label)]),
            "count": int(counts[label]),
            "true": int(true[label]),
            "missed": int(missed[label]),
            "wrong": int(predicted[label] - correct[label]),
            "recall": correct[label] / true[label],
        }
        for label in np.lexsort((np.arange(len(missed)), -missed))[:number]
        if missed[label]
    ]


def _sample(hits: Hits, topk: TopK, texts: Texts, counts: np.ndarray, size: int, seed: int) -> list[dict[str, Any]]:
    rows = np.random.default_rng(seed).permutation(len(topk))[:size]
    given = TopK(topk.ids[rows], topk.scores[rows]).sorted()
    queries = []
    for row, ids, scores in zip(rows.tolist(), given.ids, given.scores, strict=True):
        score_of = dict(zip(ids[::-1].tolist(), scores[::-1].tolist(), strict=True))  # the best of a repeated label
        ranked = [(i, h) for i, h in zip(hits.ids[row].tolist(), hits.hit[row].tolist(), strict=True) if i >= 0]
        missed = sorted(set(hits.positives.row(row).tolist()) - {i for i, _ in ranked})
        right = [h for _, h in ranked]
        queries.append(
            {
                "uid": texts.uids[row],
                "text": _short(texts.queries[row], QUERY_LENGTH),
                "kind": "none" if not any(right) else "first" if right[0] else "some",
                "predicted": [
                    {
                        "text": _short(texts.labels[i]),
                        "right": h,
                        "score": f"{score_of[i]:.3f}",
                        "count": f"{counts[i]:,}",
                    }
                    for i, h in ranked
                ],
                "missed": [{"text": _short(texts.labels[i]), "count": f"{counts[i]:,}"} for i in missed],
            }
        )
    return queries


def _short(text: str, length: int = LABEL_LENGTH) -> str:
    return text if len(text) <= length else text[:length] + " …"


def confidence_section(measured: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The result of `measure_confidence` for the page: a plot and two tables of strings."""
    if measured is None:
        return None
    errors = measured["calibration"]
    alt = f"Reliability of the first {RELIABLE} predictions: share right by score, before and after calibration"
    return {
        "plot": {"alt": alt, "svg": svg(draw_reliability, measured["reliability"])},
        "errors": [(key, f"{errors['before'][key]:.4f}", f"{errors['after'][key]:.4f}") for key in errors["before"]],
        "sets": [
            {
                "name": method,
                "promise": row["promise"],
                "level": f"{100 * row['level']:g}",
                "error": row.get("error"),
                "share": f"{100 * row.get('share_covered', 0):.1f}",
                "all": f"{100 * row.get('all_covered', 0):.1f}",
                "mean": f"{row.get('mean_size', 0):.1f}",
                "median": f"{row.get('median_size', 0):.0f}",
            }
            for method, row in measured["sets"].items()
        ],
    }


def draw_reliability(axes: Axes, tables: Mapping[str, Sequence[Mapping[str, float]]]) -> None:
    axes.plot([0, 1], [0, 1], color="#9aa3af", linestyle="--", linewidth=1)
    for name, colour in (("before", "#e0a030"), ("after", OTHER)):
        rows = tables[name]
        axes.plot(
            [row["mean_score"] for row in rows],
            [row["share_right"] for row in rows],
            marker="o",
            color=colour,
            label=f"{name} calibration",
        )
    axes.set(xlabel="mean score or probability of the bin", ylabel="share right", ylim=(0, 1))
    axes.legend(frameon=False)


def draw_plots(hits: Hits, topk: TopK, deciles: Sequence[LabelGroup]) -> list[dict[str, str]]:
    """Precision by label frequency, coverage, score distribution and calibration: `alt` and base64 `svg` of each."""
    depth = hits.ids.shape[1]
    scores, right = scored_predictions(hits, topk)
    frequency = f"Precision and recall of the first {depth} by label frequency, a tenth of the labels per step"
    coverage = "Share of the true labels that are predicted correctly at least once, by cut-off"
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
