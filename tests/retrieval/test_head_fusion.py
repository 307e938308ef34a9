"""Coefficients of text and classifier: learned where each is right, and refused where they make no sense."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hf_xmc import Positives
from hf_xmc.metrics import ranking_metrics
from hf_xmc.modeling import LabelHead
from hf_xmc.retrieval.head_fusion import WAYS, Pairs, candidate_pairs, fit_fusion, regression
from hf_xmc.retrieval.search import exact_search

LABELS, WIDTH = 120, 24


def unit(matrix: np.ndarray) -> np.ndarray:
    return (matrix / np.linalg.norm(matrix, axis=1, keepdims=True)).astype(np.float32)


class World:
    """Labels whose text is right where they are rare and whose classifier is right where they are frequent."""

    def __init__(self, text_noise: tuple[float, float], classifier_noise: tuple[float, float]) -> None:
        draw = np.random.default_rng(0)
        self.counts = np.expm1(np.linspace(0, np.log(1000), LABELS)).astype(int)  # frequencies from 0 to 1, evenly
        head = LabelHead("classifier", torch.zeros(LABELS, WIDTH), torch.from_numpy(self.counts))
        self.frequency = head.frequency().numpy()
        true = unit(draw.normal(size=(LABELS, WIDTH)))

        def seen(rare: float, frequent: float) -> np.ndarray:
            noise = rare + (frequent - rare) * self.frequency[:, None]
            return unit(true + noise * unit(draw.normal(size=true.shape)))

        self.texts, self.classifier = seen(*text_noise), seen(*classifier_noise)
        self.inverse_propensity = 1 + 10 * (1 - self.frequency)
        self.rows = [sorted(set(row)) for row in draw.integers(0, LABELS, (400, 2)).tolist()]
        middle = np.stack([true[row].sum(0) for row in self.rows])
        self.queries = unit(middle + 0.7 * unit(draw.normal(size=middle.shape)))

    def part(self, rows: slice) -> tuple[np.ndarray, Positives]:
        return self.queries[rows], Positives.from_lists(self.rows[rows])


BOTH_NEEDED = World(text_noise=(0.4, 2.0), classifier_noise=(2.0, 0.4))
SEEN, UNSEEN = slice(0, 200), slice(200, 400)


def fit(world: World, rows: slice = SEEN, **options: object) -> tuple[dict[str, float], list[dict[str, object]]]:
    queries, positives = world.part(rows)
    given = (queries, world.texts, world.classifier, world.frequency, positives, world.inverse_propensity)
    return fit_fusion(*given, **options)  # type: ignore[arg-type]


def quality(world: World, fusion: dict[str, float]) -> tuple[float, float]:
    """P@1 and PSP@5 on queries that taught nothing, of the vectors that an index would hold."""
    head = LabelHead("classifier", torch.from_numpy(world.classifier), torch.from_numpy(world.counts), fusion=fusion)
    queries, positives = world.part(UNSEEN)
    topk = exact_search(queries, head.embed(torch.from_numpy(world.texts)), 5)
    found = ranking_metrics(topk, positives, (1, 5), world.inverse_propensity)
    return found["P@1"], found["PSP@5"]


def test_both_together_beat_each_by_itself() -> None:
    fusion, tried = fit(BOTH_NEEDED)
    assert [row["name"] for row in tried] == list(WAYS)
    assert fusion["text_by_frequency"] < 0 < fusion["classifier_by_frequency"]
    assert fusion["text"] + fusion["classifier"] == pytest.approx(1)
    fused = quality(BOTH_NEEDED, fusion)
    mean = quality(BOTH_NEEDED, {"text": 0.5, "classifier": 0.5})
    for alone in ({"text": 1.0, "classifier": 0.0}, {"text": 0.0, "classifier": 1.0}):
        assert all(a > b + 0.05 for a, b in zip(fused, quality(BOTH_NEEDED, alone), strict=True))
    assert all(a > b for a, b in zip(fused, mean, strict=True))


def test_what_was_tried_is_what_a_search_would_find() -> None:
    _, tried = fit(BOTH_NEEDED, depth=LABELS)
    queries, positives = BOTH_NEEDED.part(SEEN)
    for name, matrix in (("text alone", BOTH_NEEDED.texts), ("classifier alone", BOTH_NEEDED.classifier)):
        row = next(row for row in tried if row["name"] == name)
        found = ranking_metrics(exact_search(queries, matrix, 5), positives, (1, 5), BOTH_NEEDED.inverse_propensity)
        assert {key: row[key] for key in ("P@1", "nDCG@5", "PSP@5")} == pytest.approx(
            {key: found[key] for key in ("P@1", "nDCG@5", "PSP@5")}
        )


def test_the_same_again_and_other_folds_for_another_seed() -> None:
    once = fit(BOTH_NEEDED, depth=10)
    assert fit(BOTH_NEEDED, depth=10) == once
    assert fit(BOTH_NEEDED, depth=10, seed=1)[1] != once[1]


def test_a_classifier_that_knows_nothing_counts_nothing() -> None:
    world = World(text_noise=(0.4, 0.4), classifier_noise=(0.4, 0.4))
    world.classifier = unit(np.random.default_rng(5).normal(size=world.classifier.shape))
    fusion, _ = fit(world)
    assert fusion["classifier"] < 0.15
    alone = quality(world, {"text": 1.0, "classifier": 0.0})
    assert all(a > b - 0.02 for a, b in zip(quality(world, fusion), alone, strict=True))


def test_of_equal_ways_the_first_wins() -> None:
    queries, positives = BOTH_NEEDED.part(SEEN)
    fusion, tried = fit_fusion(queries, BOTH_NEEDED.texts, BOTH_NEEDED.texts, BOTH_NEEDED.frequency, positives)
    assert "PSP@5" not in tried[0]
    best = max((row["P@1"] + row["nDCG@5"]) for row in tried if row["fusion"] is not None)
    first = next(row for row in tried if row["fusion"] is not None and row["P@1"] + row["nDCG@5"] == best)
    assert fusion == first["fusion"]


def made_pairs(text: np.ndarray, classifier: np.ndarray, true: np.ndarray, frequency: np.ndarray) -> Pairs:
    rows = np.arange(len(true))
    return Pairs(rows, rows, text, classifier, frequency, true)


def test_coefficients_below_zero_are_no_candidates() -> None:
    draw = np.random.default_rng(0)
    text, classifier, frequency = draw.normal(size=(3, 4000))
    frequency = np.abs(frequency).clip(0, 1)
    luck = draw.normal(size=4000)
    sane = made_pairs(text, classifier, text + classifier + luck > 0, frequency)
    assert regression(sane, by_frequency=True) is not None
    against = made_pairs(text, classifier, text - classifier + luck > 0, frequency)
    assert regression(against, by_frequency=False) is None
    # Right for rare labels, against the frequent ones: only a fit by frequency sees it, and must not be used.
    turning = made_pairs(text, classifier, text * (1 - 1.5 * frequency) + 2 * classifier + luck > 0, frequency)
    assert regression(turning, by_frequency=True) is None
    assert regression(turning, by_frequency=False) is not None
    for nothing in (np.zeros(4000, bool), np.ones(4000, bool)):
        assert regression(made_pairs(text, classifier, nothing, frequency), by_frequency=False) is None


def test_candidates_are_the_best_of_both_without_filtered_pairs() -> None:
    queries = np.array([[1.0, 0.0], [0.0, 1.0]])
    texts = np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]])
    classifier = texts[::-1]
    truth, filters = Positives.from_lists([[0], [1, 2]]), Positives.from_lists([[3], []])
    allowed = np.array([True, True, False, True])
    pairs = candidate_pairs(queries, texts, classifier, np.array([0, 0.1, 0.2, 0.3]), truth, filters, allowed, 1)
    assert list(zip(pairs.query.tolist(), pairs.label.tolist(), strict=True)) == [(0, 0), (1, 1), (1, 3)]
    assert pairs.text.tolist() == pytest.approx([1.0, 0.1, 0.9])
    assert pairs.classifier.tolist() == pytest.approx([0.1, 1.0, 0.0])
    assert pairs.frequency.tolist() == pytest.approx([0, 0.1, 0.3])
    assert pairs.true.tolist() == [True, True, False]


def test_arrays_that_do_not_fit() -> None:
    queries, positives = BOTH_NEEDED.part(SEEN)
    with pytest.raises(ValueError, match="200 queries with the truth of 200, and 120 texts, 119 vectors"):
        fit_fusion(queries, BOTH_NEEDED.texts, BOTH_NEEDED.classifier[1:], BOTH_NEEDED.frequency, positives)
    with pytest.raises(ValueError, match="1 held-out queries"):
        fit(BOTH_NEEDED, slice(0, 1))
