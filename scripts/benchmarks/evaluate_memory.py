"""Peak memory of `evaluate` over what the tagger holds, by the number of labels and of queries.

    OMP_NUM_THREADS=1 python scripts/benchmarks/evaluate_memory.py --labels 20000 --queries 1000 10000 100000
    OMP_NUM_THREADS=1 python scripts/benchmarks/evaluate_memory.py --labels 1300000 --queries 500 5000

Made titles, a tiny encoder with random weights and random vectors in a flat index; the whole of `evaluate`, with
baselines, intervals, report and files, in a process of its own that holds the tagger before. "Over the tagger" is the
peak less what was held then. Writes evaluate_memory.json to --output_dir, which keeps what was measured before.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
from datasets import DatasetDict
from gpu import made_data, make_encoder  # these three beside this file
from losses import resident
from rich.console import Console
from rich.table import Table
from scale import in_a_fork, neighbours

from hf_xmc import LabelIndex, XMCDataset, XMCDualEncoderModel, XMCPipeline, load_xmc_dataset
from hf_xmc.inference.evaluation.evaluate import evaluate

TRAIN = 10_000  # training queries, which tf-idf weights are learned from


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--labels", nargs="+", type=int, default=[20_000, 1_300_000])
    parser.add_argument("--queries", nargs="+", type=int, default=[1_000, 10_000, 100_000])
    parser.add_argument("--output_dir", type=Path, default=Path("outputs/benchmarks"))
    args = parser.parse_args()
    args.output_dir.mkdir(parents=True, exist_ok=True)
    path = args.output_dir / "evaluate_memory.json"
    found = json.loads(path.read_text()) if path.is_file() else []
    for labels in args.labels:
        for queries in args.queries:
            with tempfile.TemporaryDirectory() as folder:
                in_a_fork(partial(make_files, Path(folder), labels, queries))
                measured = in_a_fork(partial(measure, Path(folder)))
            print(labels, queries, measured, file=sys.stderr, flush=True)
            if measured is not None:
                found.append({"labels": labels, "queries": queries, **measured})
                path.write_text(json.dumps(found, indent=1) + "\n")
    show(found)


def make_files(folder: Path, num_labels: int, num_queries: int) -> None:
    """A data set and an encoder."""
    make_encoder(folder / "encoder", "tiny")
    labels, queries = made_data(num_labels, TRAIN + num_queries)
    train = queries.select(range(TRAIN))
    counts = np.bincount(np.concatenate(train["labels"][:]), minlength=num_labels)
    test = queries.select(range(TRAIN, TRAIN + num_queries))
    splits = DatasetDict(train=train, validation=train.select(range(10)), test=test)
    XMCDataset(splits, labels, "made", counts, TRAIN).save(folder / "data")


def measure(folder: Path) -> dict[str, float]:
    """Megabytes of the tagger and over it, and seconds of processor time."""
    data = load_xmc_dataset(str(folder / "data"))
    before = resident("VmRSS")
    model = XMCDualEncoderModel.from_encoder(str(folder / "encoder"))
    vectors = neighbours(data.num_labels, model.width("label"))
    tagger = XMCPipeline(model, LabelIndex.build(vectors, data.labels, "flat"))
    del vectors
    held = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # forget the high-water mark
    start = time.process_time()
    evaluate(tagger, data, "test", folder / "evaluation")
    over = (resident("VmHWM") - held) / 2**20
    return {"tagger_mb": (held - before) / 2**20, "over_mb": over, "seconds": time.process_time() - start}


def show(found: list[dict[str, float]]) -> None:
    table = Table(title="peak memory of evaluate, MB")
    for column in ("labels", "queries", "tagger", "over the tagger", "CPU, s"):
        table.add_column(column, justify="right")
    for row in found:
        sizes = (f"{row[name]:,.0f}" for name in ("labels", "queries", "tagger_mb", "over_mb", "seconds"))
        table.add_row(*sizes)
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
