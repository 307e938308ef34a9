"""Conformal sets: the worked numbers, what cannot be promised, and coverage on exchangeable data."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.stats import beta

from hf_xmc import Positives, TopK
from hf_xmc.retrieval.conformal import (
    Risk,
    above,
    any_missing_risk,
    false_negative_risk,
    frequency_risks,
    true_scores,
)
from hf_xmc.retrieval.powerset import LabelPowerset, distances_to, in_any_set, quantile, region

WORST = np.array([0.82, 0.75, 0.9, 0.6, 0.55, 0.7, 0.88, 0.4, 0.65])
DISTANCES = np.arange(0.15, 1.0, 0.1)


def catalogue(rows: list[list[float]]) -> tuple[TopK, Positives]:
    """Queries whose true labels have these scores; -inf is one that search did not find."""
    width = max(map(len, rows))
    ids = np.tile(np.arange(width), (len(rows), 1))
    scores = np.array([row + [-np.inf] * (width - len(row)) for row in rows])
    return TopK(np.where(np.isneginf(scores), -1, ids), scores), Positives.from_lists(
        [range(len(row)) for row in rows]
    )


def test_all_true_labels_by_hand() -> None:
    topk, truth = catalogue([[score] for score in WORST])
    assert any_missing_risk(true_scores(topk, truth), truth).threshold(0.8) == 0.55


def test_missed_labels_lower_the_threshold_until_nothing_can_be_promised() -> None:
    one, two = WORST.copy(), WORST.copy()
    one[0] = two[:2] = -np.inf
    risks = []
    for scores in (one, two):
        topk, truth = catalogue([[score] for score in scores])
        risks.append(any_missing_risk(true_scores(topk, truth), truth))
    assert risks[0].threshold(0.8) == 0.4
    assert risks[1].miss_rate == pytest.approx(2 / 9)
    with pytest.raises(ValueError, match=r"80.0% cannot be promised.*22.2%.*at most 70.0%"):
        risks[1].threshold(0.8)
    assert risks[1].threshold(0.7) == 0.4


def test_false_negative_rate_by_hand() -> None:
    topk, truth = catalogue([[0.9, 0.5], [0.8], [0.7, 0.6, 0.2], [0.95, 0.3]])
    risk = false_negative_risk(true_scores(topk, truth), truth)
    assert risk.threshold(0.55) == 0.5
    lost = risk.weights[risk.scores < 0.5].sum() / 4
    assert lost == pytest.approx(0.2083, abs=1e-4)
    assert (4 * lost + 1) / 5 == pytest.approx(0.3667, abs=1e-4)
    assert (4 * risk.weights[risk.scores < 0.6].sum() / 4 + 1) / 5 == pytest.approx(0.4667, abs=1e-4)


def test_both_forms_are_the_published_formulas() -> None:
    rng = np.random.default_rng(0)
    for n, level in itertools.product((9, 10, 37, 200), (0.5, 0.8, 0.9)):
        scores = rng.random((n, 3)).round(1)  # with ties
        topk, truth = catalogue(scores.tolist())
        k = n + 1 - int(np.floor((1 - level) * (n + 1) + 1e-9))  # the split conformal quantile of -min
        expected = -np.sort(-scores.min(axis=1))[k - 1]
        assert any_missing_risk(true_scores(topk, truth), truth).threshold(level) == expected
        risk = false_negative_risk(true_scores(topk, truth), truth)
        grid = [t for t in np.unique(scores) if (n * (scores < t).mean() + 1) / (n + 1) <= 1 - level + 1e-12]
        assert risk.threshold(level) == max(grid)


def test_queries_without_positives_count_and_lose_nothing() -> None:
    topk, truth = catalogue([[0.5], [0.4], [], []])
    risk = false_negative_risk(true_scores(topk, truth), truth)
    assert risk.num_queries == 4
    assert risk.threshold(0.6) == 0.5  # 1 lost + 1 = 2 = 0.4 * 5: one of the two true labels may go
    assert any_missing_risk(true_scores(topk, truth), truth).scores.tolist() == [0.4, 0.5]
    assert Risk(np.zeros(0), np.zeros(0), 9).threshold(0.9) == np.inf


def test_levels_that_are_none() -> None:
    risk = Risk(np.array([0.5]), np.ones(1), 100)
    for level in (0, 1, 1.5, -0.1):
        with pytest.raises(ValueError, match="between 0 and 1"):
            risk.threshold(level)


def test_true_scores_in_any_order_with_repeats_and_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hf_xmc.retrieval.conformal.CELLS", 16)
    rng = np.random.default_rng(0)
    ids = rng.integers(-1, 12, (50, 8))
    scores = np.where(ids < 0, -np.inf, rng.random((50, 8)))
    truth = Positives.from_lists(rng.choice(12, size=n, replace=False).tolist() for n in rng.integers(0, 5, 50))
    expected = [
        max((s for i, s in zip(ids[row], scores[row], strict=True) if i == label), default=-np.inf)
        for row in range(50)
        for label in truth.row(row)
    ]
    assert true_scores(TopK(ids, scores), truth).tolist() == expected
    with pytest.raises(ValueError, match="50 queries, but positives of 49"):
        true_scores(TopK(ids, scores), truth.take(np.arange(49)))


def exchangeable(seed: int, num_queries: int) -> tuple[TopK, Positives, np.ndarray]:
    """Queries with one to five true labels among 40, noisy scores of which the best 25 are kept; some are missed."""
    rng = np.random.default_rng(seed)
    counts = np.repeat([500, 50, 3], [5, 15, 20])
    chance = counts / counts.sum()
    truth = Positives.from_lists(
        rng.choice(40, size=n, replace=False, p=chance).tolist() for n in rng.integers(1, 6, num_queries)
    )
    scores = rng.normal(size=(num_queries, 40))
    scores[np.repeat(np.arange(num_queries), truth.counts), truth.indices] += 2.5
    ids = np.argsort(-scores, axis=1)[:, :25]
    return TopK(ids, np.take_along_axis(scores, ids, 1)), truth, counts


def test_promises_hold_on_exchangeable_data() -> None:
    n, level = 1000, 0.9
    topk, truth, counts = exchangeable(0, n)
    new, new_truth, _ = exchangeable(1, 20_000)
    scores, new_scores = true_scores(topk, truth), true_scores(new, new_truth)
    # Given the calibration queries, coverage is Beta(k, n + 1 - k): 99.9 % of it, and three errors of the test.
    k = int(np.ceil((n + 1) * level))
    low, high = beta.ppf([0.0005, 0.9995], k, n + 1 - k)
    slack = 3 * np.sqrt(level * (1 - level) / 20_000)

    threshold = any_missing_risk(scores, truth).threshold(level)
    worst = np.minimum.reduceat(new_scores, new_truth.indptr[:-1])
    assert low - slack < (worst >= threshold).mean() < high + slack

    threshold = false_negative_risk(scores, truth).threshold(level)
    lost = false_negative_risk(np.where(new_scores >= threshold, 1.0, -np.inf), new_truth).miss_rate
    assert low - slack < 1 - lost < high + slack

    in_bins = frequency_risks(scores, truth, counts)
    new_bins = frequency_risks(new_scores, new_truth, counts)
    for name in ("head", "torso", "tail"):
        number = in_bins[name].num_queries
        k = int(np.ceil((number + 1) * level))
        new_risk = new_bins[name]
        covered = 1 - new_risk.weights[new_risk.scores < in_bins[name].threshold(level)].sum() / new_risk.num_queries
        assert beta.ppf(0.0005, k, number + 1 - k) - 0.01 < covered, name


def test_above_takes_a_threshold_a_label() -> None:
    topk = TopK(np.array([[0, 1, 5], [1, 0, -1]]), np.array([[0.9, 0.8, 0.7], [0.6, 0.5, -np.inf]]))
    limits = np.array([0.55, 0.7])
    assert above(topk, limits).indices.tolist() == [0, 1]
    kept = above(topk, limits, unknown=0.0)
    assert [kept.row(0).tolist(), kept.row(1).tolist()] == [[0, 1, 5], []]


def test_label_sets_by_hand() -> None:
    found = region(np.arange(3), np.array([0.9, 0.6, 0.2]), DISTANCES, 0.8)
    assert [labels for labels, _ in found.sets] == [[0, 1], [0]]
    assert [p for _, p in found.sets] == pytest.approx([0.6, 0.5])
    assert not found.open
    everything = region(np.arange(3), np.array([0.9, 0.6, 0.2]), DISTANCES, 0.95)  # k > n: nothing is ruled out
    assert dict((tuple(labels), round(p, 6)) for labels, p in everything.sets)[(0, 1, 2)] == pytest.approx(0.2)
    assert everything.open


@pytest.mark.parametrize("level", [0.3, 0.8, 0.95])
def test_elimination_finds_the_sets_of_the_full_power_set(level: float) -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        o, distances = rng.random(7), np.sort(rng.random(40) * 1.6)
        expected = {}
        for mask in itertools.product((0, 1), repeat=7):
            distance = np.linalg.norm(np.array(mask) - o)
            p = (np.sum(distances >= distance) + 1) / 41
            if p > 1 - level + 1e-9:
                expected[tuple(np.flatnonzero(mask).tolist())] = p
        found = region(np.arange(7), o, distances, level)
        assert {tuple(labels): p for labels, p in found.sets} == pytest.approx(expected)
        assert [p for _, p in found.sets] == sorted((p for _, p in found.sets), reverse=True)
        union = in_any_set(o[None], quantile(distances, level))[0]
        assert set(np.flatnonzero(union)) == {label for labels in expected for label in labels}


def test_long_lists_of_sets_are_cut_and_say_so() -> None:
    found = region(np.arange(20), np.full(20, 0.45), np.full(50, 2.5), 0.9, most=100)
    assert len(found.sets) == 100
    assert not found.complete
    with pytest.raises(ValueError, match="21 candidates"):
        region(np.arange(21), np.full(21, 0.5), DISTANCES, 0.8)


def test_missed_labels_cost_one() -> None:
    top = TopK(np.array([[3, 1, -1]]), np.array([[0.9, 0.2, 0.0]]))
    assert distances_to(top, Positives.from_lists([[3, 7]])) ** 2 == pytest.approx([0.01 + 0.04 + 1])


def test_label_sets_hold_the_true_set_as_often_as_promised() -> None:
    topk, truth, _ = exchangeable(0, 2000)
    new, new_truth, _ = exchangeable(1, 4000)
    fitted = LabelPowerset.fit(topk, truth, num_candidates=20)
    top_ids, inside = fitted.union(new, 0.8)
    n = len(fitted.distances)
    k = int(np.ceil((n + 1) * 0.8))
    covers = fitted.covers(new, new_truth, 0.8)
    covered = covers.mean()
    assert abs(covered - 0.8) < 0.8 - beta.ppf(0.0005, k, n + 1 - k) + 3 * np.sqrt(0.16 / 4000)
    few_queries = TopK(new.ids[:300], new.scores[:300])
    is_open = fitted.is_open(few_queries, 0.8)
    for i, found in enumerate(fitted.regions(few_queries, 0.8, most=100_000)):
        listed = any(labels == new_truth.row(i).tolist() for labels, _ in found.sets)
        assert found.complete
        assert found.open == is_open[i]
        # A true set is in the region: listed, or with labels besides that are no candidates.
        assert listed == covers[i] or (is_open[i] and covers[i])
    assert inside.shape == top_ids.shape == (4000, 20)
    few = LabelPowerset.fit(TopK(topk.ids[:10], topk.scores[:10]), truth.take(np.arange(10)))
    with pytest.raises(ValueError, match="5 queries"):
        few.limit(0.9)
