"""The learned fusion: what it learns, and that a score depends on nothing that it should not."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_xmc import Positives, TopK
from hf_xmc.errors import ModelFolderError, SettingsError
from hf_xmc.metrics import inverse_propensity, ranking_metrics
from hf_xmc.retrieval.fusion import Ranked, weighted_sum
from hf_xmc.retrieval.fusion_learning import learn_fusion
from hf_xmc.retrieval.learned_fusion import COUNTS, FUSION, OWN, LearnedFusion, Listed, feature_names
from hf_xmc.retrieval.preference import Preference

LABELS = 40


def made(queries: int, seed: int = 0, labels: int = LABELS) -> tuple[list[Listed], Positives, np.ndarray]:
    """Two noisy channels: one lists the best labels, the other one scores a few labels, mostly true ones."""
    rng = np.random.default_rng(seed)
    counts = np.maximum(400 // (1 + np.arange(labels)), 1)
    truth = [sorted({*rng.choice(labels, 2, p=counts / counts.sum()).tolist()}) for _ in range(queries)]
    true = np.zeros((queries, labels), bool)
    for row, its in enumerate(truth):
        true[row, its] = True
    dense = (0.4 * true + rng.normal(0.3, 0.2, true.shape)).astype(np.float32)
    named = np.where(true, rng.random(true.shape) < 0.5, rng.random(true.shape) < 0.02)
    scores = np.where(named, rng.uniform(0.3, 1, true.shape), -np.inf).astype(np.float32)
    every = np.broadcast_to(np.arange(labels), true.shape)
    names = TopK(np.where(named, every, -1), scores).sorted()
    lists = [
        Listed("labels", TopK(every, dense).sorted().first(labels // 2), complete=False),
        Listed("names", names, complete=True),
    ]
    return lists, Positives.from_lists(truth), counts


def quality(topk: TopK, truth: Positives) -> float:
    return ranking_metrics(topk, truth, (1, 5))["nDCG@5"]


def test_it_is_better_than_every_weighted_sum_here() -> None:
    lists, truth, counts = made(300)
    learned = learn_fusion(lists, truth, counts)
    held, held_truth, _ = made(400, seed=1)
    sums = [
        quality(weighted_sum([Ranked(held[0].topk, 1 - w, False), Ranked(held[1].topk, w, True)], 5), held_truth)
        for w in (0.05, 0.1, 0.3, 0.5, 0.7)
    ]
    found = quality(learned.fusion(held, 5), held_truth)
    assert found > max(sums) + 0.01  # it knows which labels are frequent
    assert learned.measured["nDCG@5"] == pytest.approx(found, abs=0.06)
    assert set(learned.fusion.describe()) >= {"channels", "queries", "prefer", "P@1", "nDCG@5"}


def test_forty_queries_are_enough_not_to_fail() -> None:
    held, truth, _ = made(300, seed=9)
    few, few_truth, counts = made(40, seed=8)
    assert quality(learn_fusion(few, few_truth, counts).fusion(held, 5), truth) > quality(held[0].topk, truth)
    none = learn_fusion(few, Positives.from_lists([[]] * 40), counts).fusion(held, 5)
    assert np.isfinite(none.scores[:, 0]).all()  # nothing to learn from: no error, an order all the same


def test_rare_labels_count_for_more_on_request() -> None:
    lists, truth, counts = made(400)
    held, _, _ = made(600, seed=1)
    weights = inverse_propensity(counts, 4000)
    tail, head = (
        learn_fusion(lists, truth, counts, preference=Preference(prefer, weights)).fusion(held, 5)
        for prefer in ("tail", "head")
    )
    assert weights[tail.ids].mean() > weights[head.ids].mean() + 0.03  # rarer labels
    with pytest.raises(SettingsError, match="expected one of balanced, head, tail"):
        Preference("middle")
    with pytest.raises(SettingsError, match="needs the inverse propensity"):
        Preference("tail")


@settings(deadline=None, max_examples=10)
@given(st.integers(1, LABELS + 5), st.integers(0, 3), st.sets(st.integers(0, LABELS - 1)))
def test_scores_depend_neither_on_k_nor_on_filters(k: int, seed: int, allowed_ids: set[int]) -> None:
    lists, truth, counts = made(30, seed)
    fusion = learn_fusion(lists, truth, counts).fusion
    every = np.broadcast_to(np.arange(LABELS), (30, LABELS))
    rng = np.random.default_rng(seed)
    dense = rng.normal(size=every.shape).astype(np.float32)
    whole = TopK(every, dense).sorted()
    lists = [Listed("labels", whole.first(10), complete=False), lists[1]]
    full = fusion(lists, LABELS, whole)
    assert (np.sort(full.ids, axis=1) == every).all()  # every label once
    some = fusion(lists, k, whole.first(max(k, 10)))
    assert some.ids.shape == (30, k)
    assert np.array_equal(some.first(LABELS).ids, full.first(k).ids)
    assert np.allclose(some.first(LABELS).scores, full.first(k).scores, rtol=1e-5)
    assert (some.ids[:, LABELS:] == -1).all()
    allowed = np.isin(np.arange(LABELS), sorted(allowed_ids))
    only = TopK(np.where(allowed[whole.ids], whole.ids, -1), np.where(allowed[whole.ids], whole.scores, -np.inf))
    filtered = fusion(lists, k, only.sorted().first(k), allowed)
    for row in range(30):
        wanted = [label for label in full.ids[row].tolist() if allowed[label]][:k]
        assert filtered.ids[row].tolist() == wanted + [-1] * (k - len(wanted))


def test_empty_lists_ties_and_unknown_labels() -> None:
    lists, truth, counts = made(50)
    fusion = learn_fusion(lists, truth, counts).fusion
    nothing = TopK(np.full((2, 0), -1), np.zeros((2, 0), np.float32))
    assert (fusion([Listed("labels", nothing, False), Listed("names", nothing, True)], 3).ids == -1).all()
    tied = TopK(np.array([[7, 3, 5]]), np.full((1, 3), 0.5, np.float32))
    one = Listed("labels", tied.sorted(), False)
    none = Listed("names", TopK(np.full((1, 1), -1), np.full((1, 1), -np.inf, np.float32)), True)
    assert sorted(fusion([one, none], 3).ids[0].tolist()) == [3, 5, 7]
    later = TopK(np.array([[LABELS + 3, 1]]), np.array([[0.9, 0.1]], np.float32))  # a label that was added later
    assert fusion([Listed("labels", later, False), none], 2).ids[0, 0] == LABELS + 3


def test_filtered_pairs_are_not_learned_from() -> None:
    lists, truth, counts = made(200)
    wrong = Positives.from_lists([truth.row(row)[:1].tolist() for row in range(200)])
    learned = learn_fusion(lists, truth.minus(wrong), counts, filters=wrong)
    other = learn_fusion(lists, truth.minus(wrong), counts)
    assert learned.measured["P@1"] > other.measured["P@1"] + 0.05


def test_contributions_add_up(tmp_path: Path) -> None:
    lists, truth, counts = made(60)
    fusion = learn_fusion(lists, truth, counts).fusion
    found = fusion.candidates(lists)
    parts = fusion.contributions(found)
    assert set(parts) == {"labels", "names", "all"}
    unlisted = found.features[:, len(OWN) + OWN.index("listed")] == 0
    assert (parts["names"][unlisted] == 0).all()
    frequency = found.features[:, -1]
    floors = found.floors[found.rows] * (fusion.weights[0] + fusion.weights[1] * frequency)
    assert np.allclose(sum(parts.values()) + floors + fusion.bias, fusion.raw(found), atol=1e-4)


def test_save_and_load(tmp_path: Path) -> None:
    lists, truth, counts = made(60)
    fusion = learn_fusion(lists, truth, counts).fusion
    fusion.save_pretrained(tmp_path)
    again = LearnedFusion.from_pretrained(tmp_path)
    assert again.fingerprint() == fusion.fingerprint()
    assert again.describe() == fusion.describe()
    assert np.array_equal(again(lists, 5).scores, fusion(lists, 5).scores)
    about = json.loads((tmp_path / FUSION).read_text())
    assert list(about["weights"]) == feature_names(["labels", "names"])
    del about["weights"]["names share"]
    (tmp_path / FUSION).write_text(json.dumps(about))
    with pytest.raises(ModelFolderError, match=r"no weight or temperature of .names share"):
        LearnedFusion.from_pretrained(tmp_path)
    (tmp_path / COUNTS).unlink()
    with pytest.raises(ModelFolderError, match=r"no fusion.safetensors"):
        LearnedFusion.from_pretrained(tmp_path)
