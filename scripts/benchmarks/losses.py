"""Time and peak memory of the losses, forward and backward, compared with two alternatives, by number of labels.

    OMP_NUM_THREADS=2 python scripts/benchmarks/losses.py
    OMP_NUM_THREADS=2 python scripts/benchmarks/losses.py --losses decoupled --labels_log2 17 20 --keep

- `plain`: the formula on the whole [B, L] matrix with autograd, step by step as the code of DEXML computes it.
- `products`: only the three matrix products of the loss, in the same tiles.

For time, the three run alternately in one fresh process (best of several rounds); for memory, each runs alone in a
fresh process, and the peak is counted minus the embeddings and the two gradients. Writes losses.json and losses.png to
--output_dir. The triplet margin is not included: its score matrix is that of a batch.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from hf_xmc.losses import DecoupledSoftmaxLoss, OneVsAllLoss, SoftmaxLoss, SoftTopKLoss
from hf_xmc.losses.streaming import rows_per_tile
from hf_xmc.types import Positives

TEMPERATURE, K, ALPHA, BISECTIONS = 0.05, 5, 2.0, 32
POSITIVES = 5  # per query
OURS = {
    "decoupled": DecoupledSoftmaxLoss(TEMPERATURE),
    "soft_top_k": SoftTopKLoss(TEMPERATURE, k=K, alpha=ALPHA),
    "softmax": SoftmaxLoss(TEMPERATURE),
    "one_vs_all": OneVsAllLoss(TEMPERATURE),
}
Step = Callable[[], object]  # one forward and backward


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--losses", nargs="+", default=list(OURS), choices=list(OURS))
    parser.add_argument("--labels_log2", nargs="+", type=int, default=list(range(13, 21)), metavar="n")
    parser.add_argument(
        "--plain_up_to_log2",
        type=int,
        default=18,
        help="Largest size for the plain formula, which takes L * B * 20 bytes.",
    )
    parser.add_argument("--queries", type=int, default=512)
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output_dir", type=Path, default=Path("outputs/benchmarks"))
    parser.add_argument("--keep", action="store_true", help="Keep the cases in losses.json that are not run again.")
    parser.add_argument("--case", help=argparse.SUPPRESS)  # set in the processes that measure
    args = parser.parse_args()
    if args.case:
        print(json.dumps(measure(**json.loads(args.case))))
        return
    path = args.output_dir / "losses.json"
    same = {"queries": args.queries, "dim": args.dim}
    cases = json.loads(path.read_text())["cases"] if args.keep and path.exists() else []
    for labels_log2 in args.labels_log2:
        for loss in args.losses:
            case = {"loss": loss, "labels": 2**labels_log2, **same}
            found = compare(case, args.rounds, plain=labels_log2 <= args.plain_up_to_log2)
            cases = [old for old in cases if any(old[key] != case[key] for key in case)] + [found]
            cases.sort(key=lambda c: (list(OURS).index(c["loss"]), c["labels"]))
            write(cases, path)
            print(f"{loss} at 2^{labels_log2}: {found['seconds']}", file=sys.stderr)
    show(cases)
    plot(cases, path.with_suffix(".png"))


def compare(case: dict, rounds: int, plain: bool) -> dict:
    """Seconds and bytes of ours and of the alternatives, and the ratios."""
    variants = ["ours", "products", *(["plain"] if plain else [])]
    seconds = in_fresh_process({**case, "variants": variants, "rounds": rounds})
    memory = {v: in_fresh_process({**case, "variants": [v], "rounds": 0})[v] for v in variants if v != "products"}
    found = {**case, "seconds": seconds, "peak_bytes": memory}
    found["time_over_products"] = seconds["ours"] / seconds["products"]
    if plain:
        found["time_over_plain"] = seconds["ours"] / seconds["plain"]
        found["memory_over_plain"] = memory["ours"] / memory["plain"]
    return found


def in_fresh_process(case: dict) -> dict[str, float]:
    command = [sys.executable, __file__, "--case", json.dumps(case)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{case} ended with {done.returncode}; was there enough memory?\n{done.stderr[-2000:]}")
    return json.loads(done.stdout)


def measure(loss: str, labels: int, queries: int, dim: int, variants: list[str], rounds: int) -> dict[str, float]:
    """In a separate process: the best time of each variant or, without rounds, the peak memory of the one given."""
    steps(loss, 256, queries, dim)[variants[0]]()  # loads the libraries, starts the threads
    made = steps(loss, labels, queries, dim)
    if not rounds:
        held, reset = resident("VmRSS"), Path("/proc/self/clear_refs")
        reset.write_text("5")  # forget the high-water mark
        kept = made[variants[0]]()
        gradients = 4 * dim * (labels + queries)
        assert kept is not None
        return {variants[0]: resident("VmHWM") - held - gradients}
    best = dict.fromkeys(variants, float("inf"))
    for _ in range(rounds):
        for variant in variants:
            start = time.perf_counter()
            made[variant]()
            best[variant] = min(best[variant], time.perf_counter() - start)
    return best


def resident(name: str) -> int:
    """Bytes that the process holds now (VmRSS) or held at most (VmHWM)."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024


