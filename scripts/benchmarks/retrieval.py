"""Recall, latency, build time and size of every kind of label index, and its overhead over FAISS alone.

    OMP_NUM_THREADS=2 python scripts/benchmarks/retrieval.py --labels 100000
    OMP_NUM_THREADS=2 python scripts/benchmarks/retrieval.py --labels 1000000 --factories ivf-sq8 rabitq --keep
    python scripts/benchmarks/retrieval.py --factories flat --engines postgresql://user@host/db qdrant:/tmp/qdrant

The labels are synthetic: clusters of clusters in few dimensions, mapped to many and scaled to unit length, similar to
embeddings of label texts; queries lie near labels. `faiss` is the same FAISS index with the same parameters, searched
directly; the two run alternately on the same queries, so that a busy moment affects both. An engine (PostgreSQL or
Qdrant, whose index `benchmark` is replaced) stands beside flat FAISS, with exact search, and with `#hnsw` after its
address by its graph. Single queries are timed one
by one (p50, p99), batches as a whole. On a shared machine use one thread with --clock cpu. Writes retrieval.json to
--output_dir; with --keep, cases of other sizes and kinds stay in it.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from hf_xmc import LabelIndex
from hf_xmc.hub.run import write_json
from hf_xmc.retrieval.engines.index import EngineIndex
from hf_xmc.retrieval.factories import FACTORIES, inner
from hf_xmc.retrieval.search import exact_search, share_threads

K = 10
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
HIDDEN = 32  # dimensions that the labels really vary in
KEY = ("labels", "dimension", "factory")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--labels", nargs="+", type=int, default=[100_000])
    parser.add_argument("--dimension", type=int, default=384)
    parser.add_argument("--factories", nargs="+", default=list(FACTORIES), choices=FACTORIES)
    parser.add_argument("--engines", nargs="+", default=[], help="addresses of PostgreSQL or Qdrant")
    parser.add_argument("--queries", type=int, default=1024)
    parser.add_argument("--batch_size", type=int, default=256)
    parser.add_argument("--seconds", type=float, default=6.0, help="Seconds for single searches, and for batches.")
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--recall_target", type=float, default=0.95)
    parser.add_argument("--keep", action="store_true", help="Keep the cases in the file that are not run again.")
    parser.add_argument("--output_dir", type=Path, default=Path("outputs/benchmarks"))
    args = parser.parse_args()
    path = args.output_dir / "retrieval.json"
    cases: list[dict[str, Any]] = json.loads(path.read_text())["cases"] if args.keep and path.exists() else []
    setting = {"threads": torch.get_num_threads(), "faiss": faiss.__version__, "k": K}
    share_threads()
    for num_labels in args.labels:
        labels, queries = make_vectors(num_labels, args.queries, args.dimension)
        truth = exact_search(queries, labels, K).ids
        names = [str(i) for i in range(num_labels)]
        for factory in args.factories:
            case = {"labels": num_labels, "dimension": args.dimension, "factory": factory}
            case |= measure(factory, labels, names, queries, truth, args)
            cases = keep(cases, case, setting, path)
        for address in args.engines:
            case = measure_engine(address, labels, names, queries, truth, args)
            cases = keep(cases, {"labels": num_labels, "dimension": args.dimension, **case}, setting, path)
    for size in sorted({(case["labels"], case["dimension"]) for case in cases}):
        show([case for case in cases if (case["labels"], case["dimension"]) == size])


def keep(
    cases: list[dict[str, Any]], case: dict[str, Any], setting: dict[str, Any], path: Path
) -> list[dict[str, Any]]:
    """The cases with a new one, which are written to the file."""
    order = {name: i for i, name in enumerate(FACTORIES)}
    cases = [old for old in cases if any(old[key] != case[key] for key in KEY)] + [case]
    cases.sort(key=lambda case: (case["labels"], case["dimension"], order.get(case["factory"], len(order))))
    write_json({"setting": setting, "cases": cases}, path)
    print(f"{case['factory']}: built in {case['build_seconds']:.1f} s, recall {case['recall_at_10']:.3f}", flush=True)
    return cases


def measure_engine(
    address: str,
    labels: np.ndarray,
    names: list[str],
    queries: np.ndarray,
    truth: np.ndarray,
    args: argparse.Namespace,
) -> dict[str, Any]:
    """One row of the table for an engine, beside flat FAISS; always by the clock on the wall, since a server works in
    another process. `differ` is the share of places where another label stands than in FAISS, although its score
    differs by more than 1e-5 from those of its neighbours."""
    clock = time.perf_counter
    place, _, factory = address.partition("#")
    flat = LabelIndex.build(labels, names)
    start = clock()
    index = EngineIndex.copy(flat, f"{place}#benchmark", factory=factory or "flat", overwrite=True)
    build_seconds = clock() - start
    found, expected = index.search(queries, K).ids, flat.search(queries, K + 1)
    gaps = np.diff(expected.scores, axis=1) < -1e-5
    clear = gaps & np.pad(gaps[:, :-1], ((0, 0), (1, 0)), constant_values=True)
    one_by_one = [queries[i : i + 1] for i in range(len(queries))]
    batches = [queries[i : i + args.batch_size] for i in range(0, len(queries), args.batch_size)] * 20
    single = take_turns(lambda x: index.search(x, K), lambda x: flat.search(x, K), one_by_one, args.seconds, clock)
    batch = take_turns(lambda x: index.search(x, K), lambda x: flat.search(x, K), batches, args.seconds, clock)
    return {
        "factory": f"{index.engine.address.kind} {index.factory}",
        "batch_size": len(batches[0]),
        "recall_at_10": float(np.mean([len(set(a) & set(b)) / K for a, b in zip(found, truth, strict=True)])),
        "differ": float((found != expected.ids[:, :K])[clear].mean()),
        "clock": "wall",
        "build_seconds": build_seconds,
        "size_bytes": 0,
        "single_ms": percentiles(single),
        "batch_ms": percentiles(batch),
        "single_over_faiss": float(np.median(single[0]) / np.median(single[1])),
        "batch_over_faiss": float(np.median(batch[0]) / np.median(batch[1])),
    }


def measure(
    factory: str,
    labels: np.ndarray,
    names: list[str],
    queries: np.ndarray,
    truth: np.ndarray,
    args: argparse.Namespace,
) -> dict[str, Any]:
    """One row of the table. Parameters are tuned on labels with noise, recall is measured on the queries."""
    clock = CLOCKS[args.clock]
    start = clock()
    index = LabelIndex.build(labels, names, factory=factory, recall_target=args.recall_target)
    build_seconds = clock() - start
    raw = inner(index.index.index)
    found = index.search(queries, K).ids
    one_by_one = [queries[i : i + 1] for i in range(len(queries))]
    batches = [queries[i : i + args.batch_size] for i in range(0, len(queries), args.batch_size)] * 20
    single = take_turns(lambda x: index.search(x, K), lambda x: raw.search(x, K), one_by_one, args.seconds, clock)
    batch = take_turns(lambda x: index.search(x, K), lambda x: raw.search(x, K), batches, args.seconds, clock)
    return {
        "batch_size": len(batches[0]),
        "parameters": index.index.parameters,
        "recall_at_10": float(np.mean([len(set(a) & set(b)) / K for a, b in zip(found, truth, strict=True)])),
        "clock": args.clock,
        "build_seconds": build_seconds,
        "size_bytes": file_size(index),
        "single_ms": percentiles(single),
        "batch_ms": percentiles(batch),
        "single_over_faiss": float(np.median(single[0]) / np.median(single[1])),
        "batch_over_faiss": float(np.median(batch[0]) / np.median(batch[1])),
    }


def take_turns(
    ours: Callable[[np.ndarray], Any],
    theirs: Callable[[np.ndarray], Any],
    inputs: list[np.ndarray],
    seconds: float,
    clock: Callable[[], float],
) -> tuple[list[float], list[float]]:
    """Milliseconds of both on each input, as many as there is time for; who goes first changes every time."""
    times: tuple[list[float], list[float]] = ([], [])
    end = time.perf_counter() + seconds
    for i, x in enumerate([inputs[0], *inputs]):
        if i > 3 and time.perf_counter() > end:
            break
        for which in (0, 1) if i % 2 else (1, 0):
            start = clock()
            (ours, theirs)[which](x)
            if i:  # the first only warms up
                times[which].append(1000 * (clock() - start))
    return times


def percentiles(times: tuple[list[float], list[float]]) -> dict[str, dict[str, float]]:
    return {
        name: {"p50": float(np.percentile(values, 50)), "p99": float(np.percentile(values, 99))}
        for name, values in zip(("ours", "faiss"), times, strict=True)
    }


def file_size(index: LabelIndex) -> int:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "index.faiss"
        index.index.write(path)
        return path.stat().st_size


def make_vectors(num_labels: int, num_queries: int, dimension: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels `[L, D]` and queries `[N, D]` of length 1."""
    rng = np.random.default_rng(0)
    topics = rng.standard_normal((max(num_labels // 5000, 1), HIDDEN), np.float32)
    groups = topics[rng.integers(0, len(topics), max(num_labels // 50, 1))]
    groups = groups + 0.7 * rng.standard_normal(groups.shape, np.float32)
    hidden = groups[rng.integers(0, len(groups), num_labels)]
    hidden += 0.4 * rng.standard_normal(hidden.shape, np.float32)
    near = hidden[rng.integers(0, num_labels, num_queries)]
    near = near + 0.4 * rng.standard_normal(near.shape, np.float32)
    turn = rng.standard_normal((HIDDEN, dimension), np.float32) / np.sqrt(HIDDEN)
    return tuple(to_unit(rows @ turn, rng) for rows in (hidden, near))  # type: ignore[return-value]


def to_unit(rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    for start in range(0, len(rows), 2**16):  # in place: a million labels of 384 dimensions are 1.5 GB
        part = rows[start : start + 2**16]
        part += 0.2 * rng.standard_normal(part.shape, np.float32)
        part /= np.linalg.norm(part, axis=1, keepdims=True)
    return rows


def show(cases: list[dict[str, Any]]) -> None:
    table = Table(title=f"{cases[0]['labels']:,} labels, D = {cases[0]['dimension']}", title_justify="left")
    columns = ("", "recall@10", "build s", "MB", "one: p50 ms", "p99", "/ faiss", "batch: ms a query", "/ faiss")
    for name in columns:
        table.add_column(name, justify="right" if name else "left")
    for case in cases:
        single, batch = case["single_ms"]["ours"], case["batch_ms"]["ours"]
        table.add_row(
            case["factory"],
            f"{case['recall_at_10']:.3f}",
            f"{case['build_seconds']:.1f}",
            f"{case['size_bytes'] / 1e6:,.0f}" if case["size_bytes"] else "",
            f"{single['p50']:.2f}",
            f"{single['p99']:.2f}",
            f"{case['single_over_faiss']:.2f}",
            f"{batch['p50'] / case['batch_size']:.3f}",
            f"{case['batch_over_faiss']:.2f}",
        )
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
