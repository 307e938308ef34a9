"""By frequency, by number of positives, intervals, paired tests, hierarchy, `evaluate` folders."""

from __future__ import annotations

import csv
import gzip
import itertools
import json
import os
from pathlib import Path

import numpy as np
import pytest
import scipy.stats

import hf_xmc.metrics
from hf_xmc import Positives, TopK
from hf_xmc.metrics import (
    bootstrap_intervals,
    by_label_frequency,
    by_num_positives,
    find_hits,
    hierarchical_metrics,
    paired_test,
    per_query_metrics,
    ranking_metrics,
)
from hf_xmc.metrics.hierarchy import ancestor_closure, find_circle
from hf_xmc.metrics.per_query import PerQuery


@pytest.fixture(scope="module")
def problem():
    rng = np.random.default_rng(1)
    n, L, K = 200, 60, 10
    truth = Positives.from_lists(rng.choice(L, size=s, replace=False).tolist() for s in rng.integers(0, 13, size=n))
    ids = np.stack([rng.choice(L, size=K, replace=False) for _ in range(n)])
    return TopK(ids, rng.random((n, K))), truth, rng.integers(0, 300, size=L), 1 + rng.random(L)


@pytest.mark.parametrize("bands", ["deciles", "head"])
def test_frequency_groups_add_up(problem, bands):
    topk, truth, counts, _ = problem
    table = by_label_frequency(find_hits(topk, truth, 5), counts, 5, bands)
    assert sum(group["num_labels"] for group in table) == len(counts)
    assert sum(group["true"] for group in table) == len(truth.indices)
    assert sum(group["predicted"] for group in table) == 5 * len(truth)
    correct = sum(group["correct"] for group in table)
    assert correct / (5 * len(truth)) == pytest.approx(ranking_metrics(topk, truth, (5,))["P@5"], abs=1e-12)
    in_order = table if bands == "deciles" else table[::-1]
    assert all(a["max_count"] <= b["min_count"] for a, b in itertools.pairwise(in_order))


def test_groups_by_number_of_positives_add_up(problem):
    topk, truth, _, q = problem
    table = by_num_positives(find_hits(topk, truth, 5), (1, 5), q)
    assert [row["positives"] for row in table] == ["0", "1", "2", "3-5", "6-10", "11+"]
    assert sum(row["num_queries"] for row in table) == len(truth)
    mean = sum(row["num_queries"] * row["P@5"] for row in table) / len(truth)
    assert mean == pytest.approx(ranking_metrics(topk, truth)["P@5"], abs=1e-12)
    assert table[0]["P@5"] == 0


def test_bootstrap_agrees_with_scipy(problem):
    topk, truth, _, q = problem
    pairs = per_query_metrics(find_hits(topk, truth, 5), (5,), q)
    found = bootstrap_intervals(pairs, num_resamples=4000, seed=3)
    for name in ("P@5", "PSP@5", "micro_f1@5"):
        expected = scipy.stats.bootstrap(
            tuple(pairs[name]), lambda a, b, axis: a.sum(axis) / b.sum(axis), paired=True, method="percentile",
            n_resamples=4000, random_state=4,
        ).confidence_interval  # fmt: skip
        width = expected.high - expected.low
        assert found[name].low == pytest.approx(expected.low, abs=0.05 * width)
        assert found[name].high == pytest.approx(expected.high, abs=0.05 * width)
        assert found[name].low < found[name].value < found[name].high
    assert found == bootstrap_intervals(pairs, num_resamples=4000, seed=3)
    assert found != bootstrap_intervals(pairs, num_resamples=4000, seed=4)


def test_paired_test_agrees_with_scipy():
    rng = np.random.default_rng(2)
    a = rng.random(40)
    b = a + rng.normal(0.04, 0.15, size=40)
    found = paired_test({"x": PerQuery(a, np.ones(40))}, {"x": PerQuery(b, np.ones(40))}, num_resamples=20_000)["x"]
    expected = scipy.stats.permutation_test(
        (b, a), lambda x, y, axis: (x - y).mean(axis), permutation_type="samples", vectorized=True,
        n_resamples=20_000, random_state=0,
    ).pvalue  # fmt: skip
    assert found.p_value == pytest.approx(expected, abs=0.015)
    assert found.difference == pytest.approx((b - a).mean())
    standard_error = (b - a).std() / np.sqrt(40)
    assert (found.high - found.low) / (2 * 1.96 * standard_error) == pytest.approx(1, abs=0.06)


def test_the_same_system_twice_is_no_difference(problem):
    topk, truth, _, q = problem
    pairs = per_query_metrics(find_hits(topk, truth, 5), (1, 5), q)
    for comparison in paired_test(pairs, pairs, num_resamples=50).values():
        gaps = (comparison.difference, comparison.low, comparison.high)
        assert gaps == pytest.approx((0, 0, 0), abs=1e-12)
        assert comparison.p_value == 1


def test_significance_errors(problem):
    pairs = per_query_metrics(find_hits(*problem[:2], 1), (1,))
    with pytest.raises(ValueError, match="confidence"):
        bootstrap_intervals(pairs, confidence=95)
    with pytest.raises(ValueError, match="paired test needs the same"):
        paired_test(pairs, {name: PerQuery(p[0][:5], p[1][:5]) for name, p in pairs.items()})


A, B, C, D, E = range(5)
PARENTS = [[B, A], [C, B], [D, B]]


