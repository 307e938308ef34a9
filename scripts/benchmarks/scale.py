"""Processor time and peak memory of each part by the number of labels, and the exponent of growth.

    OMP_NUM_THREADS=2 python scripts/benchmarks/scale.py
    OMP_NUM_THREADS=2 python scripts/benchmarks/scale.py --labels 10000 100000 1000000 --parts prepare tfidf

Texts are made, the encoder is a tiny one with random weights: what grows is the catalogue. 10,000 training queries and
1,000 test queries in any case. Each part runs in a process of its own, forked when everything is imported; time and
memory are those of the part alone, over what was held before it. An exponent of 1 is growth in proportion to the
labels; it is fitted to all sizes. Clustering is that of as many vectors as there are labels. Writes scale.json to
--output_dir.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import DatasetDict
from gpu import made_data, make_encoder  # beside this file
from losses import resident
from rich.console import Console
from rich.table import Table

from hf_xmc import (
    LabelIndex,
    XMCDataset,
    XMCDualEncoderModel,
    XMCPipeline,
    XMCTrainer,
    XMCTrainingArguments,
    load_xmc_dataset,
)
from hf_xmc.data.dataset import prepare_xmc_dataset
from hf_xmc.errors import Problems
from hf_xmc.inference.evaluation.evaluate import predict_split, score
from hf_xmc.retrieval import baselines
from hf_xmc.sampling.clusters import balanced_clusters

QUERIES, ASKED, DIM, K = 10_000, 1_000, 64, 10
STRATEGIES = ("all", "in_batch", "mixed", "selective")
INDEXES = ("flat", "hnsw", "ivf-flat", "rabitq")
Part = Callable[[], Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--labels", nargs="+", type=int, default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--parts", nargs="+", help="Names of parts, or their beginnings; by default all.")
    parser.add_argument("--output_dir", type=Path, default=Path("outputs/benchmarks"))
    args = parser.parse_args()
    found: dict[str, dict[int, dict[str, float]]] = {}
    for size in args.labels:
        with tempfile.TemporaryDirectory() as folder:
            in_a_fork(partial(make_files, Path(folder), size))
            for name in names():
                if args.parts is None or name.startswith(tuple(args.parts)):
                    found.setdefault(name, {})[size] = in_a_fork(partial(measure, Path(folder), name))
                    print(size, name, found[name][size], file=sys.stderr, flush=True)
                    args.output_dir.mkdir(parents=True, exist_ok=True)
                    (args.output_dir / "scale.json").write_text(json.dumps(found, indent=1) + "\n")
    show(found, args.labels)


def names() -> list[str]:
    """The parts, in the order of a project."""
    training = [f"step, {strategy}" for strategy in STRATEGIES]
    searching = [f"{what}, {kind}" for kind in INDEXES for what in ("index", "search")]
    return ["prepare", "label bank", "mining", *training, "clustering", *searching, "tf-idf", "evaluate", "predict"]


def in_a_fork(task: Callable[[], Any]) -> Any:
    """What a task returns, run in a copy of this process that ends with it."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    process = context.Process(target=lambda: theirs.send(task()))
    process.start()
    theirs.close()
    try:
        result = ours.recv()
    except EOFError:
        result = {"seconds": float("nan"), "mb": float("nan")}  # it ran out of memory, or failed and said why
    process.join()
    return result


def make_files(folder: Path, size: int) -> None:
    """A raw trio, the same prepared, and an encoder."""
    make_encoder(folder / "encoder", "tiny")
    labels, queries = made_data(size, QUERIES + ASKED)
    (folder / "raw").mkdir()
    for name, table in (("lbl", labels), ("trn", queries.select(range(QUERIES)))):
        table.to_json(folder / "raw" / f"{name}.jsonl")
    test = queries.select(range(QUERIES, QUERIES + ASKED))
    test.to_json(folder / "raw/tst.jsonl")
    train = queries.select(range(QUERIES))
    counts = np.bincount(np.concatenate(train["labels"][:]), minlength=size)
    splits = DatasetDict(train=train, validation=test.select(range(100)), test=test)
    XMCDataset(splits, labels, "made", counts, QUERIES).save(folder / "data")


