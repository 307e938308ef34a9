"""Processor time and peak memory of each part by the number of labels, and the exponent of growth.

    OMP_NUM_THREADS=1 python scripts/benchmarks/scale.py
    OMP_NUM_THREADS=1 python scripts/benchmarks/scale.py --labels 1000000 --lines prepare "search, hnsw"

Texts are made, the encoder is a transformer of two layers and 32 dimensions with random weights, the vectors of
clustering and indexes are groups of 64 neighbours in 64 dimensions: what grows is the catalogue. There are 10,000
training queries and 1,000 test queries in any case; steps have 64 queries. Each line runs in a process of its own, one
after another, the cheapest first, and is written to scale.json in --output_dir at once: a command that is repeated
measures only what is missing there.

Time is that of the line alone. Memory is its peak over what was held before it, and the peak of the whole process. An
exponent of 1 is growth in proportion to the labels: `exponent` is fitted to all sizes, `last` is that between the two
largest. For each kind of index FAISS alone does the same work, with the same parameters.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
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
from hf_xmc.inference.evaluation.evaluate import evaluate
from hf_xmc.retrieval import baselines
from hf_xmc.retrieval.factories import FACTORIES, default_parameters, make_index
from hf_xmc.sampling.clusters import balanced_clusters

QUERIES, ASKED, DIM, NEAR, K = 10_000, 1_000, 64, 64, 10
STRATEGIES = ("in_batch", "mined", "mixed", "selective", "all")
# These take minutes with a million labels.
DEAR = ("label bank", "mining", "index, hnsw", "search, hnsw", "FAISS alone, search, hnsw")
DEAREST = ("step, all", "FAISS alone, index, hnsw")
Part = Callable[[], Any]
Found = dict[str, dict[int, dict[str, float]]]  # by line and number of labels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--labels", nargs="+", type=int, default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--lines", nargs="+", help="Names of lines, or their beginnings; by default all.")
    parser.add_argument("--again", action="store_true", help="Measure what is in scale.json already as well.")
    parser.add_argument("--output_dir", type=Path, default=Path("outputs/benchmarks"))
    args = parser.parse_args()
    path = args.output_dir / "scale.json"
    found = read(path)
    wanted = [line for line in cheapest_first() if args.lines is None or line.startswith(tuple(args.lines))]
    for size in args.labels:
        folder = args.output_dir / f"scale_{size}"
        for line in wanted:
            if size in found.get(line, {}) and not args.again:
                continue
            if not (folder / "data").is_dir():
                in_a_fork(partial(make_files, folder, size))
            measured = in_a_fork(partial(measure, folder, line))
            print(size, line, measured, file=sys.stderr, flush=True)
            if measured is not None:
                found.setdefault(line, {})[size] = measured
                path.write_text(json.dumps(found, indent=1) + "\n")
    show(found)


def read(path: Path) -> Found:
    """What earlier runs have measured."""
    if not path.is_file():
        return {}
    return {
        line: {int(size): row for size, row in rows.items()} for line, rows in json.loads(path.read_text()).items()
    }


def lines() -> list[str]:
    """The lines, in the order of a project."""
    training = [f"step, {strategy}" for strategy in STRATEGIES]
    searching = [
        f"{who}{what}, {kind}" for kind in FACTORIES for what in ("index", "search") for who in ("", "FAISS alone, ")
    ]
    return ["prepare", "label bank", "mining", *training, "clustering", *searching, "tf-idf", "evaluate", "predict"]


def cheapest_first() -> list[str]:
    """The lines, those that take long with a million labels at the end; an index is built before it is searched."""
    return [*(line for line in lines() if line not in DEAR + DEAREST), *DEAR, *DEAREST]


def in_a_fork(task: Callable[[], Any]) -> Any:
    """What a task returns, run in a copy of this process that ends with it; None if it failed, and said why."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    process = context.Process(target=lambda: theirs.send(task()))
    process.start()
    theirs.close()
    try:
        return ours.recv()
    except EOFError:
        return None
    finally:
        process.join()


def make_files(folder: Path, size: int) -> None:
    """A raw trio, the same prepared, and an encoder."""
    make_encoder(folder / "encoder", "tiny")
    labels, queries = made_data(size, QUERIES + ASKED)
    (folder / "raw").mkdir(exist_ok=True)
    for name, table in (("lbl", labels), ("trn", queries.select(range(QUERIES)))):
        table.to_json(folder / "raw" / f"{name}.jsonl")
    test = queries.select(range(QUERIES, QUERIES + ASKED))
    test.to_json(folder / "raw/tst.jsonl")
    train = queries.select(range(QUERIES))
    counts = np.bincount(np.concatenate(train["labels"][:]), minlength=size)
    splits = DatasetDict(train=train, validation=test.select(range(100)), test=test)
    XMCDataset(splits, labels, "made", counts, QUERIES).save(folder / "data")


