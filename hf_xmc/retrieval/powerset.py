"""Whole label sets as answers: the label-powerset conformal predictor, made efficient by elimination.

With probabilities o of the candidates, the nonconformity of a label set y is its distance a = ||y - o||_2. It is in
the region of level 1 - eps iff its p-value (#{a_i >= a} + 1) / (n + 1) is above eps, that is, iff a <= the conformal
quantile a_(k) of the calibration distances (Maltoudoglou, Paisios, Lenc, Martinek, Kral, Papadopoulos 2022, with the
distance of Papadopoulos 2014 in its L2 form).

Elimination: the nearest set is the rounded one, at squared distance b = sum e_j^2 with e_j = |round(o_j) - o_j|, and
flipping label j adds d_j = 1 - 2 e_j >= 0. A set is therefore in the region iff its flips cost at most a_(k)^2 - b: a
flip that costs more rules out every set that contains it, and sets are listed best first without visiting the rest.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from hf_xmc.errors import SettingsError
from hf_xmc.metrics.calibration import scored_predictions
from hf_xmc.metrics.hits import find_hits
from hf_xmc.retrieval.calibration import ScoreMap, fit_score_map
from hf_xmc.types import Positives, TopK

MOST_CANDIDATES = 20


@dataclass(frozen=True)
class Region:
    """The label sets that are plausible for a query.

    Args:
        sets: sorted label ids of each set, and its p-value; most plausible first.
        open: whether a label that was not retrieved may be true as well, because the budget allows it to flip.
        complete: False if there are more sets than were requested.
    """

    sets: list[tuple[list[int], float]]
    open: bool
    complete: bool = True


@dataclass(frozen=True)
class LabelPowerset:
    """The conformal predictor of whole label sets.

    Args:
        score_map: maps scores to the probabilities o; fitted on other queries than the distances.
        distances: of the calibration queries, sorted, `[n]`.
        num_candidates: labels per query that sets are made of; o is 0 for all others.
    """

    score_map: ScoreMap
    distances: np.ndarray
    num_candidates: int

    @classmethod
    def fit(cls, topk: TopK, positives: Positives, num_candidates: int = 10, seed: int = 0) -> LabelPowerset:
        """Fit the score map on one random half of the queries, and the distances on the other."""
        if not 1 <= num_candidates <= MOST_CANDIDATES:
            raise SettingsError(f"The number of candidates is {num_candidates}; expected 1 to {MOST_CANDIDATES}")
        first, second = np.array_split(np.random.default_rng(seed).permutation(len(topk)), 2)
        top = best(topk, num_candidates)
        half = TopK(top.ids[first], top.scores[first])
        hits = find_hits(half, positives.take(first), num_candidates)
        score_map = fit_score_map(*scored_predictions(hits, half), "platt")
        mapped = TopK(top.ids[second], score_map(top.scores[second]))
        return cls(score_map, np.sort(distances_to(mapped, positives.take(second))), num_candidates)

    def union(self, topk: TopK, level: float) -> tuple[np.ndarray, np.ndarray]:
        """Candidates of each query, and whether each is in any plausible set, `[N, C]`, without listing the sets."""
        top = best(topk, self.num_candidates)
        inside = in_any_set(self.score_map(top.scores), self.limit(level))
        return top.ids, inside & (top.ids >= 0)

    def is_open(self, topk: TopK, level: float) -> np.ndarray:
        """Whether the region of each query allows a label to flip that is not a candidate, bool `[N]`."""
        nearest = flips(self.score_map(best(topk, self.num_candidates).scores))[2]
        return self.limit(level) ** 2 - nearest + 1e-9 >= 1

    def covers(self, topk: TopK, positives: Positives, level: float) -> np.ndarray:
        """Whether the true set of each query is plausible, bool `[N]`."""
        top = best(topk, self.num_candidates)
        mapped = TopK(top.ids, self.score_map(top.scores))
        return distances_to(mapped, positives) <= self.limit(level) + 1e-9

    def regions(self, topk: TopK, level: float, most: int = 1000) -> list[Region]:
        """Up to `most` plausible sets of each query, the most plausible first."""
        self.limit(level)
        top = best(topk, self.num_candidates)
        probabilities = self.score_map(top.scores)
        return [region(ids, p, self.distances, level, most) for ids, p in zip(top.ids, probabilities, strict=True)]

    def limit(self, level: float) -> float:
        """The largest distance of a plausible set.

        Raises:
            SettingsError: too few queries for the coverage.
        """
        if np.isinf(found := quantile(self.distances, level)):
            raise SettingsError(
                f"A level of {level:.1%} needs more than the {len(self.distances):,} queries that whole label sets "
                "were calibrated on",
                hint="use a lower level, or calibrate on more queries",
            )
        return found


def best(topk: TopK, width: int) -> TopK:
    """The best `width` predictions of each query."""
    return topk.sorted().first(width)


def distances_to(candidates: TopK, positives: Positives) -> np.ndarray:
    """||y - o||_2 of the true set of each query, `[n]`. o is 0 outside the candidates, so that each true label that is
    not a candidate costs 1.

    Args:
        candidates: ids and probabilities `[n, C]`; -1 with probability 0 for padding.
        positives: the truth.
    """
    ids, probabilities = np.asarray(candidates.ids), np.where(candidates.ids < 0, 0.0, candidates.scores)
    squared = np.empty(len(ids))
    for i, (row, p) in enumerate(zip(ids, probabilities, strict=True)):
        true = np.isin(row, positives.row(i)) & (row >= 0)
        squared[i] = np.square(true - p).sum() + len(positives.row(i)) - true.sum()
    return np.sqrt(squared)


def quantile(distances: np.ndarray, level: float) -> float:
    """a_(k), the k-th smallest distance with k = ceil((n + 1) level); infinity if k > n.

    >>> round(quantile(np.arange(0.15, 1.0, 0.1), 0.8), 2)
    0.85
    """
    n = len(distances)
    k = n + 1 - int(np.floor((1 - level) * (n + 1) + 1e-9))
    return float(distances[k - 1]) if k <= n else float("inf")


def region(
    ids: np.ndarray, probabilities: np.ndarray, distances: np.ndarray, level: float, most: int = 1000
) -> Region:
    """The plausible label sets of one query.

    Args:
        ids, probabilities: of the candidates, `[C]`, C <= 20; id -1 is ignored.
        distances: of the calibration queries, sorted.
        level: the coverage.
        most: maximum number of sets to list; if n is too small for the coverage, all 2^C sets are plausible.

    >>> found = region(np.arange(3), np.array([0.9, 0.6, 0.2]), np.arange(0.15, 1.0, 0.1), 0.8)
    >>> [(labels, round(p, 2)) for labels, p in found.sets]
    [([0, 1], 0.6), ([0], 0.5)]
    """
    check_width(len(ids))
    ids, o = ids[ids >= 0], np.asarray(probabilities, dtype=np.float64)[ids >= 0]
    rounded, cost, nearest = flips(o)
    budget = quantile(distances, level) ** 2 - nearest + 1e-9
    order = np.argsort(cost, kind="stable")
    sets: list[tuple[list[int], float]] = []
    for spent, flipped in subsets_by_sum(cost[order]):
        if spent > budget:
            break
        if len(sets) == most:
            return Region(sets, open=bool(budget >= 1), complete=False)
        mask = rounded.copy()
        mask[order[flipped]] ^= True
        strange = np.sqrt(nearest + spent)
        p_value = (len(distances) - np.searchsorted(distances, strange - 1e-9) + 1) / (len(distances) + 1)
        sets.append((sorted(ids[mask].tolist()), float(p_value)))
    return Region(sets, open=bool(budget >= 1))


def in_any_set(probabilities: np.ndarray, limit: float) -> np.ndarray:
    """Which candidates are in any set of the region, bool `[N, C]`, without listing the sets.

    Args:
        probabilities: of the candidates, `[N, C]`.
        limit: `quantile` of the calibration distances.
    """
    rounded, cost, nearest = flips(np.asarray(probabilities, dtype=np.float64))
    budget = limit**2 - nearest[..., None] + 1e-9
    return np.where(rounded, budget >= 0, cost <= budget)


def flips(o: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The rounded set `[..., C]`, what flipping each label adds to the squared distance, and the distance of the
    set."""
    rounded = o >= 0.5
    error = np.where(rounded, 1 - o, o)
    return rounded, 1 - 2 * error, np.square(error).sum(axis=-1)


def subsets_by_sum(costs: np.ndarray) -> Iterator[tuple[float, list[int]]]:
    """All subsets of positions, given rising, non-negative costs; the cheapest first, each with its total cost.

    >>> [chosen for _, chosen in subsets_by_sum(np.array([0.1, 0.2, 0.4]))][:5]
    [[], [0], [1], [0, 1], [2]]
    """
    yield 0.0, []
    heap: list[tuple[float, list[int]]] = [(float(costs[0]), [0])] if len(costs) else []
    while heap:
        spent, positions = heapq.heappop(heap)
        yield spent, positions
        following = positions[-1] + 1
        if following < len(costs):
            step = float(costs[following])
            heapq.heappush(heap, (spent + step, [*positions, following]))
            heapq.heappush(heap, (spent + step - float(costs[positions[-1]]), [*positions[:-1], following]))


def check_width(width: int) -> None:
    if width > MOST_CANDIDATES:
        raise SettingsError(f"Found {width} candidates; label sets are listed for up to {MOST_CANDIDATES}")
