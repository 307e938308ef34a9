"""Measuring a fitted confidence on a split: calibration errors, and coverage and size of the conformal sets."""

from __future__ import annotations

from typing import Any

import numpy as np

from hf_xmc.metrics import calibration_metrics, drop_pairs, find_hits, reliability
from hf_xmc.metrics.calibration import scored_predictions
from hf_xmc.retrieval.confidence import SET_METHODS, Confidence
from hf_xmc.types import Positives, TopK

KS = (1, 5)
PROMISES = {
    "fnr": "share of the true labels in the set, on average",
    "all": "queries whose true labels are all in the set",
    "frequency": "share of the true labels in the set, for head, torso and tail each",
    "powerset": "queries whose true label set is one of the plausible ones; the size is that of their union",
}


def measure_confidence(
    topk: TopK, positives: Positives, confidence: Confidence, filters: Positives | None = None
) -> dict[str, Any]:
    """Calibration errors before and after, reliability tables, and coverage and size of the conformal sets.

    Args:
        topk: predictions as deep as the calibration saw (`confidence.depth`).
        positives, filters: the truth, and pairs that are removed from the predictions.

    Returns:
        `num_queries`; `calibration`: `before` and `after`, each with `ECE@1`, `ECE@5`, ...; `reliability`: the same
        two as tables of the first five predictions; `sets`: method -> `level`, `share_covered` (mean share of true
        labels in the set), `all_covered` (share of queries with all of them in it; for the powerset, whose true set is
        plausible), `mean_size`, `median_size`, or an `error`. Queries without positives are covered, by any set.
    """
    topk = drop_pairs(topk, filters).sorted()
    first = TopK(topk.ids[:, : max(KS)], topk.scores[:, : max(KS)])
    systems = {"before": first, "after": TopK(first.ids, confidence.probabilities(first))}
    hits = find_hits(first, positives, max(KS))
    tables = {name: reliability(*scored_predictions(hits, given)) for name, given in systems.items()}
    return {
        "num_queries": len(topk),
        "calibration": {name: calibration_metrics(given, positives, KS) for name, given in systems.items()},
        "reliability": tables,
        "sets": {method: measure_sets(topk, positives, confidence, method) for method in SET_METHODS},
    }


def measure_sets(topk: TopK, positives: Positives, confidence: Confidence, method: str) -> dict[str, Any]:
    """Coverage and size of one kind of set at the fitted level."""
    about: dict[str, Any] = {"level": confidence.level, "promise": PROMISES[method]}
    try:
        sets = confidence.sets(topk, method)
    except ValueError as error:  # the level cannot be promised; the message says why
        return {**about, "error": str(error)}
    share, covered = coverage(sets, positives)
    if method == "powerset":  # the promise is about whole sets, and of an open region the union is no more than a part
        covered = float(confidence.powerset.covers(topk, positives, confidence.level).mean())
        about["share_open"] = float(confidence.powerset.is_open(topk, confidence.level).mean())
    return {
        **about,
        "share_covered": share,
        "all_covered": covered,
        "mean_size": float(sets.counts.mean()) if len(sets) else 0.0,
        "median_size": float(np.median(sets.counts)) if len(sets) else 0.0,
    }


def coverage(sets: Positives, positives: Positives) -> tuple[float, float]:
    """Mean share of true labels that are in the set, and share of queries with all of them in it.

    >>> coverage(Positives.from_lists([[1, 2], [3], []]), Positives.from_lists([[1, 5], [3], []]))
    (0.8333333333333334, 0.6666666666666666)
    """
    truth = positives.numpy()
    stride = max(int(truth.indices.max(initial=-1)), int(sets.indices.max(initial=-1))) + 1
    rows = np.repeat(np.arange(len(truth)), truth.counts)
    wanted, held = rows * stride + truth.indices, np.repeat(np.arange(len(sets)), sets.counts) * stride + sets.indices
    place = np.searchsorted(held, wanted)  # both rise
    inside = np.append(held, -1)[place] == wanted
    found = np.bincount(rows[inside], minlength=len(truth))
    share = np.where(truth.counts > 0, found / np.maximum(truth.counts, 1), 1.0)
    return float(share.mean()), float((found == truth.counts).mean())
