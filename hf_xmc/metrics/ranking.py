"""The ranking metrics of extreme multi-label classification, with every choice documented."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from numbers import Integral

import numpy as np

from hf_xmc.errors import DataError, SettingsError
from hf_xmc.metrics.hits import Hits, find_hits
from hf_xmc.metrics.per_query import per_query_metrics, ratio
from hf_xmc.types import Array, Positives, TopK


def ranking_metrics(
    topk: TopK,
    positives: Positives,
    ks: Sequence[int] = (1, 3, 5),
    inverse_propensity: Array | None = None,
    filters: Positives | None = None,
) -> dict[str, float]:
    """Precision, nDCG, recall, R-precision, their propensity-scored forms, coverage, F1 and MRR.

    Published implementations differ in these choices, which are made as follows:

    - Rows are re-sorted by decreasing score; of equal scores the lower id comes first. Id -1 is padding.
    - If a query has fewer than k predictions, the missing ranks are misses. A label that is predicted twice counts
      once, at its better rank; the other rank is a miss.
    - A query without positives adds 0 to every mean and counts in it.
    - `filters` removes pairs from the predictions before ranking; the truth is not changed.
    - PSP, PSnDCG and PSR are ratios of sums over queries, not means of ratios (as in pyxclib).
    - `macro_f1@k` is the mean over labels that are true or predicted at least once; `coverage@k` is the share of the
      true labels that are hit at least once; MRR uses all K columns.

    Args:
        topk: predictions, ids and scores `[N, K]`.
        positives: the truth, N rows. Relevance weights are ignored.
        ks: cut-offs, which may exceed K.
        inverse_propensity: one weight per label, `[L]`; needed for PSP, PSnDCG and PSR.
        filters: (query, label) pairs that are excluded from the predictions, N rows.

    Returns:
        Fractions under the keys `P@k nDCG@k R@k RP@k PSP@k PSnDCG@k PSR@k coverage@k macro_f1@k micro_f1@k MRR`.

    Raises:
        ValueError: the arrays do not fit together, a score is NaN, or a k is below 1. The message names the row.

    >>> topk = TopK(np.array([[2, 0, 1], [1, 2, -1]]), np.array([[0.9, 0.5, 0.5], [0.8, 0.1, 0.0]]))
    >>> metrics = ranking_metrics(topk, Positives.from_lists([[0, 2], [0]]), ks=(1, 2))
    >>> metrics["P@1"], metrics["P@2"], metrics["R@2"], metrics["coverage@2"], metrics["MRR"]
    (0.5, 0.5, 0.5, 1.0, 0.5)
    """
    ks = checked_ks(ks)
    hits = find_hits(topk, positives, max(ks), filters)
    weights = None if inverse_propensity is None else checked_weights(inverse_propensity, hits.positives)
    metrics = {name: pair.value for name, pair in per_query_metrics(hits, ks, weights).items()}
    metrics |= _label_metrics(hits, ks)
    return {name: metrics[name] for name in metric_names(ks, weights is not None)}


def metric_names(ks: Sequence[int], propensity: bool = True) -> list[str]:
    """The keys of `ranking_metrics`, in the order of its result.

    >>> metric_names((1,), propensity=False)
    ['P@1', 'nDCG@1', 'R@1', 'RP@1', 'coverage@1', 'macro_f1@1', 'micro_f1@1', 'MRR']
    """
    scored = ["PSP", "PSnDCG", "PSR"] if propensity else []
    names = ["P", "nDCG", "R", "RP", *scored, "coverage", "macro_f1", "micro_f1"]
    return [f"{name}@{k}" for name in names for k in ks] + ["MRR"]


def checked_ks(ks: Sequence[int]) -> tuple[int, ...]:
    """The cut-offs as plain integers.

    Raises:
        ValueError: there are none, or one is below 1.
    """
    found = list(ks) if isinstance(ks, Iterable) and not isinstance(ks, str) else [ks]
    if not found or not all(isinstance(k, Integral) and k >= 1 for k in found) or isinstance(ks, int):
        raise SettingsError(f"Cut-offs must be a list of integers from 1 on, found ks={ks!r:.60}.")
    return tuple(int(k) for k in found)


def checked_weights(inverse_propensity: Array, positives: Positives) -> np.ndarray:
    """The weights as float64 `[L]`.

    Raises:
        ValueError: a positive label has no weight, or a weight is no finite number from 0 on.
    """
    tensor = inverse_propensity
    weights = np.asarray(tensor.cpu() if hasattr(tensor, "cpu") else tensor, dtype=np.float64)
    if len(positives.indices) and positives.indices.max() >= len(weights):
        raise DataError(
            f"There are {len(weights):,} inverse propensities, but positives refer to label id "
            f"{positives.indices.max():,}; give one for each row of the label table."
        )
    if not (np.isfinite(weights) & (weights >= 0)).all():
        raise DataError(
            f"An inverse propensity is {weights[~(np.isfinite(weights) & (weights >= 0))][0]}; expected 1 or more."
        )
    return weights


def _label_metrics(hits: Hits, ks: Sequence[int]) -> dict[str, float]:
    """Coverage and macro F1, which are sums over labels rather than over queries."""
    truth = hits.positives.indices
    num_labels = 1 + max(int(truth.max(initial=-1)), int(hits.ids.max(initial=-1)))
    named = np.bincount(truth, minlength=num_labels)  # how often true, plus how often predicted: 2 tp + fp + fn
    num_true_labels = int(np.count_nonzero(named))
    correct, done, result = np.zeros_like(named), 0, {}
    for k in sorted(set(ks)):
        ids, hit = hits.ids[:, done:k], hits.hit[:, done:k]
        np.add.at(named, ids[ids >= 0], 1)
        np.add.at(correct, ids[hit], 1)
        done = k
        found = np.flatnonzero(correct > 0)
        result[f"macro_f1@{k}"] = ratio(
            float((2.0 * correct[found] / named[found]).sum()), int(np.count_nonzero(named))
        )
        result[f"coverage@{k}"] = ratio(len(found), num_true_labels)
    return result