def measure(folder: Path, line: str) -> dict[str, float]:
    """Seconds of processor time of a line; MB at its peak, over what was held before and of the whole process."""
    torch.manual_seed(0)
    run = prepared(folder, line)
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # forget the high-water mark
    start = time.process_time()
    made = run()
    seconds, peak = time.process_time() - start, resident("VmHWM")
    if isinstance(made, LabelIndex):
        made.save_pretrained(folder / line)  # for the line that searches it
    return {"seconds": seconds, "mb": (peak - before) / 2**20, "whole_mb": peak / 2**20}


def prepared(folder: Path, line: str) -> Part:
    """A line, ready to run."""
    if line == "prepare":
        (folder / "again").mkdir(exist_ok=True)
        return partial(prepare_xmc_dataset, str(folder / "raw"), folder / "again", Problems())
    data = load_xmc_dataset(str(folder / "data"))
    what, _, kind = line.removeprefix("FAISS alone, ").partition(", ")
    if what == "step":
        return a_step(folder, data, kind)
    if what == "label bank":
        return partial(make_trainer(folder, data, "selective").rule.first_bank, 0)
    if what == "mining":
        return partial(make_trainer(folder, data, "mixed").begin_epoch, 0)
    if what == "tf-idf":
        texts = (data.queries["test"]["text"][:], data.labels["text"][:], data.queries["train"]["text"])
        return partial(baselines.tfidf, *texts, K)
    if what == "clustering":
        return partial(balanced_clusters, neighbours(data.num_labels).numpy(), data.num_labels // 16)
    if what in ("index", "search"):
        return of_index(folder, data, what, kind, alone=line.startswith("FAISS alone"))
    model = XMCDualEncoderModel.from_encoder(str(folder / "encoder"))
    vectors = neighbours(data.num_labels, model.width("label"))
    pipeline = XMCPipeline(model, LabelIndex.build(vectors, data.labels, "flat"))
    del vectors
    if what == "predict":
        return partial(pipeline, data.queries["test"]["text"][:], K)
    return partial(evaluate, pipeline, data, "test", folder / "evaluation", K)


def of_index(folder: Path, data: XMCDataset, what: str, kind: str, alone: bool) -> Part:
    """Building an index of label vectors, or searching it; by FAISS alone with the parameters of ours."""
    vectors = neighbours(data.num_labels)
    asked = torch.nn.functional.normalize(
        vectors[:: data.num_labels // ASKED][:ASKED] + 0.05 * torch.randn(ASKED, DIM)
    )
    if what == "index" and not alone:
        return partial(LabelIndex.build, vectors, data.labels, kind)
    if what == "index":
        return partial(by_faiss, kind, vectors.numpy())
    del vectors
    index = LabelIndex.from_pretrained(folder / f"index, {kind}")
    return partial(index.index.index.search, asked.numpy(), K) if alone else partial(index.search, asked, K)


def by_faiss(kind: str, vectors: np.ndarray) -> Any:
    index = make_index(kind, vectors, default_parameters(kind, len(vectors)))
    index.add_with_ids(vectors, np.arange(len(vectors)))
    return index


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
    """One step, forward and backward, from random mined negatives or a random bank: other lines measure those."""
    trainer = make_trainer(folder, data, strategy)
    if strategy in ("mined", "mixed"):
        shape = (QUERIES, trainer.args.mining_depth)
        trainer.rule.mined.table = torch.randint(data.num_labels, shape, dtype=torch.int32)

    def step() -> None:
        batch = trainer.data_collator([trainer.train_dataset[row] for row in range(64)])
        trainer.compute_loss(trainer.model, batch).backward()

    if strategy == "selective":
        trainer.args.label_bank_init = "random"
        step()  # which fills the bank
    return step


def neighbours(count: int, dim: int = DIM) -> torch.Tensor:
    """Unit vectors in groups of neighbours, as texts about one subject are, float32 `[count, dim]`."""
    centres = torch.nn.functional.normalize(torch.randn(-(-count // NEAR), dim), dim=1)
    vectors = centres.repeat_interleave(NEAR, 0)[:count]
    return torch.nn.functional.normalize(vectors.add_(torch.randn(count, dim), alpha=0.7 / dim**0.5), dim=1)


def show(found: Found) -> None:
    sizes = sorted({size for rows in found.values() for size in rows})
    table = Table(title="processor seconds (MB over what was held, MB of the process) by number of labels")
    for column in ("line", *(f"{size:,}" for size in sizes), "exponent", "last"):
        table.add_column(column, justify="left" if column == "line" else "right")
    for line in lines():
        rows = found.get(line, {})
        if rows:
            times = {size: row["seconds"] for size, row in rows.items()}
            cells = [cell(rows.get(size)) for size in sizes]
            table.add_row(line, *cells, f"{exponent(times):.2f}", f"{exponent(dict(sorted(times.items())[-2:])):.2f}")
    Console(width=140).print(table)


def cell(row: dict[str, float] | None) -> str:
    return "" if row is None else f"{row['seconds']:.3g} ({row['mb']:,.0f}, {row['whole_mb']:,.0f})"


def exponent(seconds: dict[int, float]) -> float:
    """The slope of log seconds by log labels."""
    if len(seconds) < 2:
        return float("nan")
    return float(np.polyfit(np.log([*seconds]), np.log(np.maximum([*seconds.values()], 1e-6)), 1)[0])


if __name__ == "__main__":
    main()
