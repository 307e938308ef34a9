"""`report.html`: one self-contained page about a ranking, made from arrays and texts alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from hf_xmc.metrics.breakdown import FREQUENT, RARE, LabelGroup, by_label_frequency, by_num_positives
from hf_xmc.metrics.calibration import reliability, scored_predictions
from hf_xmc.metrics.hits import Hits, find_hits
from hf_xmc.metrics.meaning import meaning
from hf_xmc.metrics.per_query import ratio
from hf_xmc.metrics.significance import Comparison, Interval
from hf_xmc.pages.charts import Axis, Chart, bars, lines
from hf_xmc.pages.page import render
from hf_xmc.types import Array, Positives, TopK

TEMPLATE = Path(__file__).with_name("report.html.jinja")
RELIABLE = 5  # predictions of each query that the reliability plot shows
QUERY_LENGTH, LABEL_LENGTH, ROW_LENGTH = 600, 160, 70  # characters that are shown
FIRST = ("P", "nDCG", "R", "PSP", "MRR")  # measures that everybody reads; others open
PAGE = 20  # queries in a group, where no script turns pages
SCORE_BINS = 20
SAMPLE = 200  # queries that are shown
FREQUENCY_COLUMNS = (
    *("labels", "number", "training texts", "true pairs", "predicted", "correct"),
    *("precision", "recall", "coverage"),
)


@dataclass(frozen=True)
class Texts:
    """The texts on the page.

    Args:
        queries: text of each query, `[N]`; anything that can be indexed by a row number.
        labels: text of each label, `[L]`.
        uids: uid of each query, `[N]`.
        found_by: (row of a query, label id) -> the passage and the text of the label by which it was found, for those
            that are known.
    """

    queries: Sequence[str]
    labels: Sequence[str]
    uids: Sequence[str]
    found_by: Mapping[tuple[int, int], str] = field(default_factory=dict)


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
    name: str = "this system",
    sample_size: int = SAMPLE,
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
        name: what to call the system beside the baselines.
        sample_size, seed: number of queries to show, and the seed that chooses them.
    """
    ks = sorted({int(name.split("@")[1]) for name in metrics if "@" in name})
    depth = max(ks)
    hits = find_hits(topk, positives, depth, filters)
    counts = np.asarray(label_counts)
    deciles = by_label_frequency(hits, counts, depth)
    empty = int((hits.positives.counts == 0).sum())
    rows = _metric_rows(metrics, ks, intervals or {})
    shown = [f"P@{k}" for k in ks] + [f"nDCG@{depth}", f"R@{depth}", "MRR"]
    return render(
        TEMPLATE,
        Path(__file__).with_name("report.js").read_text(encoding="utf-8"),
        title=title,
        summary=f"{len(topk):,} queries ({empty:,} without positives), {len(counts):,} labels, "
        f"{len(hits.positives.indices):,} true pairs.",
        ks=ks,
        depth=depth,
        metric_rows=[row for row in rows if row[0] in FIRST],
        more_rows=[row for row in rows if row[0] not in FIRST],
        has_intervals=bool(intervals),
        comparison=_comparison_rows(comparison or {}),
        comparison_name=comparison_name,
        baseline_names=shown,
        systems=_system_rows({name: metrics, **(baselines or {})}, shown),
        confidence=confidence_section(confidence),
        charts=draw_charts(hits, topk, deciles),
        frequency_columns=FREQUENCY_COLUMNS,
        bands=[_frequency_row(group) for group in by_label_frequency(hits, counts, depth, "head")],
        deciles=[_frequency_row(group) for group in deciles],
        frequent=FREQUENT,
        rare=RARE,
        by_positives=[
            (row["positives"], f"{row['num_queries']:,}", *(_percent(float(row[metric])) for metric in shown))
            for row in by_num_positives(hits, ks)
        ],
        positives_names=shown,
        worst=_worst_labels(hits, texts.labels, counts),
        sample=_sample(hits, topk, texts, counts, sample_size, seed),
        page=PAGE,
        settings=[(key, str(value)) for key, value in settings.items()],
    )


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.2f}"


