"""How likely a true label was annotated at all, and the weight that makes up for it."""

from __future__ import annotations

import math

import numpy as np

from hf_xmc.types import Array


def inverse_propensity(label_counts: Array, num_queries: int, a: float = 0.55, b: float = 1.5) -> np.ndarray:
    """The inverse propensity of each label: `1 + C (n_l + b)^-a` with `C = (ln N - 1)(b + 1)^a`.

    The constants belong to the data set and are never guessed: (a, b) is (0.5, 0.4) for Wikipedia sets, (0.6, 2.6)
    for Amazon sets and (0.55, 1.5) otherwise. Source: Jain, Prabhu and Varma, "Extreme Multi-label Loss Functions for
    Recommendation, Tagging, Ranking & Other Missing Label Applications", KDD 2016.

    Args:
        label_counts: how many training queries have each label, `[L]`; `Positives.label_counts` gives it.
        num_queries: training queries N, those without a label included.
        a, b: the constants of the data set.

    Returns:
        float64 `[L]`; multiply a hit by it.

    Raises:
        ValueError: no training queries, or a count below 0 or above their number.

    >>> inverse_propensity(np.array([0, 10, 1000]), num_queries=10_000).round(2).tolist()
    [11.87, 4.55, 1.3]
    """
    counts = np.asarray(label_counts.cpu() if hasattr(label_counts, "cpu") else label_counts)
    if num_queries < 1:
        raise ValueError(f"Propensities need at least one training query, found num_queries={num_queries}.")
    if len(counts) and (counts.min() < 0 or counts.max() > num_queries):
        raise ValueError(
            f"Label counts run from {counts.min():,} to {counts.max():,}, but there are {num_queries:,} training "
            "queries; count each label once a query, on the training split that num_queries belongs to."
        )
    return 1.0 + (math.log(num_queries) - 1.0) * (b + 1.0) ** a * (counts + b) ** -a
