"""Propensity: the chance that a true label was annotated. Metrics weight hits by its inverse."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hf_xmc.errors import DataError
from hf_xmc.types import Array

# Constants of the KDD 2016 paper, by the kind of data set.
WIKIPEDIA_PROPENSITY = {"a": 0.5, "b": 0.4}
AMAZON_PROPENSITY = {"a": 0.6, "b": 2.6}
DEFAULT_PROPENSITY = {"a": 0.55, "b": 1.5}


def check_constants(constants: Mapping[str, Any], path: str | Path | None = None) -> None:
    """Refuse constants for which a propensity is no probability.

    Raises:
        DataError: a constant that is no finite number, `a` below 0, or `b` not above 0.

    >>> check_constants({"a": 0.55, "b": -1})
    Traceback (most recent call last):
    hf_xmc.errors.DataError: the propensity constant b is -1; expected a finite number, a from 0 on and b above 0
    """
    for name, value in constants.items():
        number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if not number or value < 0 or (name == "b" and value == 0):
            hint = "expected a finite number, a from 0 on and b above 0"
            raise DataError(f"the propensity constant {name} is {value!r:.40}", path, hint=hint)


def inverse_propensity(
    label_counts: Array, num_queries: int, a: float = DEFAULT_PROPENSITY["a"], b: float = DEFAULT_PROPENSITY["b"]
) -> np.ndarray:
    """The inverse propensity of each label: `1 + C (n_l + b)^-a` with `C = (ln N - 1)(b + 1)^a`, at least 1.

    The constants are part of a data set's description and are never guessed from its name. Source: Jain, Prabhu and
    Varma, "Extreme Multi-label Loss Functions for Recommendation, Tagging, Ranking & Other Missing Label
    Applications", KDD 2016.

    Args:
        label_counts: number of training queries that have each label, `[L]`, as `Positives.label_counts` counts them.
        num_queries: number of training queries N, including those without a label.
        a, b: the constants of the data set.

    Returns:
        The weight of a hit on each label, float64 `[L]`. With one or two queries, for which C is negative, it is 1.

    Raises:
        DataError: no training queries, a count that is negative, no number or larger than theirs, or constants for
            which there is no propensity.

    >>> inverse_propensity(np.array([0, 10, 1000]), num_queries=10_000).round(2).tolist()
    [11.87, 4.55, 1.3]
    """
    counts = np.asarray(label_counts.cpu() if hasattr(label_counts, "cpu") else label_counts)
    if not (math.isfinite(num_queries) and num_queries >= 1):
        raise DataError(f"Propensities need at least one training query, found num_queries={num_queries}.")
    check_constants({"a": a, "b": b})
    if counts.ndim != 1 or counts.dtype.kind not in "iuf" or (counts.dtype.kind == "f" and np.isnan(counts).any()):
        raise DataError(
            f"Label counts are {counts.dtype} of shape {list(counts.shape)}; expected one number per label."
        )
    if len(counts) and (counts.min() < 0 or counts.max() > num_queries):
        raise DataError(
            f"Label counts run from {counts.min():,} to {counts.max():,}, but there are {num_queries:,} training "
            "queries; count each label once per query, on the training split that num_queries belongs to."
        )
    return 1.0 + max(math.log(num_queries) - 1.0, 0.0) * (b + 1.0) ** a * (counts + b) ** -a