def steps(loss: str, num_labels: int, num_queries: int, dim: int) -> dict[str, Step]:
    """One step of each variant, on the same random unit embeddings."""
    random = torch.Generator().manual_seed(0)
    x, y = (torch.randn(n, dim, generator=random) for n in (num_queries, num_labels))
    for embeddings in (x, y):
        embeddings.div_(embeddings.norm(dim=1, keepdim=True)).requires_grad_()
    cols = torch.randint(num_labels // POSITIVES, (num_queries, POSITIVES), generator=random)
    cols = cols * POSITIVES + torch.arange(POSITIVES)  # no repeats, as they differ in the remainder
    cols = cols.sort(1).values.flatten()
    rows = torch.arange(num_queries).repeat_interleave(POSITIVES)
    positives = Positives(torch.arange(num_queries + 1) * POSITIVES, cols)

    def with_gradients(value: Callable[[], torch.Tensor]) -> Step:
        return lambda: torch.autograd.grad(value(), (x, y))

    return {
        "ours": with_gradients(lambda: OURS[loss](x, y, positives)),
        "plain": with_gradients(lambda: PLAIN[loss](x @ y.T / TEMPERATURE, rows, cols)),
        "products": lambda: products(x.detach(), y.detach()),
    }


# The formulas on a whole matrix [B, L], in the order of operations of losses.py and utils/topk_utils.py of DEXML.


def plain_softmax(sim: torch.Tensor, rows: torch.Tensor, cols: torch.Tensor) -> torch.Tensor:
    return -(sim[rows, cols] - sim.logsumexp(1)[rows]).sum() / len(sim)


def plain_one_vs_all(sim: torch.Tensor, rows: torch.Tensor, cols: torch.Tensor) -> torch.Tensor:
    positive = sim[rows, cols]
    return (torch.logaddexp(sim, torch.zeros_like(sim[:, :1])).sum() - positive.sum()) / sim.numel()


def plain_decoupled(sim: torch.Tensor, rows: torch.Tensor, cols: torch.Tensor) -> torch.Tensor:
    positive = sim[rows, cols]
    sim[rows, cols] = -100.0
    log_prob = positive - torch.logaddexp(sim.logsumexp(1)[rows], positive)
    return -(log_prob / POSITIVES).sum() / len(sim)


def plain_soft_top_k(sim: torch.Tensor, rows: torch.Tensor, cols: torch.Tensor) -> torch.Tensor:
    return -(LogTopK.apply(sim)[rows, cols] / POSITIVES).sum() / len(sim)


class LogTopK(torch.autograd.Function):
    """Log of the soft selection [B, L], its threshold by 32 bisections."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, sim: torch.Tensor) -> torch.Tensor:
        low = -sim.amax(1, keepdim=True) - 10 / ALPHA
        high = -sim.amin(1, keepdim=True) + 10 / ALPHA
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            below = torch.sigmoid(ALPHA * (sim + middle)).sum(1) < K
            low[below], high[~below] = middle[below], middle[~below]
        logits = ALPHA * (sim + (low + high) / 2)
        ctx.save_for_backward(logits)
        return logits - torch.logaddexp(logits, torch.zeros_like(logits[:, :1]))

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, gradient: torch.Tensor) -> torch.Tensor:
        (logits,) = ctx.saved_tensors  # type: ignore[attr-defined]
        z = torch.sigmoid(logits)
        v = ALPHA * z * (1 - z)
        pull = gradient * ALPHA * (1 - z)
        return (-pull.sum(1, keepdim=True) * v / v.sum(1, keepdim=True)).add_(pull)


PLAIN = {
    "decoupled": plain_decoupled,
    "soft_top_k": plain_soft_top_k,
    "softmax": plain_softmax,
    "one_vs_all": plain_one_vs_all,
}


def products(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What a loss on the driver multiplies: scores, d queries, d labels."""
    step = rows_per_tile(len(x), len(y), x.shape[1], None)
    tile, d_x, d_y = torch.empty(step, len(y)), torch.empty_like(x), torch.empty_like(y)
    for i, (part, d_part) in enumerate(zip(x.split(step), d_x.split(step), strict=True)):
        scores = torch.mm(part, y.T, out=tile[: len(part)])
        torch.mm(scores, y, out=d_part)
        d_y.addmm_(scores.T, part, beta=int(i > 0))
    return d_x, d_y


def write(cases: list[dict], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    setting = {"torch": torch.__version__, "threads": torch.get_num_threads(), "machine": platform.machine()}
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps({"setting": setting, "cases": cases}, indent=1) + "\n")
    os.replace(temporary, path)


def show(cases: list[dict]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"forward and backward, B = {cases[0]['queries']}, D = {cases[0]['dim']}, float32")
    for name in ("loss", "labels", "ours s", "plain s", "products s", "/ plain", "/ products"):
        table.add_column(name, justify="left" if name == "loss" else "right")
    for name in ("ours MB", "plain MB", "/ plain"):
        table.add_column(name, justify="right")
    text = lambda x, form: "" if x is None else format(x, form)  # noqa: E731
    for c in cases:
        seconds, peak = c["seconds"], c["peak_bytes"]
        table.add_row(
            c["loss"],
            f"{c['labels']:,}",
            *(text(seconds.get(v), ".2f") for v in ("ours", "plain", "products")),
            *(text(c.get(key), ".2f") for key in ("time_over_plain", "time_over_products")),
            *(text(peak[v] / 1e6 if v in peak else None, ",.0f") for v in ("ours", "plain")),
            text(c.get("memory_over_plain"), ".3f"),
        )
    Console(width=120).print(table)


def plot(cases: list[dict], path: Path) -> None:
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    figure, (above, below) = plt.subplots(2, len(OURS), figsize=(4 * len(OURS), 6), sharex=True, squeeze=False)
    for column, loss in enumerate(OURS):
        mine = [c for c in cases if c["loss"] == loss]
        for axis, key, scale in ((above[column], "seconds", 1.0), (below[column], "peak_bytes", 1e-6)):
            for variant in ("ours", "plain", "products"):
                points = [(c["labels"], c[key][variant] * scale) for c in mine if variant in c[key]]
                if points:
                    axis.loglog(*zip(*points, strict=True), marker="o", markersize=3, label=variant)
        above[column].set_title(loss)
        below[column].set_xlabel("labels")
    above[0].set_ylabel("seconds per step")
    below[0].set_ylabel("MB over inputs and gradients")
    above[0].legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