def measure(folder: Path, name: str) -> dict[str, float]:
    """Seconds of processor time of a part, and the peak of its memory over what was held before, in MB."""
    torch.manual_seed(0)
    run = prepared(folder, name)
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # forget the high-water mark
    start = time.process_time()
    run()
    return {"seconds": time.process_time() - start, "mb": (resident("VmHWM") - before) / 2**20}


def prepared(folder: Path, name: str) -> Part:
    """A part, ready to run."""
    if name == "prepare":
        (folder / "again").mkdir()
        return partial(prepare_xmc_dataset, str(folder / "raw"), folder / "again", Problems())
    data = load_xmc_dataset(str(folder / "data"))
    what, _, kind = name.partition(", ")
    if what == "step":
        return a_step(folder, data, kind)
    if what in ("label bank", "mining"):
        trainer = make_trainer(folder, data, "selective" if what == "label bank" else "mixed")
        if what == "mining":
            return partial(trainer.begin_epoch, 0)
        return partial(trainer.rule.first_bank, 0)
    if what == "tf-idf":
        texts = (data.queries["test"]["text"][:], data.labels["text"][:], data.queries["train"]["text"])
        return partial(baselines.tfidf, *texts, K)
    if what == "clustering":
        return partial(balanced_clusters, unit(data.num_labels).numpy(), data.num_labels // 16)
    vectors = unit(data.num_labels)
    if what == "index":
        return partial(LabelIndex.build, vectors, data.labels, kind)
    if what == "search":
        index, asked = LabelIndex.build(vectors, data.labels, kind), unit(ASKED)
        return partial(index.search, asked, K)
    model = XMCDualEncoderModel.from_encoder(str(folder / "encoder"))
    pipeline = XMCPipeline(model, LabelIndex.build(unit(data.num_labels, model.width("label")), data.labels, "flat"))
    if what == "predict":
        return partial(pipeline, data.queries["test"]["text"][:], K)
    return lambda: score(predict_split(pipeline, data, "test", K), data, "test")


def make_trainer(folder: Path, data: XMCDataset, strategy: str) -> XMCTrainer:
    args = XMCTrainingArguments(
        str(folder / "run"),
        label_strategy=strategy,
        use_cpu=True,
        per_device_train_batch_size=64,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
    )
    model = XMCDualEncoderModel.from_encoder(str(folder / "encoder"))
    return XMCTrainer(model=model, args=args, train_dataset=data.queries["train"], label_dataset=data.labels)


def a_step(folder: Path, data: XMCDataset, strategy: str) -> Part:
    """One step, forward and backward, after what an epoch begins with."""
    trainer = make_trainer(folder, data, strategy)
    trainer.begin_epoch(0)

    def step() -> None:
        batch = trainer.data_collator([trainer.train_dataset[row] for row in range(64)])
        trainer.compute_loss(trainer.model, batch).backward()

    if strategy == "selective":
        step()  # which fills the bank
    return step


def unit(count: int, dim: int = DIM) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.randn(count, dim), dim=1)


def show(found: dict[str, dict[int, dict[str, float]]], sizes: list[int]) -> None:
    table = Table(title="processor seconds (MB) by number of labels, and the exponent of the time")
    for column in ("part", *(f"{size:,}" for size in sizes), "exponent"):
        table.add_column(column, justify="left" if column == "part" else "right")
    for name, by_size in found.items():
        cells = [f"{by_size[size]['seconds']:.3g} ({by_size[size]['mb']:,.0f})" for size in sizes]
        table.add_row(name, *cells, f"{exponent([by_size[size]['seconds'] for size in sizes], sizes):.2f}")
    Console(width=120).print(table)


def exponent(seconds: list[float], sizes: list[int]) -> float:
    """The slope of log seconds by log labels."""
    if len(sizes) < 2:
        return float("nan")
    return float(np.polyfit(np.log(sizes), np.log(np.maximum(seconds, 1e-6)), 1)[0])


if __name__ == "__main__":
    main()
