"""Time and memory of a training step over a million per-label vectors: row-wise Adagrad and the optimizers of torch.

    OMP_NUM_THREADS=2 python scripts/benchmarks/label_head.py --labels 1000000

All do the same work: `--candidates` rows of a table `[L, 384]` are compared with `--queries` queries by decoupled
softmax, and updated. `rows` is what the trainer does (`hf_xmc.training.row_adagrad`), with the table in float32 or
half precision; `SparseAdam` is `torch.nn.Embedding(sparse=True)` with `torch.optim.SparseAdam`; `AdamW` is a dense
table. Each runs in its own process; memory is the peak minus what the process held before. Prints a table and writes
label_head.json to --output_dir.
"""

from __future__ import annotations

import argparse
import gc
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from losses import resident  # beside this file
from rich.console import Console
from rich.table import Table
from torch import Tensor

from hf_xmc import Positives
from hf_xmc.hub.run import versions, write_json
from hf_xmc.losses import DecoupledSoftmaxLoss
from hf_xmc.training.row_adagrad import update_rows

DIM = 384
CASES = ("rows float32", "rows float16", "rows bfloat16", "SparseAdam", "AdamW")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--labels", type=int, default=1_000_000)
    parser.add_argument("--candidates", type=int, default=8192)
    parser.add_argument("--queries", type=int, default=512)
    parser.add_argument("--steps", type=int, default=10, help="Timed steps, after two for warming up.")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--output_dir", type=Path, default=Path("outputs/benchmarks"))
    parser.add_argument("--case", help=argparse.SUPPRESS)  # set in the processes that measure
    args = parser.parse_args()
    if args.case:
        print("RESULT", json.dumps(measure(args.case, args)))
        return
    found = {case: in_fresh_process(case) for case in args.cases}
    table = Table(title=f"{args.labels:,} labels, {args.candidates:,} candidates, {args.queries} queries per step")
    for column in ("", "seconds per step", "memory, MiB", "of these the table"):
        table.add_column(column, justify="right" if column else "left")
    for case, row in found.items():
        table.add_row(case, f"{row['seconds']:.3f}", *(f"{row[name] / 2**20:,.0f}" for name in ("peak", "table")))
    Console().print(table)
    settings = {name: value for name, value in vars(args).items() if name not in ("case", "output_dir")}
    result = {"cases": found, "settings": settings, "threads": torch.get_num_threads(), "versions": versions()}
    print(write_json(result, args.output_dir / "label_head.json"))


def in_fresh_process(case: str) -> dict[str, float]:
    done = subprocess.run([sys.executable, *sys.argv, "--case", case], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{case} ended with {done.returncode}; was there enough memory?\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.split("RESULT")[1])


def measure(case: str, args: Any) -> dict[str, float]:
    """Median seconds per step and peak memory in bytes."""
    draw = np.random.default_rng(0)
    batches = [np.sort(draw.choice(args.labels, args.candidates, replace=False)) for _ in range(args.steps + 2)]
    queries = torch.nn.functional.normalize(torch.randn(args.queries, DIM), dim=1)
    positives = Positives.from_lists([[i % args.candidates] for i in range(args.queries)]).torch()
    criterion = DecoupledSoftmaxLoss()

    def loss(rows: Tensor) -> Tensor:
        return criterion(queries, torch.nn.functional.normalize(rows, dim=1), positives)

    loss(
        torch.randn(args.candidates, DIM, requires_grad=True)
    ).backward()  # what the loss itself needs is no part of it
    gc.collect()
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # forget the high-water mark
    step, size = make(case, args.labels, loss)
    seconds = []
    for number, ids in enumerate(batches):
        start = time.perf_counter()
        step(torch.from_numpy(ids), number)
        seconds.append(time.perf_counter() - start)
    return {"seconds": float(np.median(seconds[2:])), "peak": resident("VmHWM") - before, "table": size}


def make(case: str, labels: int, loss: Callable[[Tensor], Tensor]) -> tuple[Callable[[Tensor, int], None], int]:
    """A step over given rows, and the bytes of the table."""
    if case.startswith("rows"):
        table = filled(labels, getattr(torch, case.split()[1]))
        squares = torch.zeros(labels)

        def by_rows(ids: Tensor, number: int) -> None:
            leaf = table[ids].float().requires_grad_()
            loss(leaf).backward()
            assert leaf.grad is not None
            update_rows(table, squares, ids, leaf.grad, 0.03, number)

        return by_rows, table.nbytes
    sparse = case == "SparseAdam"
    embedding = torch.nn.Embedding(labels, DIM, sparse=sparse, _weight=filled(labels, torch.float32))
    parameters = list(embedding.parameters())
    optimizer: Any = torch.optim.SparseAdam(parameters) if sparse else torch.optim.AdamW(parameters)

    def by_optimizer(ids: Tensor, number: int) -> None:
        loss(embedding(ids)).backward()
        optimizer.step()
        optimizer.zero_grad()

    return by_optimizer, embedding.weight.nbytes


def filled(labels: int, dtype: torch.dtype) -> Tensor:
    """Random rows, made a few at a time."""
    table = torch.empty(labels, DIM, dtype=dtype)
    for rows in table.split(2**14):
        rows.copy_(torch.randn(rows.shape))
    return table


if __name__ == "__main__":
    main()