def _metric_rows(
    metrics: Mapping[str, float], ks: Sequence[int], intervals: Mapping[str, Interval]
) -> list[tuple[str, str, list[dict[str, str]]]]:
    def cell(name: str) -> dict[str, str]:
        bounds = intervals.get(name)
        interval = f"{100 * bounds.low:.1f}-{100 * bounds.high:.1f}" if bounds else ""
        return {"value": _percent(metrics.get(name)), "interval": interval}

    names = list(dict.fromkeys(name.split("@")[0] for name in metrics))
    return [
        (name, meaning(name), [cell(f"{name}@{k}") for k in ks] if f"{name}@{ks[0]}" in metrics else [cell(name)])
        for name in names
    ]


def _system_rows(
    systems: Mapping[str, Mapping[str, float]], shown: Sequence[str]
) -> list[tuple[str, list[dict[str, Any]]]]:
    """Metrics of each system, with a mark at the best one of each metric."""
    best = {metric: max(values.get(metric, 0.0) for values in systems.values()) for metric in shown}
    return [
        (
            name,
            [
                {"value": _percent(values.get(metric)), "best": values.get(metric, -1.0) == best[metric]}
                for metric in shown
            ],
        )
        for name, values in systems.items()
    ]


def _frequency_row(group: LabelGroup) -> tuple[str, ...]:
    counts = (group["num_labels"], group["true"], group["predicted"], group["correct"])
    number, *pairs = (f"{count:,}" for count in counts)
    shares = (f"{100 * share:.1f}" for share in (group["precision"], group["recall"], group["coverage"]))
    return (group["group"], number, _range(group), *pairs, *shares)


def _range(group: LabelGroup) -> str:
    """The training texts of the labels of a group."""
    low, high = group["min_count"], group["max_count"]
    return f"{low:,}" if low == high else f"{low:,}-{high:,}"


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
            "text": _short(texts[int(label)], ROW_LENGTH),
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
    rows = sampled(len(topk), size, seed)
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
                "verdict": _verdict(right, len(missed)),
                "predicted": [
                    {
                        "text": _short(texts.labels[i]),
                        "right": h,
                        "score": f"{score_of[i]:.3f}",
                        "count": f"{counts[i]:,}",
                        "found_by": texts.found_by.get((row, i), ""),
                    }
                    for i, h in ranked
                ],
                "missed": [{"text": _short(texts.labels[i]), "count": f"{counts[i]:,}"} for i in missed],
            }
        )
    return queries


def sampled(num_queries: int, size: int = SAMPLE, seed: int = 0) -> np.ndarray:
    """The rows of the queries that the page shows, in their order."""
    return np.random.default_rng(seed).permutation(num_queries)[:size]


def _verdict(right: Sequence[bool], missed: int) -> str:
    """How good the predictions of a query are, in a few words.

    >>> _verdict([True, False, True], 1), _verdict([False], 0)
    ('✓ first label right, 2 of 3 right, 1 missed', '✗ none right')
    """
    found = sum(right)
    if not found:
        said = "✗ none right"
    else:
        said = f"{'✓ first label right' if right[0] else '✗ first label wrong'}, {found} of {len(right)} right"
    return f"{said}, {missed} missed" if missed else said


def _short(text: str, length: int = LABEL_LENGTH) -> str:
    return text if len(text) <= length else text[:length] + " …"