def test_hierarchy_worked_example():
    topk = TopK(np.array([[D, -1], [E, C]]), np.array([[1.0, 0.0], [1.0, 0.5]]))
    found = hierarchical_metrics(topk, Positives.from_lists([[C], [E]]), PARENTS, ks=(2,))
    assert found["h_micro_precision@2"] == pytest.approx(3 / 7)
    assert found["h_micro_recall@2"] == pytest.approx(3 / 4)
    assert found["h_micro_f1@2"] == pytest.approx(0.5455, abs=5e-5)
    macro = [found[f"h_macro_{name}@2"] for name in ("precision", "recall", "f1")]
    assert macro == pytest.approx([0.4583, 0.8333, 0.5333], abs=5e-5)


def test_hierarchy_of_a_dag_unites_all_parents_and_leaves_out_the_root():
    closure = ancestor_closure([[1, 0], [2, 0], [3, 1], [3, 2]], 4, exclude=[0]).toarray()
    assert closure.tolist() == [[0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 1, 1, 1]]
    with pytest.raises(ValueError, match="circle"):
        ancestor_closure([[0, 1], [1, 0]], 2)
    with pytest.raises(ValueError, match="integer pairs"):
        ancestor_closure(np.array([[0.5, 1.0]]), 2)


def test_hierarchy_without_parents_is_the_plain_score(problem):
    topk, truth, _, _ = problem
    plain, found = ranking_metrics(topk, truth, (5,)), hierarchical_metrics(topk, truth, np.empty((0, 2), int), (5,))
    assert found["h_micro_f1@5"] == pytest.approx(plain["micro_f1@5"], abs=1e-12)
    assert found["h_macro_recall@5"] == pytest.approx(plain["R@5"], abs=1e-12)
    assert found["h_label_macro_f1@5"] == pytest.approx(plain["macro_f1@5"], abs=1e-12)


def test_hierarchy_of_edam():
    folder = Path(os.environ.get("HF_XMC_DATA", "")) / "biotools_edam"
    if not (folder / "hierarchy.tsv").is_file():
        pytest.skip("set HF_XMC_DATA to the folder of the real data sets")
    with gzip.open(folder / "lbl.jsonl.gz", "rt") as file:
        ids = {json.loads(line)["uid"]: i for i, line in enumerate(file)}
    num_labels = len(ids)
    with (folder / "hierarchy.tsv").open() as file:
        rows = [(row["child_uid"], row["parent_uid"]) for row in csv.DictReader(file, delimiter="\t")]
    parents = [[ids.setdefault(uid, len(ids)) for uid in pair] for pair in rows]
    with gzip.open(folder / "tst.jsonl.gz", "rt") as file:
        truth = Positives.from_lists(sorted(set(json.loads(line)["labels"])) for line in file)
    # Each true label is answered by a sibling or its parent's child: a near miss must score between 0 and 1.
    child_of = {parent: child for child, parent in parents if child < num_labels}
    parent_of = {child: parent for child, parent in parents}
    near = [child_of.get(parent_of.get(int(truth.row(i)[0]), -1), 0) for i in range(len(truth))]
    topk = TopK(np.array(near)[:, None], np.ones((len(truth), 1)))
    plain, found = ranking_metrics(topk, truth, (1,)), hierarchical_metrics(topk, truth, parents, (1,))
    assert plain["micro_f1@1"] < found["h_micro_f1@1"] < 1
    perfect = truth.take(np.flatnonzero(truth.counts == 1))
    topk = TopK(perfect.indices[:, None], np.ones((len(perfect), 1)))
    assert set(hierarchical_metrics(topk, perfect, parents, (1,)).values()) == {1.0}


def test_evaluate_folders_load_offline(problem, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    evaluate = pytest.importorskip("evaluate")
    folder = Path(hf_xmc.metrics.__file__).parent / "evaluate"
    topk, truth, _, q = problem
    ordered = topk.sorted()
    rows = [truth.row(i).tolist() for i in range(len(truth))]
    load = lambda name: evaluate.load(str(folder / name), cache_dir=str(tmp_path))  # noqa: E731
    ranking = load("xmc_ranking")
    for start in (0, 50):
        stop = 50 if start == 0 else len(rows)
        ranking.add_batch(predictions=ordered.ids[start:stop].tolist(), references=rows[start:stop])
    assert ranking.compute(inverse_propensity=q) == ranking_metrics(topk, truth, inverse_propensity=q)
    both = evaluate.combine([ranking, load("xmc_hierarchical")])
    found = both.compute(predictions=ordered.ids.tolist(), references=rows, parents=[[1, 0]], ks=(3,))
    assert found["P@3"] == ranking_metrics(topk, truth, (3,))["P@3"]
    assert found["h_micro_f1@3"] == hierarchical_metrics(topk, truth, [[1, 0]], (3,))["h_micro_f1@3"]


def test_a_circle_of_parents_is_found_and_named() -> None:
    for parents, pair in (([[1, 0], [2, 1]], None), ([[1, 1]], (1, 1)), ([[1, 0], [2, 1], [0, 2], [3, 0]], (1, 0))):
        assert find_circle(np.array(parents), 4) == pair
    with pytest.raises(ValueError, match="0 is above 1 and below it"):
        hierarchical_metrics(TopK(np.array([[0]]), np.zeros((1, 1))), Positives.from_lists([[0]]), [[1, 0], [0, 1]])
