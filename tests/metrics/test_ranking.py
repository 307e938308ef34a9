"""`ranking_metrics` against a plain loop on random problems, and what happens at the edges."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_xmc import Positives, TopK
from hf_xmc.metrics import ranking_metrics
from hf_xmc.metrics.hits import find_hits


def loop(topk, truth, ks, q, filters):
    """The definitions, a query at a time."""
    n, out = len(truth), {}
    d = [1 / math.log2(r + 2) for r in range(max(ks))]
    sums = {name: [0.0, 0.0] for k in ks for name in (f"PSP@{k}", f"PSnDCG@{k}", f"PSR@{k}")}
    means = {f"{name}@{k}": 0.0 for k in ks for name in ("P", "nDCG", "R", "RP")} | {"MRR": 0.0}
    tp, fp, fn = ({k: [0] * len(q) for k in ks} for _ in range(3))
    for i, P in enumerate(truth):
        pairs = sorted((-s, l) for l, s in zip(topk.ids[i].tolist(), topk.scores[i].tolist(), strict=True) if l >= 0)
        ranked = [l for _, l in pairs if l not in filters[i]]
        ranked = [l if l not in ranked[:r] else None for r, l in enumerate(ranked)]
        first = [r + 1 for r, l in enumerate(ranked) if l in P]
        means["MRR"] += 1 / first[0] if first else 0
        for k in ks:
            hits = [r for r, l in enumerate(ranked[:k]) if l in P]
            m = min(k, len(P))
            for l in range(len(q)):
                predicted = l in ranked[:k]
                tp[k][l] += predicted and l in P
                fp[k][l] += predicted and l not in P
                fn[k][l] += not predicted and l in P
            if not P:
                continue
            best = sorted((q[l] for l in P), reverse=True)[:m]
            ideal, gain = sum(d[:m]), sum(q[ranked[r]] for r in hits)
            means[f"P@{k}"] += len(hits) / k
            means[f"R@{k}"] += len(hits) / len(P)
            means[f"RP@{k}"] += len(hits) / m
            means[f"nDCG@{k}"] += sum(d[r] for r in hits) / ideal
            psdcg, best_psdcg = (
                sum(q[ranked[r]] * d[r] for r in hits),
                sum(a * b for a, b in zip(best, d, strict=False)),
            )
            scores = {"PSP": (gain / k, sum(best) / k), "PSR": (gain / len(P), sum(best) / len(P))}
            for name, (a, b) in (scores | {"PSnDCG": (psdcg / ideal, best_psdcg / ideal)}).items():
                sums[f"{name}@{k}"][0] += a
                sums[f"{name}@{k}"][1] += b
    divide = lambda a, b: a / b if b else 0.0  # noqa: E731
    for k in ks:
        f1 = [divide(2 * t, 2 * t + a + b) for t, a, b in zip(tp[k], fp[k], fn[k], strict=True) if t + a + b]
        out[f"macro_f1@{k}"] = divide(sum(f1), len(f1))
        out[f"micro_f1@{k}"] = divide(2 * sum(tp[k]), 2 * sum(tp[k]) + sum(fp[k]) + sum(fn[k]))
        out[f"coverage@{k}"] = divide(sum(t > 0 for t in tp[k]), len(set().union(*truth)))
    return out | {key: divide(x, n) for key, x in means.items()} | {key: divide(*x) for key, x in sums.items()}


@st.composite
def problems(draw):
    n, L, K = draw(st.integers(0, 7)), draw(st.integers(1, 9)), draw(st.integers(0, 8))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    ids = rng.integers(-1, L, size=(n, K))  # padding anywhere, repeats
    scores = rng.choice(np.array([-1.5, -0.0, 0.0, 0.1, 0.3, 2.0, -np.inf], dtype=dtype), size=(n, K))  # many ties
    if draw(st.booleans()):
        order = np.argsort(-scores, axis=1, kind="stable")
        ids, scores = np.take_along_axis(ids, order, 1), np.take_along_axis(scores, order, 1)
    sets = [[set(np.flatnonzero(rng.random(L) < p).tolist()) for _ in range(n)] for p in (rng.random() * 0.8, 0.3)]
    ks = draw(st.lists(st.integers(1, 11), min_size=1, max_size=3, unique=True))
    return TopK(ids, scores), sets[0], tuple(ks), 1 + 5 * rng.random(L), sets[1]


@settings(max_examples=400, deadline=None)
@given(problems(), st.booleans())
def test_equals_the_loop(problem, filtered):
    topk, truth, ks, q, filters = problem
    pairs = Positives.from_lists([sorted(s) for s in filters]) if filtered else None
    found = ranking_metrics(topk, Positives.from_lists([sorted(s) for s in truth]), ks, q, pairs)
    expected = loop(topk, truth, ks, q, filters if filtered else [set()] * len(truth))
    assert found == pytest.approx(expected, rel=0, abs=1e-12)
    assert all(type(value) is float for value in found.values())


def test_many_rows_and_long_rows_cross_the_chunks():
    rng = np.random.default_rng(0)
    n, L, K = 2500, 3000, 30
    truth = [set(rng.choice(L, size=s, replace=False).tolist()) for s in rng.integers(0, 12, size=n)]
    truth[1023] = set(range(0, 3000, 2))  # far more positives than the filter has buckets
    ids = np.stack([rng.choice(L, size=K, replace=False) for _ in range(n)])
    for i, row in enumerate(truth):
        ids[i, rng.integers(K)] = next(iter(row), -1)
    scores = rng.random((n, K), dtype=np.float32)
    hits = find_hits(TopK(ids, scores), Positives.from_lists(sorted(r) for r in truth), K)
    for i in range(n):
        assert hits.hit[i].tolist() == [l in truth[i] for l in hits.ids[i].tolist()]


def test_ties_go_to_the_lower_id_and_padding_is_no_prediction():
    topk = TopK(np.array([[9, 4, -1, 2]]), np.array([[0.5, 0.5, 9.0, 0.5]]))
    assert find_hits(topk, Positives.from_lists([[4]]), 4).ids.tolist() == [[2, 4, 9, -1]]
    assert ranking_metrics(topk, Positives.from_lists([[4]]), ks=(1, 2))["P@2"] == 0.5


def test_a_score_of_minus_infinity_is_a_prediction_before_padding():
    topk = TopK(np.array([[-1, 3]]), np.array([[-np.inf, -np.inf]]))
    assert ranking_metrics(topk, Positives.from_lists([[3]]), ks=(1,))["P@1"] == 1.0


def test_a_repeated_label_counts_once():
    topk = TopK(np.array([[1, 1, 2]]), np.array([[0.9, 0.8, 0.7]]))
    metrics = ranking_metrics(topk, Positives.from_lists([[1, 2]]), ks=(2, 3))
    assert (metrics["P@2"], metrics["R@2"], metrics["R@3"]) == (0.5, 0.5, 1.0)


def test_a_filter_that_empties_a_row():
    topk, truth = TopK(np.array([[0, 1], [0, 1]]), np.array([[2.0, 1.0]] * 2)), Positives.from_lists([[0], [0]])
    metrics = ranking_metrics(topk, truth, ks=(1,), filters=Positives.from_lists([[0, 1], []]))
    assert (metrics["P@1"], metrics["micro_f1@1"]) == (0.5, 2 / 3)


@pytest.mark.parametrize("shape", [(0, 3), (0, 0), (4, 0)])
def test_nothing_predicted(shape):
    topk = TopK(np.zeros(shape, dtype=np.int64), np.zeros(shape))
    metrics = ranking_metrics(topk, Positives.from_lists([[]] * shape[0]), inverse_propensity=np.ones(3))
    assert set(metrics.values()) == {0.0}


@pytest.mark.parametrize("ids_type", [torch.int32, torch.int64])
@pytest.mark.parametrize("score_type", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_torch_inputs_of_any_precision(ids_type, score_type):
    ids, scores = torch.tensor([[3, 1, 2]], dtype=ids_type), torch.tensor([[0.5, 2.0, 0.5]], dtype=score_type)
    truth = Positives.from_lists([[1, 2]]).torch()
    metrics = ranking_metrics(TopK(ids, scores.requires_grad_()), truth, (2,), torch.ones(4))
    assert (metrics["P@2"], metrics["PSP@2"]) == (1.0, 1.0)


def test_ids_beyond_32_bits_and_scores_beyond_float32():
    ids = np.array([[2**40, 7], [7, 2**40]])
    scores = np.array([[1.0, 1.0 + 1e-12], [1.0 + 1e-12, 1.0]])
    assert find_hits(TopK(ids, scores), Positives.from_lists([[7], [7]]), 1).ids.tolist() == [[7], [7]]


def test_inputs_are_not_changed():
    ids, scores = np.array([[1, -1, 0]]), np.array([[0.1, 0.2, 0.3]], dtype=np.float32)
    truth = Positives.from_lists([[0]])
    ranking_metrics(TopK(ids, scores), truth, filters=truth)
    assert ids.tolist() == [[1, -1, 0]]
    assert scores.tolist() == np.array([[0.1, 0.2, 0.3]], dtype=np.float32).tolist()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"positives": Positives.from_lists([[0]])}, "2 rows, but positives have 1"),
        ({"filters": Positives.from_lists([[0]])}, "2 rows, but filters have 1"),
        ({"positives": Positives(np.array([0, 2, 2]), np.array([1, 0]))}, "row 0 are not sorted"),
        ({"topk": TopK(np.array([[0], [1]]), np.array([[0.1], [np.nan]]))}, "Row 1 has a score that is NaN"),
        ({"topk": TopK(np.array([[0], [-2]]), np.array([[0.1], [0.2]]))}, "Row 1 predicts label id -2"),
        ({"topk": TopK(np.array([[0.0], [1.0]]), np.array([[0.1], [0.2]]))}, "must be integers, found float64"),
        ({"ks": (0, 1)}, "from 1 on"),
        ({"ks": ()}, "from 1 on"),
        ({"inverse_propensity": np.ones(1)}, "1 inverse propensities, but positives refer to label id 1"),
    ],
)
def test_errors_say_what_was_found(change, message):
    arguments = {
        "topk": TopK(np.array([[0], [1]]), np.array([[0.1], [0.2]])),
        "positives": Positives.from_lists([[0], [1]]),
    }
    with pytest.raises(ValueError, match=message):
        ranking_metrics(**(arguments | change))
