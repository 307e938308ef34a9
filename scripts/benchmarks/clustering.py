"""Time, memory and quality of balanced clusters, compared with k-means of other libraries and with random clusters.

    OMP_NUM_THREADS=2 python scripts/benchmarks/clustering.py --rows 100000 1000000
    OMP_NUM_THREADS=2 python scripts/benchmarks/clustering.py --rows 20000 --methods bisecting faiss sklearn

The rows are synthetic: groups of about 50 around topics, in few dimensions mapped to many, with unit length, similar
to embeddings of texts. `bisecting` and `kmeans` are those of `balanced_clusters`; `faiss` is `faiss.Kmeans` alone with
as many centroids, and `sklearn` is `BisectingKMeans`. The last two do not give clusters of equal size, which batches
need (the largest and the smallest are printed), and take minutes for 20,000 rows and hours for a million: see
`--slow_up_to`.

Each case runs in its own process; its memory is the peak minus what the process held with the rows loaded. Prints a
table and writes clustering.json to --output_dir, where cases of other sizes and methods are kept.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import threading
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import psutil
import torch
from rich.console import Console
from rich.table import Table
from sklearn.cluster import BisectingKMeans

from hf_xmc.hub.run import versions, write_json
from hf_xmc.sampling.clusters import balanced_clusters

HIDDEN = 32  # dimensions that the rows really vary in
ROWS = 2**14  # worked on at a time, where the script itself would need memory
SLOW = ("faiss", "sklearn")
METHODS = ("bisecting", "kmeans", "random", *SLOW)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="+", type=int, default=[20_000, 1_000_000])
    parser.add_argument("--dimension", type=int, default=384)
    parser.add_argument("--cluster_size", type=int, default=32)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--slow_up_to", type=int, default=20_000, help="Largest number of rows for faiss and sklearn.")
    parser.add_argument("--output_dir", type=Path, default=Path("outputs/benchmarks"))
    settings = parser.parse_args()
    path = settings.output_dir / "clustering.json"
    key = ("rows", "dimension", "cluster_size", "method")
    cases: list[dict[str, Any]] = json.loads(path.read_text())["cases"] if path.exists() else []
    for rows in settings.rows:
        for method in settings.methods:
            if method in SLOW and rows > settings.slow_up_to:
                continue
            case = in_own_process(measure, method, rows, settings.dimension, settings.cluster_size)
            cases = [old for old in cases if any(old[name] != case[name] for name in key)] + [case]
            print(f"{method}, {rows:,} rows: {case['seconds']:.1f} s", flush=True)
    cases.sort(key=lambda case: (*(case[name] for name in key[:3]), METHODS.index(case["method"])))
    show(cases)
    print(write_json({"cases": cases, "threads": torch.get_num_threads(), "versions": versions()}, path))


def in_own_process(function: Callable[..., dict[str, Any]], *args: Any) -> dict[str, Any]:
    """What a function returns, measured so that the peak memory is its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, args)


def measure(method: str, rows: int, dimension: int, cluster_size: int) -> dict[str, Any]:
    """One case."""
    faiss.omp_set_num_threads(torch.get_num_threads())
    table = make_rows(rows, dimension)
    count = rows // cluster_size
    balanced_clusters(table[:1000], 10)  # what a first call loads
    with PeakMemory() as memory:
        start, processor = time.perf_counter(), time.process_time()
        order, bounds = run(method, table, count)
        seconds, processor_seconds = time.perf_counter() - start, time.process_time() - processor
    sizes = np.diff(bounds)
    return {
        "rows": rows,
        "dimension": dimension,
        "cluster_size": cluster_size,
        "method": method,
        "seconds": seconds,
        "processor_seconds": processor_seconds,
        "memory_bytes": memory.bytes,
        "memory_over_input": memory.bytes / table.nbytes,
        "similarity": similarity(table, order, bounds),
        "smallest": int(sizes.min()),
        "largest": int(sizes.max()),
    }


