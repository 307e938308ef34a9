"""Each metric as a numerator and a denominator per query: the metric is the ratio of their sums.

Means, propensity-scored metrics (ratios of sums) and micro F1 all have this form, so one implementation of results
by group of queries, of bootstrap intervals and of paired tests works for all of them.
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
    over q*. A query without positives adds 0 and counts in the means.
    """
    cutoffs = np.asarray(ks)[:, None]
    rank = np.arange(1, hits.hit.shape[1] + 1)  # [depth]
    within = (rank <= cutoffs).astype(np.float64)  # [k, depth]: a product with it sums the first k
    discount = 1.0 / np.log2(rank + 1)
    hit = hits.hit.T.astype(np.float64)  # [depth, N]
    num_hits, dcg = within @ hit, within * discount @ hit  # [k, N] from here on
    counts = hits.positives.counts
    best = np.clip(counts, 1, cutoffs)  # min(k, |P|); 1 for an empty query, whose numerators are 0
    best_dcg = np.cumsum(discount)[best - 1]
    num_positives = np.maximum(counts, 1)
    means = {"P": num_hits / cutoffs, "nDCG": dcg / best_dcg, "R": num_hits / num_positives, "RP": num_hits / best}
    ones = np.ones(len(counts))
    result = {
        f"{name}@{k}": PerQuery(row, ones) for name, mean in means.items() for k, row in zip(ks, mean, strict=True)
    }
    ratios = {"micro_f1": (2 * num_hits, within @ (hits.ids >= 0).T.astype(np.float64) + counts)}
    if inverse_propensity is not None:
        gain, right = np.zeros(hits.hit.shape), np.flatnonzero(hits.hit)
        gain.ravel()[right] = inverse_propensity[hits.ids.ravel()[right]]
        best_gain = _largest(hits.positives, inverse_propensity, len(rank)).T  # [depth, N], padded with 0
        gained, gainable = within @ gain.T, within @ best_gain
        ratios["PSP"] = (gained / cutoffs, gainable / cutoffs)
        ratios["PSnDCG"] = (within * discount @ gain.T / best_dcg, within * discount @ best_gain / best_dcg)
        ratios["PSR"] = (gained / num_positives, gainable / num_positives)
    for name, (above, below) in ratios.items():
        result |= {f"{name}@{k}": PerQuery(*rows) for k, *rows in zip(ks, above, below, strict=True)}
    return result | {"MRR": PerQuery(np.where(hits.first > 0, 1.0 / np.maximum(hits.first, 1), 0.0), ones)}


def ratio(numerator: float, denominator: float) -> float:
    """The ratio of two numbers; 0 / 0 is 0, since there was nothing to find."""
    return numerator / denominator if denominator else 0.0


def _largest(positives: Positives, values: np.ndarray, depth: int) -> np.ndarray:
    """The `depth` largest values among the positives of each query, descending, `[N, depth]`, padded with 0."""
    largest = np.zeros((len(positives), depth))
    counts, values = positives.counts, values[positives.indices]
    for count in np.unique(counts[counts > 0]):  # rows of one length are a matrix, and sort as one
        rows = np.flatnonzero(counts == count)
        value = values[positives.indptr[rows][:, None] + np.arange(count)]  # [rows, count]
        kept = min(int(count), depth)
        largest[rows, :kept] = np.sort(value, axis=1)[:, : -kept - 1 : -1]
    return largest
