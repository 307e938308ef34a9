"""Measuring a fitted confidence on a split: calibration errors, and coverage and size of the conformal sets."""

from __future__ import annotations

from typing import Any

import numpy as np

from hf_xmc.metrics import calibration_metrics, drop_pairs, find_hits, reliability
from hf_xmc.metrics.calibration import scored_predictions
from hf_xmc.retrieval.confidence import SET_METHODS, Confidence
from hf_xmc.types import Positives, TopK

KS = (1, 5)
ADVISED_DEPTH = 50  # predictions per query that a threshold is chosen on
SMALL_SET = 20  # labels that a person can still look through
LEVELS = (0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65, 0.6, 0.55, 0.5)
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
        plausible), `mean_size`, `median_size`, or an `error`; for sets of more than 20 labels also `small_level`, the
        level at which they would have at most 20, and `small_size`. Queries without positives are covered, by any set.
        `threshold`: what the advised threshold gives (`at_threshold`), if one was fitted.
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
        **measured_threshold(topk, positives, confidence),
        "sets": {method: measure_sets(topk, positives, confidence, method) for method in SET_METHODS},
    }


def measured_threshold(topk: TopK, positives: Positives, confidence: Confidence) -> dict[str, dict[str, float]]:
    """The entry `threshold` of `measure_confidence`: what the threshold that was advised at the fit gives here."""
    advised = confidence.settings.get("advised")
    if not advised:
        return {}
    first = topk.first(ADVISED_DEPTH)
    given = at_threshold(first, positives, confidence.probabilities(first), advised["threshold"])
    return {"threshold": {**given, "k": advised["k"]}}


def advised_threshold(topk: TopK, positives: Positives, confidence: Confidence) -> dict[str, float]:
    """The probability threshold of the best F1 over all pairs, with what it gives: a number to begin with.

    Args:
        topk: predictions as deep as the calibration saw, of queries with positives `positives`.

    Returns:
        As `at_threshold`; empty where nothing was found.
    """
    first = topk.sorted().first(ADVISED_DEPTH)
    probabilities = confidence.probabilities(first)
    found = np.asarray(first.ids) >= 0
    hit = positives.numpy().contains(first) & found
    if not hit.any():
        return {}
    values = np.floor(100 * probabilities[found] + 1e-9) / 100  # a threshold with two decimals, as it is printed
    steps = np.unique(values)  # rising
    kept = np.cumsum(np.bincount(np.searchsorted(steps, values))[::-1])[::-1]
    right = np.cumsum(np.bincount(np.searchsorted(steps, values), hit[found])[::-1])[::-1]
    f1 = 2 * right / (kept + max(len(positives.indices), 1))
    best = int(f1.argmax())
    between = (steps[best] + (steps[best - 1] if best else 0.0)) / 2  # as far from both as can be
    return at_threshold(first, positives, probabilities, max(float(np.ceil(100 * between - 1e-9)) / 100, 0.01))


def at_threshold(topk: TopK, positives: Positives, probabilities: np.ndarray, threshold: float) -> dict[str, float]:
    """What a probability threshold gives: `threshold`, `labels` (a text), `precision` and `recall` over all pairs,
    `untagged` (share of texts without a label) and `k`, the labels that nearly every text has room for.

    >>> topk, truth = TopK(np.array([[4, 2], [1, 0]]), np.array([[0.9, 0.3], [0.8, 0.1]])), [[4], [0]]
    >>> at_threshold(topk, Positives.from_lists(truth), np.array([[0.9, 0.3], [0.8, 0.1]]), 0.5)
    {'threshold': 0.5, 'labels': 1.0, 'precision': 0.5, 'recall': 0.5, 'untagged': 0.0, 'k': 1}
    """
    keep = (np.asarray(topk.ids) >= 0) & (probabilities >= threshold)
    right = int((positives.numpy().contains(topk) & keep).sum())
    counts = keep.sum(axis=1)
    return {
        "threshold": threshold,
        "labels": float(counts.mean()),
        "precision": right / max(int(keep.sum()), 1),
        "recall": right / max(len(positives.indices), 1),
        "untagged": float((counts == 0).mean()),
        "k": int(np.quantile(counts, 0.99, method="higher")) if len(counts) else 0,
    }


def level_of_small_sets(
    topk: TopK, confidence: Confidence, method: str, most: float = SMALL_SET
) -> tuple[float, float] | None:
    """The highest level, below the fitted one, at which sets have at most `most` labels on average, and their mean
    size; None if there is none."""
    for level in LEVELS:
        if level >= confidence.level:
            continue
        try:
            sets = confidence.sets(topk, method, level)
        except ValueError:
            continue
        if len(sets) and (size := float(sets.counts.mean())) <= most:
            return level, size
    return None


def measure_sets(topk: TopK, positives: Positives, confidence: Confidence, method: str) -> dict[str, Any]:
    """Coverage and size of one kind of set at the fitted level."""
    about: dict[str, Any] = {"level": confidence.level, "promise": PROMISES[method]}
    try:
        sets = confidence.sets(topk, method)
    except ValueError as error:  # the level cannot be promised; the message says why
        return {**about, "error": str(error)}
    large = method in ("fnr", "all") and len(sets) > 0 and sets.counts.mean() > SMALL_SET
    if large and (small := level_of_small_sets(topk, confidence, method)):
        about["small_level"], about["small_size"] = small
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
