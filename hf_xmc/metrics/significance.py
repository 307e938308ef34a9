"""Confidence intervals of metrics, and tests of whether one ranking is better than another on the same queries.

Queries are resampled, and each resample is used for all metrics. (`scipy.stats.bootstrap` and `permutation_test` take
one statistic at a time and hold all resamples of all queries in memory; the tests compare with both.)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

from hf_xmc.errors import DataError, SettingsError
from hf_xmc.metrics.per_query import PerQuery

BATCH = 8_000_000  # cells of a batch of resamples, so that memory does not grow with their number


class Interval(NamedTuple):
    """A value with its percentile interval."""

    value: float
    low: float
    high: float


class Comparison(NamedTuple):
    """Two values, the interval of their difference b - a, and the p-value of "there is no difference"."""

    a: float
    b: float
    difference: float
    low: float
    high: float
    p_value: float


def bootstrap_intervals(
    metrics: Mapping[str, PerQuery], confidence: float = 0.95, num_resamples: int = 1000, seed: int = 0
) -> dict[str, Interval]:
    """Percentile bootstrap over queries, for each metric of `per_query_metrics`.

    Coverage and macro F1 are not sums over queries, and have no interval.

    Raises:
        ValueError: the confidence is not between 0 and 1, or there are no resamples.
    """
    _check(confidence, num_resamples)
    pairs = _stacked(metrics)  # [N, 2, M]
    resampled = np.concatenate([_ratios(total) for total in _bootstrap_totals(pairs, num_resamples, seed)])
    low, high = _percentiles(resampled, confidence)
    return {
        name: Interval(pair.value, float(low[j]), float(high[j])) for j, (name, pair) in enumerate(metrics.items())
    }


def paired_test(
    a: Mapping[str, PerQuery],
    b: Mapping[str, PerQuery],
    confidence: float = 0.95,
    num_resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Comparison]:
    """Compare two rankings of the same queries, metric by metric.

    The interval is from a paired bootstrap: both systems are evaluated on the same resampled queries. The p-value is
    from the two-sided permutation test that swaps the two systems on random queries, (1 + extreme) / (1 +
    permutations), so it is never 0.

    Raises:
        ValueError: the two have different metrics or different numbers of queries.
    """
    _check(confidence, num_resamples)
    if list(a) != list(b):
        raise DataError(f"Both systems need the same metrics, found {list(a)} and {list(b)}.")
    first, second = _stacked(a), _stacked(b)
    if first.shape != second.shape:
        raise DataError(f"The systems have {len(first):,} and {len(second):,} queries; a paired test needs the same.")
    both = np.concatenate([first, second], axis=2)  # [N, 2, 2M]
    num = len(a)
    gaps = [values[:, num:] - values[:, :num] for values in map(_ratios, _bootstrap_totals(both, num_resamples, seed))]
    low, high = _percentiles(np.concatenate(gaps), confidence)
    observed = _ratios(second.sum(axis=0)[None])[0] - _ratios(first.sum(axis=0)[None])[0]
    extreme = np.zeros(num)
    for total, swing in _permuted_totals(first, second, num_resamples, seed):
        gap = _ratios((total + swing) / 2) - _ratios((total - swing) / 2)
        extreme += (np.abs(gap) >= np.abs(observed) - 1e-12).sum(axis=0)
    p_values = (1 + extreme) / (1 + num_resamples)
    return {
        name: Comparison(
            a[name].value, b[name].value, float(observed[j]), float(low[j]), float(high[j]), float(p_values[j])
        )
        for j, name in enumerate(a)
    }


def _check(confidence: float, num_resamples: int) -> None:
    if not 0 < confidence < 1 or num_resamples < 1:
        raise SettingsError(f"Need 0 < confidence < 1 and resamples, found {confidence} and {num_resamples}.")


def _stacked(metrics: Mapping[str, PerQuery]) -> np.ndarray:
    """Numerators and denominators, `[N, 2, M]`."""
    return np.stack([np.stack(pair) for pair in metrics.values()]).transpose(2, 1, 0).copy()


def _ratios(totals: np.ndarray) -> np.ndarray:
    """Numerator over denominator of totals `[R, 2, M]`, 0 / 0 is 0, `[R, M]`."""
    below = totals[:, 1]
    return np.divide(totals[:, 0], below, out=np.zeros_like(below), where=below != 0)


def _percentiles(values: np.ndarray, confidence: float) -> np.ndarray:
    return np.percentile(values, [50 * (1 - confidence), 50 * (1 + confidence)], axis=0)


def _batches(num_rows: int, num_resamples: int) -> Iterator[int]:
    size = max(1, BATCH // max(num_rows, 1))
    for start in range(0, num_resamples, size):
        yield min(size, num_resamples - start)


def _bootstrap_totals(pairs: np.ndarray, num_resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Sums over queries drawn with replacement, `[R, 2, M]` per batch."""
    rng, num_rows = np.random.default_rng(seed), len(pairs)
    for size in _batches(num_rows, num_resamples):
        drawn = rng.integers(0, max(num_rows, 1), size=(size, num_rows)) + np.arange(size)[:, None] * num_rows
        times = np.bincount(drawn.ravel(), minlength=size * num_rows).reshape(size, num_rows)  # [R, N]
        yield (times.astype(np.float64) @ pairs.reshape(num_rows, -1)).reshape(size, *pairs.shape[1:])


def _permuted_totals(
    first: np.ndarray, second: np.ndarray, num_resamples: int, seed: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Sum and difference of the totals of the two systems, which are swapped on random queries."""
    rng, num_rows = np.random.default_rng(seed + 1), len(first)
    total = (first + second).sum(axis=0)[None]
    difference = (second - first).reshape(num_rows, -1)
    for size in _batches(num_rows, num_resamples):
        signs = rng.integers(0, 2, size=(size, num_rows)) * 2.0 - 1.0
        yield total, (signs @ difference).reshape(size, *first.shape[1:])