def run(method: str, table: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows by cluster, and where each begins and ends."""
    total, dimension = table.shape
    if method in ("bisecting", "kmeans"):
        return balanced_clusters(table, count, method=method)
    if method == "random":
        return np.random.default_rng(0).permutation(total), np.arange(count + 1) * total // count
    if method == "faiss":
        kmeans = faiss.Kmeans(dimension, count, niter=10, spherical=True, seed=0, min_points_per_centroid=1)
        kmeans.train(table)
        nearest = kmeans.index.search(table, 1)[1][:, 0]
    else:
        nearest = BisectingKMeans(count, random_state=0, bisecting_strategy="largest_cluster").fit(table).labels_
    ends = np.cumsum(np.bincount(nearest, minlength=count))
    return np.argsort(nearest, kind="stable"), np.concatenate([[0], ends])


def similarity(table: np.ndarray, order: np.ndarray, bounds: np.ndarray) -> float:
    """Mean over rows of the cosine to the others of their cluster; rows that are alone count 0."""
    total = 0.0
    for first in range(0, len(bounds) - 1, ROWS):
        ends = bounds[first : first + ROWS + 1]
        for a, b in pairwise(ends):
            if b - a > 1:
                rows = table[order[a:b]]
                total += (float(np.square(rows.sum(0)).sum()) - (b - a)) / (b - a - 1)
    return total / len(table)


class PeakMemory:
    """The most memory that this process has had in a block, beyond what it had at its start: `bytes`."""

    def __enter__(self) -> PeakMemory:
        self.process, self.done, self.bytes = psutil.Process(), threading.Event(), 0
        self.before = self.process.memory_info().rss
        self.thread = threading.Thread(target=self.watch)
        self.thread.start()
        return self

    def watch(self) -> None:
        while not self.done.wait(0.005):
            self.bytes = max(self.bytes, self.process.memory_info().rss - self.before)

    def __exit__(self, *error: object) -> None:
        self.done.set()
        self.thread.join()


def make_rows(rows: int, dimension: int) -> np.ndarray:
    """Embeddings `[N, D]` of length 1; made in parts, so that the peak of memory is not that of making them."""
    rng = np.random.default_rng(0)
    topics = rng.standard_normal((max(rows // 5000, 1), HIDDEN), np.float32)
    groups = topics[rng.integers(0, len(topics), max(rows // 50, 1))]
    groups += 0.7 * rng.standard_normal(groups.shape, np.float32)
    turn = rng.standard_normal((HIDDEN, dimension), np.float32) / np.sqrt(HIDDEN).astype(np.float32)
    table = np.empty((rows, dimension), np.float32)
    for start in range(0, rows, ROWS):
        part = table[start : start + ROWS]
        hidden = groups[rng.integers(0, len(groups), len(part))]
        hidden += 0.4 * rng.standard_normal(hidden.shape, np.float32)
        np.matmul(hidden, turn, out=part)
        part += 0.2 * rng.standard_normal(part.shape, np.float32)
        part /= np.linalg.norm(part, axis=1, keepdims=True)
    return table


def show(cases: list[dict[str, Any]]) -> None:
    table = Table(title="Clusters of embeddings; MB beside the rows, and as a share of them", title_justify="left")
    columns = ("rows", "size", "method", "s", "CPU s", "MB", "/ rows", "cosine", "sizes")
    for name in columns:
        table.add_column(name, justify="left" if name == "method" else "right")
    for case in cases:
        table.add_row(
            f"{case['rows']:,}",
            str(case["cluster_size"]),
            case["method"],
            f"{case['seconds']:.1f}",
            f"{case['processor_seconds']:.1f}",
            f"{case['memory_bytes'] / 1e6:,.0f}",
            f"{case['memory_over_input']:.2f}",
            f"{case['similarity']:.3f}",
            f"{case['smallest']}-{case['largest']}",
        )
    Console().print(table)


if __name__ == "__main__":
    main()
