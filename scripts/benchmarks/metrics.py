"""Time `ranking_metrics` against a sparse evaluation in the style of pyxclib, a loop over rows, and one argsort.

python scripts/benchmarks/metrics.py [--num_queries 100000] [--num_labels 1000000] [--k 100]

All run in one process on one thread, on the same arrays. `sparse` and `loop` compute less (P, nDCG, PSP and PSnDCG
only, at the same k); the loop runs on a share of the rows and its time is scaled up.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import scipy
from rich.console import Console
from rich.table import Table
from scipy.sparse import csr_matrix

from hf_xmc import Positives, TopK
from hf_xmc.metrics import inverse_propensity, ranking_metrics

KS = (1, 3, 5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num_queries", type=int, default=100_000)
    parser.add_argument("--num_labels", type=int, default=1_000_000)
    parser.add_argument("--k", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--loop_share", type=float, default=0.1, help="Share of the rows that the loop runs on.")
    parser.add_argument("--output", type=Path, default=Path("outputs/benchmarks/metrics.json"))
    args = parser.parse_args()
    topk, truth, weights = problem(args.num_queries, args.num_labels, args.k)
    shuffled = shuffle(topk)
    part = np.arange(int(args.num_queries * args.loop_share))
    few, few_truth = TopK(topk.ids[part], topk.scores[part]), truth.take(part)
    contenders: dict[str, tuple[Callable[[], Any], float]] = {
        "one argsort, best first": (lambda: np.argsort(topk.scores, axis=1), 1.0),
        "one argsort, any order": (lambda: np.argsort(shuffled.scores, axis=1), 1.0),
        "ranking_metrics, best first": (lambda: ranking_metrics(topk, truth, KS, weights), 1.0),
        "ranking_metrics, any order": (lambda: ranking_metrics(shuffled, truth, KS, weights), 1.0),
        "sparse": (lambda: sparse_evaluation(topk, truth, weights, args.num_labels), 1.0),
        "loop over rows": (lambda: loop_evaluation(few, few_truth, weights), 1 / args.loop_share),
    }
    agree(topk, truth, weights, args.num_labels)
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for repeat in range(args.repeats):  # in turn, so that a busy moment hits all of them
        for name, (run, scale) in contenders.items():
            if repeat and name in ("sparse", "loop over rows") and repeat > 2:
                continue
            start = time.perf_counter()
            run()
            seconds[name].append((time.perf_counter() - start) * scale)
    median = {name: statistics.median(times) for name, times in seconds.items()}
    ordered, unordered = median["ranking_metrics, best first"], median["ranking_metrics, any order"]
    result = {
        "num_queries": args.num_queries,
        "num_labels": args.num_labels,
        "k": args.k,
        "ks": KS,
        "seconds": {name: {"median": median[name], "all": times} for name, times in seconds.items()},
        "ratios": {
            "to one argsort, best first": ordered / median["one argsort, best first"],
            "to one argsort, any order": unordered / median["one argsort, any order"],
            "times as fast as the loop": median["loop over rows"] / ordered,
            "times as fast as sparse": median["sparse"] / ordered,
        },
        "versions": {"python": platform.python_version(), "numpy": np.__version__, "scipy": scipy.__version__},
        "machine": platform.machine(),
    }
    print_result(result)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    temporary = args.output.with_name(f".{args.output.name}.tmp")
    temporary.write_text(json.dumps(result, indent=2) + "\n")
    os.replace(temporary, args.output)


def print_result(result: dict[str, Any]) -> None:
    table = Table(title=f"{result['num_queries']:,} queries, {result['num_labels']:,} labels, top {result['k']}")
    table.add_column("")
    table.add_column("seconds (median)", justify="right")
    for name, times in result["seconds"].items():
        table.add_row(name, f"{times['median']:.3f}")
    for name, ratio in result["ratios"].items():
        table.add_row(name, f"{ratio:.2f} x")
    Console().print(table)


def problem(num_queries: int, num_labels: int, k: int) -> tuple[TopK, Positives, np.ndarray]:
    """Random predictions, best first; about five positives per query, about two of them predicted."""
    rng = np.random.default_rng(0)
    scores = -np.sort(-rng.random((num_queries, k), dtype=np.float32), axis=1)
    ids = rng.integers(0, num_labels, (num_queries, k))
    true = rng.integers(0, num_labels, (num_queries, 9))
    true[:, :2] = ids[np.arange(num_queries)[:, None], rng.integers(0, k, (num_queries, 2))]
    sizes = rng.integers(1, 10, num_queries)
    truth = Positives.from_lists(sorted(set(row[:size])) for row, size in zip(true.tolist(), sizes, strict=True))
    return TopK(ids, scores), truth, inverse_propensity(rng.integers(0, 100, num_labels), 3_000_000)


def shuffle(topk: TopK) -> TopK:
    order = np.argsort(np.random.default_rng(1).random(topk.ids.shape, dtype=np.float32), axis=1)
    return TopK(np.take_along_axis(topk.ids, order, 1), np.take_along_axis(topk.scores, order, 1))


def sparse_evaluation(topk: TopK, truth: Positives, weights: np.ndarray, num_labels: int) -> dict[str, float]:
    """P, nDCG, PSP, PSnDCG the usual way: a sparse matrix of predictions, its top k, looked up in the truth."""
    (num_queries, width), depth = topk.ids.shape, max(KS)
    shape = (num_queries, num_labels)
    predicted = csr_matrix((topk.scores.ravel(), topk.ids.ravel(), np.arange(num_queries + 1) * width), shape=shape)
    true = csr_matrix((np.ones(len(truth.indices)), truth.indices, truth.indptr), shape=shape)
    order = np.argsort(-predicted.data.reshape(num_queries, width), axis=1)[:, :depth]
    top = np.take_along_axis(predicted.indices.reshape(num_queries, width), order, axis=1)
    rows = np.repeat(np.arange(num_queries), depth)
    best = np.zeros((num_queries, depth))
    weighted = true.multiply(weights[None, :]).tocsr()
    padded = weighted.copy()
    padded.sort_indices()
    row = np.repeat(np.arange(num_queries), np.diff(padded.indptr))
    values = padded.data[np.lexsort((-padded.data, row))]
    rank = np.arange(len(row)) - padded.indptr[row]
    best[row[rank < depth], rank[rank < depth]] = values[rank < depth]
    hit = np.asarray(true[rows, top.ravel()]).reshape(num_queries, depth)
    gain = np.asarray(weighted[rows, top.ravel()]).reshape(num_queries, depth)
    return summarise(hit, gain, best, np.diff(true.indptr))


def summarise(hit: np.ndarray, gain: np.ndarray, best: np.ndarray, counts: np.ndarray) -> dict[str, float]:
    discount = 1 / np.log2(np.arange(2, hit.shape[1] + 2))
    result = {}
    for k in KS:
        ideal = np.cumsum(discount)[np.clip(counts, 1, k) - 1]
        result[f"P@{k}"] = hit[:, :k].sum() / k / len(hit)
        result[f"nDCG@{k}"] = float(((hit * discount)[:, :k].sum(axis=1) / ideal).mean())
        result[f"PSP@{k}"] = gain[:, :k].sum() / best[:, :k].sum()
        top, bottom = ((x * discount)[:, :k].sum(axis=1) / ideal for x in (gain, best))
        result[f"PSnDCG@{k}"] = float(top.sum() / bottom.sum())
    return result


def loop_evaluation(topk: TopK, truth: Positives, weights: np.ndarray) -> dict[str, float]:
    """The same four, one row at a time."""
    depth = max(KS)
    hit, gain, best = (np.zeros((len(truth), depth)) for _ in range(3))
    for i in range(len(truth)):
        true = truth.row(i)
        top = topk.ids[i][np.argsort(-topk.scores[i])[:depth]]
        hit[i] = np.isin(top, true)
        gain[i] = hit[i] * weights[top]
        largest = np.sort(weights[true])[::-1][:depth]
        best[i, : len(largest)] = largest
    return summarise(hit, gain, best, truth.counts)


def agree(topk: TopK, truth: Positives, weights: np.ndarray, num_labels: int) -> None:
    """Check that all three agree on the first rows."""
    rows = np.arange(min(2000, len(truth)))
    topk, truth = TopK(topk.ids[rows], topk.scores[rows]), truth.take(rows)
    ours = ranking_metrics(topk, truth, KS, weights)
    for other in (sparse_evaluation(topk, truth, weights, num_labels), loop_evaluation(topk, truth, weights)):
        for name, value in other.items():
            assert abs(ours[name] - value) < 1e-9, f"{name}: {ours[name]} and {value}; repeated labels or tied scores?"


if __name__ == "__main__":
    main()
