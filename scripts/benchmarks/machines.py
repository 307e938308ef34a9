"""Several processes and machines: whether they train the same weights as one process, and go on from each other's.

    OMP_NUM_THREADS=1 python scripts/benchmarks/machines.py
    OMP_NUM_THREADS=1 python scripts/benchmarks/machines.py --rows selective --steps 30

Every run is a command, `hf-xmc train`, on the CPU of this machine over gloo, with made titles, a tiny encoder with
random weights, and the same 16 queries a step. The run of one process that nothing disturbs is compared with

- 4 processes,
- 2 "machines" of 2 processes each: two commands with their own `--machine_rank`, which meet at a port,
- 4 processes for a third of the steps, 2 that go on from their checkpoint for another third, and 1 that ends it.

A row is a label strategy: the whole catalogue, of which each process holds its part, with a vector for each label, in
parts as well; `selective` with its bank; mined negatives; batches of similar queries. Weights differ by round-off,
as sums run in another order: `difference` is the root of the mean square over all numbers, beside that of how far
training has moved them, and `share` is their quotient. As biases of attention keys have no gradient, and AdamW makes
round-off of that as large as any other, the optimizer is SGD with momentum. Writes machines.json to --output_dir.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from datasets import DatasetDict
from gpu import made_data, make_encoder  # beside this file
from rich.console import Console
from rich.table import Table
from safetensors.numpy import load_file

from hf_xmc import XMCDataset

ROWS: dict[str, list[str]] = {
    "all, with label vectors": ["--label_strategy", "all", "--label_head", "residual"],
    "selective": ["--label_strategy", "selective", "--label_budget", "64", "--label_refresh", "8"],
    "mixed": ["--label_strategy", "mixed", "--num_hard_negatives", "2", "--mining_depth", "10"],
    "in_batch, similar queries": [
        *("--label_strategy", "in_batch", "--train_sampling_strategy", "clustered"),
        *("--cluster_size", "4", "--cluster_refresh_epochs", "1"),
    ],
}
WINDOW = 16  # queries of a step
LABELS, QUERIES = 300, 200
Found = dict[str, dict[str, float]]  # by way


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=list(ROWS))
    parser.add_argument("--steps", type=int, default=30, help="Of a whole run; a multiple of 3.")
    parser.add_argument("--output_dir", type=Path, default=Path("outputs/benchmarks"))
    args = parser.parse_args()
    found: dict[str, Found] = {}
    with tempfile.TemporaryDirectory() as folder:
        make_files(Path(folder))
        for row in args.rows:
            found[row] = compared(Path(folder), ROWS[row], args.steps)
            print(row, found[row], file=sys.stderr, flush=True)
    args.output_dir.mkdir(parents=True, exist_ok=True)
    (args.output_dir / "machines.json").write_text(json.dumps(found, indent=1) + "\n")
    show(found)


def make_files(folder: Path) -> None:
    """A data set and an encoder."""
    make_encoder(folder / "encoder", "tiny")
    labels, queries = made_data(LABELS, QUERIES)
    counts = np.bincount(np.concatenate(queries["labels"][:]), minlength=LABELS)
    splits = DatasetDict(train=queries, validation=queries.select(range(20)), test=queries.select(range(20)))
    XMCDataset(splits, labels, "made", counts, QUERIES).save(folder / "data")


def compared(folder: Path, flags: list[str], steps: int) -> Found:
    """How far the weights of each way are from those of one undisturbed process."""
    runs = Path(tempfile.mkdtemp(dir=folder))
    begun = weights_of(train(folder, runs / "begun", flags, 0, processes=1))
    alone = weights_of(train(folder, runs / "alone", flags, steps, processes=1))
    ways = {
        "4 processes": train(folder, runs / "four", flags, steps, processes=4),
        "2 machines of 2 processes": train(folder, runs / "machines", flags, steps, processes=4, machines=2),
        "4 processes, then 2, then 1": fewer_and_fewer(folder, runs / "fewer", flags, steps),
    }
    moved = root_mean_square(alone, begun)
    found = {}
    for way, run in ways.items():
        difference = root_mean_square(weights_of(run), alone)
        found[way] = {"moved": moved, "difference": difference, "share": difference / moved}
    return found


def fewer_and_fewer(folder: Path, run: Path, flags: list[str], steps: int) -> Path:
    """A run that goes on from its last checkpoint with fewer processes."""
    for third, processes in enumerate((4, 2, 1), start=1):
        train(folder, run, flags, third * steps // 3, processes)
    return run


def train(folder: Path, run: Path, flags: list[str], steps: int, processes: int, machines: int = 1) -> Path:
    """Train up to a step, from the last checkpoint of the run if it has one; returns the folder of the run.

    Raises:
        RuntimeError: a command failed; the message ends with what it said.
    """
    command = [sys.executable, "-m", "hf_xmc.cli.main", "train", *launch_flags(processes, machines)]
    command += ["--dataset", str(folder / "data"), "--model_name_or_path", str(folder / "encoder")]
    command += ["--output_dir", str(run), "--max_steps", str(max(steps, 1)), *flags, "--disable_dropout", "true"]
    command += ["--per_device_train_batch_size", str(WINDOW // processes), "--label_bank_dtype", "float32"]
    command += ["--optim", "sgd", "--optim_args", "momentum=0.9", "--lr_scheduler_type", "constant"]
    command += ["--learning_rate", "0.05" if steps else "0", "--resume_from_checkpoint", "auto"]
    if not steps:
        command += ["--label_head_learning_rate", "0"]
    command += ["--save_strategy", "steps", "--save_steps", str(max(steps, 1)), "--eval_strategy", "no"]
    command += ["--report_to", "none", "--disable_tqdm", "true", "--use_cpu", "true"]
    ranks = [["--machine_rank", str(rank)] if machines > 1 else [] for rank in range(machines)]
    started = [
        subprocess.Popen(
            [*command, *rank], env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        for rank in ranks
    ]
    said = [process.communicate()[0] for process in started]
    for process, output in zip(started, said, strict=True):
        if process.returncode:
            raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}: {output[-3000:]}")
    return run


def launch_flags(processes: int, machines: int) -> list[str]:
    """What starts so many processes; nothing for one."""
    if processes == 1:
        return []
    count = ["--num_processes", str(processes)]
    if machines == 1:
        return ["--accelerate_config", "cpu_2proc", *count]
    port = ["--main_process_ip", "127.0.0.1", "--main_process_port", str(free_port())]
    return ["--accelerate_config", "cpu_multi_node", "--num_machines", str(machines), *count, *port]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


def environment() -> dict[str, str]:
    """This one, with the package of this checkout, and a thread for each process."""
    root = str(Path(__file__).parents[2])
    return {**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1"}


def weights_of(run: Path) -> dict[str, np.ndarray]:
    """All trained numbers of a run: of the model, and the vectors of its labels."""
    found: dict[str, np.ndarray] = {}
    for name in ("model.safetensors", "label_head.safetensors"):
        if (run / name).is_file():
            found |= {f"{name}, {key}": value for key, value in load_file(run / name).items()}
    return {name: value.astype(np.float64) for name, value in found.items() if value.dtype.kind == "f"}


def root_mean_square(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> float:
    """Of the differences of all numbers."""
    assert one.keys() == other.keys()
    total = sum(float(np.square(one[name] - other[name]).sum()) for name in one)
    return (total / sum(value.size for value in one.values())) ** 0.5


def show(found: dict[str, Found]) -> None:
    table = Table(title="weights after training, beside those of one undisturbed process")
    for column in ("", "way", "moved", "difference", "share"):
        table.add_column(column, justify="left" if column in ("", "way") else "right")
    for row, ways in found.items():
        for way, values in ways.items():
            table.add_row(row, way, *(f"{values[name]:.1e}" for name in ("moved", "difference", "share")))
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
