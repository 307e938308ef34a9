"""Cost and benefit of a training step: all, selective and in-batch labels, compared with the bare encoder.

    OMP_NUM_THREADS=2 python scripts/benchmarks/training.py --part speed --dataset biotools_edam --batch_size 64
    OMP_NUM_THREADS=2 python scripts/benchmarks/training.py --part speed --dataset bible_xref --batch_size 32 \\
        --exact_steps 3 --label_bank_init random
    OMP_NUM_THREADS=2 python scripts/benchmarks/training.py --part quality --dataset sample --epochs 2 \\
        --strategies all selective
    OMP_NUM_THREADS=2 python scripts/benchmarks/training.py --part quality --dataset bible_xref --minutes 20
    OMP_NUM_THREADS=2 python scripts/benchmarks/training.py --part scale

- `speed`: seconds per step of each strategy, alternating with `raw`: the encoder alone, as transformers has it, on the
  same texts in batches of one length, or sorted by length with a little padding, whichever is faster, in the batch
  size that is fastest: queries forward and backward, labels forward without gradients, then forward and backward. That
  is the lower bound of an exact step.
- `quality`: metrics on test after the same number of epochs, or the same wall time (--minutes).
- `scale`: step time and peak memory by number of labels (generated texts of ten words), each in its own process.

The encoder is the packaged all-MiniLM-L6-v2. Results are merged into training.json in --output_dir.
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import timed_training  # both beside this file
import torch
from datasets import Dataset, Features, List, Value
from losses import resident
from timed_training import RawEncoder, StepEnd, make_trainer

from hf_xmc import XMCTrainer, load_xmc_dataset
from hf_xmc.data.files import replacing
from hf_xmc.inference.evaluation.evaluate import score
from hf_xmc.metrics import search_depth
from hf_xmc.retrieval.search import exact_search

METRICS = ("P@1", "P@5", "nDCG@5", "PSP@1", "PSP@5")
STRATEGIES = ("in_batch", "selective", "all")
WORDS = ("gene", "tool", "plot", "data", "map", "read", "cell", "drug", "tree", "scan", "node", "graph", "path")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=("speed", "quality", "scale"), required=True)
    parser.add_argument(
        "--dataset", default="biotools_edam", help="'sample', a folder, or the name of one in $HF_XMC_DATA."
    )
    parser.add_argument("--strategies", nargs="+", choices=STRATEGIES)
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--steps", type=int, default=20, help="Timed steps per strategy, after one for warming up.")
    parser.add_argument(
        "--exact_steps", type=int, help="The same for 'all', which is not warmed up; by default --steps."
    )
    parser.add_argument(
        "--raw_steps", type=int, default=3, help="Steps after which the raw encoder runs on the same texts."
    )
    parser.add_argument("--label_budget", type=int, default=256)
    parser.add_argument("--label_refresh", type=int, default=64)
    parser.add_argument("--label_bank_init", default="encode")
    parser.add_argument("--minutes", type=float, help="quality: stop after this wall time, instead of --epochs.")
    parser.add_argument("--epochs", type=float, default=2)
    parser.add_argument("--max_query_length", type=int, default=128)
    parser.add_argument("--max_label_length", type=int, default=64)
    parser.add_argument("--learning_rate", type=float, default=3e-4)
    parser.add_argument("--seeds", nargs="+", type=int, default=[42], help="quality: seeds, one run each.")
    parser.add_argument("--labels", nargs="+", type=int, default=[4096, 16384, 65536, 262144, 1_000_000])
    parser.add_argument("--output_dir", type=Path, default=Path("outputs/benchmarks"))
    parser.add_argument(
        "--cpu_time",
        action="store_true",
        help="Count processor time instead of wall time; for a shared machine, with one thread.",
    )
    parser.add_argument("--case", help=argparse.SUPPRESS)  # set in the processes that measure memory
    args = parser.parse_args()
    if args.cpu_time:
        timed_training.CLOCK = time.process_time
    if args.case:
        print("RESULT", json.dumps(scale_case(int(args.case), args)))
        return
    if args.part == "scale":
        for labels in args.labels:
            write(args.output_dir, "scale", str(labels), in_fresh_process(labels))
    else:
        data = load_xmc_dataset(args.dataset)
        for strategy in args.strategies or (STRATEGIES if args.part == "speed" else STRATEGIES[:2]):
            part = speed if args.part == "speed" else quality
            for seed in args.seeds if args.part == "quality" else args.seeds[:1]:
                key = f"{args.dataset} {strategy}" + (f" {seed}" if len(args.seeds) > 1 else "")
                write(args.output_dir, args.part, key, part(data, strategy, seed, args))
    show(args.output_dir, args.part)


def speed(data: Any, strategy: str, seed: int, args: Any) -> dict[str, Any]:
    """Seconds per step, and the ratio to the passes alone."""
    warmup = int(strategy != "all")
    steps = args.steps if strategy != "all" or args.exact_steps is None else args.exact_steps
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(
            data.queries["train"], data.labels, folder, strategy, args, max_steps=steps + warmup, seed=seed
        )
        trainer.start(warmup, RawEncoder(), args.raw_steps)
        trainer.train()
    times = trainer.measured()
    same = times["raw"] > 0
    return {
        "batch_size": args.batch_size,
        "steps": steps,
        "seconds_a_step": float(times["step"].mean()),
        "queries_per_second": args.batch_size / float(times["step"].mean()),
        "raw_seconds": float(times["raw"][same].mean()) if same.any() else None,
        "over_raw": float(times["step"][same].sum() / times["raw"][same].sum()) if same.any() else None,
        "share_of_data": float(times["data"].sum() / times["step"].sum()),
        "share_outside_passes": float(1 - times["passes"].sum() / times["step"].sum()),
        **covered(trainer),
    }


def covered(trainer: XMCTrainer) -> dict[str, float]:
    found = [entry["covered_gradient_mass"] for entry in trainer.state.log_history if "covered_gradient_mass" in entry]
    return {"covered_gradient_mass": float(np.mean(found))} if found else {}


def quality(data: Any, strategy: str, seed: int, args: Any) -> dict[str, Any]:
    """Metrics on test after the given epochs or minutes."""
    length: dict[str, Any] = {"num_train_epochs": args.epochs if args.minutes is None else 10_000}
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(
            data.queries["train"], data.labels, folder, strategy, args, seed=seed, disable_dropout=True, **length
        )
        trainer.start(0)
        start = time.perf_counter()
        if args.minutes is not None:
            trainer.add_callback(StepEnd(trainer, 60 * args.minutes))
        trainer.train()
        seconds = time.perf_counter() - start
    queries = trainer.encoder.table(trainer.tokenized(data.queries["test"]).tokens, "query")
    labels = trainer.encoder.table(trainer.label_tokens, "label")
    topk = exact_search(queries, labels, search_depth(5, data.filters.get("test")))
    metrics = {name: value for name, value in score(topk, data, "test").items() if name in METRICS}
    steps = trainer.state.global_step
    run = {
        "batch_size": args.batch_size,
        "steps": steps,
        "train_seconds": seconds,
        "learning_rate": args.learning_rate,
    }
    return {**run, **metrics, **covered(trainer)}


def scale_case(num_labels: int, args: Any) -> dict[str, Any]:
    """Step time and peak memory with made labels, in a process of its own."""
    draw = np.random.default_rng(0)
    labels = Dataset.from_dict({"uid": uids(num_labels), "text": made_texts(draw, num_labels)})
    held = draw.integers(num_labels, size=(50 * args.batch_size, 3)).tolist()
    columns = {"uid": uids(len(held)), "text": made_texts(draw, len(held)), "labels": [sorted(set(x)) for x in held]}
    features = Features({"uid": Value("string"), "text": Value("string"), "labels": List(Value("int32"))})
    with tempfile.TemporaryDirectory() as folder:
        train = Dataset.from_dict(columns, features=features)
        args.label_bank_init = "random"
        trainer = make_trainer(train, labels, folder, "selective", args, max_steps=args.steps + 1, disable_tqdm=True)
        del labels, columns, held
        gc.collect()
        before = resident("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # forget the high-water mark
        trainer.start(1)
        trainer.train()
    return {
        "batch_size": args.batch_size,
        "seconds_a_step": float(np.median(trainer.measured()["step"])),
        "peak_bytes": resident("VmHWM"),
        "bytes_before": before,
    }


def uids(count: int) -> list[str]:
    return [str(i) for i in range(count)]


def made_texts(draw: np.random.Generator, count: int) -> list[str]:
    words = np.array(WORDS)
    return [" ".join(row) for row in words[draw.integers(len(words), size=(count, 10))]]


def in_fresh_process(labels: int) -> dict[str, Any]:
    command = [sys.executable, *sys.argv, "--case", str(labels)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(
            f"{labels:,} labels ended with {done.returncode}; was there enough memory?\n{done.stderr[-3000:]}"
        )
    return json.loads(done.stdout.split("RESULT")[1])


def write(folder: Path, part: str, key: str, found: dict[str, Any]) -> None:
    """Merge one result into training.json."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "training.json"
    results = json.loads(path.read_text()) if path.exists() else {}
    results["setting"] = {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
    }
    results.setdefault(part, {})[key] = found
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(results, indent=1) + "\n")
    print(part, key, found, file=sys.stderr)


def show(folder: Path, part: str) -> None:
    from rich.console import Console
    from rich.table import Table

    results = json.loads((folder / "training.json").read_text())
    columns = list(dict.fromkeys(name for found in results[part].values() for name in found))
    table = Table(title=f"{part}, {results['setting']['threads']} threads")
    for name in ("", *columns):
        table.add_column(name, justify="right" if name else "left")
    for key, found in results[part].items():
        table.add_row(key, *(shown(found.get(name)) for name in columns))
    Console(width=160).print(table)


def shown(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


if __name__ == "__main__":
    main()