def confidence_section(measured: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The result of `measure_confidence` for the page: a chart and two tables of strings."""
    if measured is None:
        return None
    errors = measured["calibration"]
    ks = list(dict.fromkeys(key.split("@")[1] for key in errors["before"]))
    return {
        "chart": reliability_chart(measured["reliability"]),
        "columns": [f"@{k} {when}" for k in ks for when in ("scores", "probabilities")],
        "errors": [
            (
                name,
                meaning(name),
                [_percent(errors[when][f"{name}@{k}"]) for k in ks for when in ("before", "after")],
            )
            for name in dict.fromkeys(key.split("@")[0] for key in errors["before"])
        ],
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


def reliability_chart(tables: Mapping[str, Sequence[Mapping[str, float]]]) -> Chart:
    """Share of right predictions by score before calibration, and by probability after it."""
    title = f"Reliability of the first {RELIABLE} predictions: share right by score, before and after calibration"
    series = [(f"{name} calibration", _reliability_points(tables[name])) for name in ("after", "before")]
    scores = [score for _, points in series for score, _ in points]
    x = Axis("mean score or probability of the bin", min([0.0, *scores]), max([1.0, *scores]), percent=True)
    return lines(title, x, Axis("share right", percent=True), series, diagonal=True)


def _reliability_points(table: Iterable[Mapping[str, Any]]) -> list[tuple[float, float]]:
    return [(row["mean_score"], row["share_right"]) for row in table]


def draw_charts(hits: Hits, topk: TopK, deciles: Sequence[LabelGroup]) -> list[Chart]:
    """Precision by label frequency, coverage, distribution of scores, and share right by score."""
    scores, right = scored_predictions(hits, topk)
    return [
        frequency_bars(deciles, hits.ids.shape[1]),
        coverage_line(hits),
        score_bars(scores, right, hits.ids.shape[1]),
        calibration_line(scores, right),
    ]


def frequency_bars(deciles: Sequence[LabelGroup], depth: int) -> Chart:
    """Precision and recall by label frequency. Tenths of the labels that were seen equally often are one group."""
    true, predicted, correct = Counter[str](), Counter[str](), Counter[str]()
    for group in deciles:
        name = _range(group)
        true[name] += group["true"]
        predicted[name] += group["predicted"]
        correct[name] += group["correct"]
    shares = [
        ("precision", [ratio(correct[name], predicted[name]) for name in true]),
        ("recall", [ratio(correct[name], true[name]) for name in true]),
    ]
    title = f"Precision and recall of the first {depth} by label frequency, about a tenth of the labels per step"
    return bars(title, list(true), "training texts of the label", Axis("share", percent=True), shares)


def coverage_line(hits: Hits) -> Chart:
    """The share of the true labels that are found for at least one query, by cut-off."""
    true = max(len(np.unique(hits.positives.indices)), 1)
    depth = hits.ids.shape[1]
    found = [len(np.unique(hits.ids[:, :k][hits.hit[:, :k]])) / true for k in range(1, depth + 1)]
    title = "Share of the true labels that are predicted correctly at least once, by cut-off"
    points = [(float(k), share) for k, share in enumerate(found, 1)]
    return lines(title, Axis("k", 0, depth), Axis("coverage", percent=True), [("", points)])


def score_bars(scores: np.ndarray, right: np.ndarray, depth: int) -> Chart:
    """How many predictions have which score, right and wrong ones."""
    title = f"Scores of right and wrong predictions among the first {depth}"
    edges = np.histogram_bin_edges(scores, SCORE_BINS) if len(scores) else np.linspace(0, 1, SCORE_BINS + 1)
    counts = {
        name: np.histogram(scores[rows], edges)[0].tolist() for name, rows in (("right", right), ("wrong", ~right))
    }
    highest = max(max(its) for its in counts.values())
    names = [f"{edge:.2f}" for edge in edges[:-1]]
    return bars(title, names, "score, from", Axis("predictions", 0, max(highest, 1)), list(counts.items()))


def calibration_line(scores: np.ndarray, right: np.ndarray) -> Chart:
    """The share of right predictions by score. Where scores may be probabilities, the diagonal is drawn as well."""
    probable = bool(len(scores)) and scores.min() >= 0 and scores.max() <= 1
    points = _reliability_points(reliability(scores, right, equal_count=True)) if len(scores) else []
    low, high = (0.0, 1.0) if probable or not points else (points[0][0], points[-1][0])
    title = "Share of right predictions by score, in bins with equally many predictions"
    x = Axis("mean score of the bin", low, high)
    return lines(title, x, Axis("share right", percent=True), [("", points)], diagonal=probable)
