"""Each metric as two numbers a query, so that the metric is the sum of the one over the sum of the other.

Means, the ratios of sums of the propensity-scored metrics and micro F1 all have this form. It is what makes results by
group of queries, bootstrap intervals and paired tests one piece of code for all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from hf_xmc.metrics.hits import Hits
from hf_xmc.types import Positives


class PerQuery(NamedTuple):
    """Numerator and denominator of a metric, float64 `[N]` each; `value` is the ratio of their sums."""

    numerator: np.ndarray
    denominator: np.ndarray

    @property
    def value(self) -> float:
        return ratio(float(self.numerator.sum()), float(self.denominator.sum()))


def per_query_metrics(
    hits: Hits, ks: Sequence[int], inverse_propensity: np.ndarray | None = None
) -> dict[str, PerQuery]:
    """Numerators and denominators of all metrics that are sums over queries (all but coverage and macro F1).

    With h(r) = 1 for a hit at rank r, d(r) = 1 / log2(r + 1), P the positives of a query, q the inverse propensities,
    and q*(r) the r-th largest q in P: P@k = h / k; R@k = h / |P|; RP@k = h / min(k, |P|);
    nDCG@k = sum h d / sum of d up to min(k, |P|); PSP, PSnDCG and PSR weigh hits by q and divide by the same sum
    over q*. A query without positives adds 0 and is counted in the means.
    """
    depth = hits.hit.shape[1]
    discount = 1.0 / np.log2(np.arange(2, depth + 2))  # [depth]
    best_dcg = np.cumsum(discount)
    num_hits = hits.hit.cumsum(axis=1)  # [N, depth]
    num_predicted = (hits.ids >= 0).cumsum(axis=1)
    dcg = (hits.hit * discount).cumsum(axis=1)
    counts = hits.positives.counts
    at_least_one = np.maximum(counts, 1)
    ones = np.ones(len(counts))
    result = {"MRR": PerQuery(np.where(hits.first > 0, 1.0 / np.maximum(hits.first, 1), 0.0), ones)}
    if inverse_propensity is not None:
        weights = inverse_propensity[np.where(hits.hit, hits.ids, 0)] * hits.hit if len(inverse_propensity) else dcg
        best = _largest(hits.positives, inverse_propensity, depth)  # [N, depth], padded with 0
        gained, best_gain = weights.cumsum(axis=1), best.cumsum(axis=1)
        gained_dcg, best_gain_dcg = (weights * discount).cumsum(axis=1), (best * discount).cumsum(axis=1)
    for k in ks:
        last = k - 1
        within = np.clip(counts, 1, k)  # min(k, |P|); 1 for an empty query, whose numerator is 0
        ideal = best_dcg[within - 1]
        result[f"P@{k}"] = PerQuery(num_hits[:, last] / k, ones)
        result[f"nDCG@{k}"] = PerQuery(dcg[:, last] / ideal, ones)
        result[f"R@{k}"] = PerQuery(num_hits[:, last] / at_least_one, ones)
        result[f"RP@{k}"] = PerQuery(num_hits[:, last] / within, ones)
        result[f"micro_f1@{k}"] = PerQuery(2.0 * num_hits[:, last], (num_predicted[:, last] + counts).astype(float))
        if inverse_propensity is not None:
            result[f"PSP@{k}"] = PerQuery(gained[:, last] / k, best_gain[:, last] / k)
            result[f"PSnDCG@{k}"] = PerQuery(gained_dcg[:, last] / ideal, best_gain_dcg[:, last] / ideal)
            result[f"PSR@{k}"] = PerQuery(gained[:, last] / at_least_one, best_gain[:, last] / at_least_one)
    return result


def ratio(numerator: float, denominator: float) -> float:
    """0 / 0 is 0: nothing to find, nothing found."""
    return numerator / denominator if denominator else 0.0


def _largest(positives: Positives, values: np.ndarray, depth: int) -> np.ndarray:
    """The `depth` largest values among the positives of each query, falling, `[N, depth]` padded with 0."""
    row = np.repeat(np.arange(len(positives)), positives.counts)
    value = values[positives.indices]
    value = value[np.lexsort((-value, row))]
    rank = np.arange(len(row)) - positives.indptr[:-1][row]
    largest = np.zeros((len(positives), depth))
    kept = rank < depth
    largest[row[kept], rank[kept]] = value[kept]
    return largest
