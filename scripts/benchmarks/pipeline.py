"""Texts per second of the pipeline, from text to labels, compared with the encoder alone on the same tokens.

python scripts/benchmarks/pipeline.py outputs/demo/model [--dataset sample] [--split train] [--num_texts 2000]

Four contenders run alternately in one process:

- `AutoModel`: the backbone as transformers loads it, on texts that are already tokenised and sorted by length, with
  the batch size that was best in a first round; its output is hidden states only.
- `XMCPipeline.predict`: tokenising, encoding, pooling, searching.
- `XMCPipeline(...)`: the same, with labels as dicts.
- `predict_file`: the same from a Parquet file to a Parquet file, fingerprints included.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
import transformers
from rich.console import Console
from rich.table import Table
from transformers import AutoModel

from hf_xmc import XMCDualEncoderModel, XMCPipeline, load_xmc_dataset
from hf_xmc.hub.run import write_json
from hf_xmc.inference.batch import predict_file
from hf_xmc.modeling.packaged import packaged_encoder

BATCH_SIZES = (8, 16, 32, 64, 128)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", help="A trained folder; by default an untrained packaged encoder.")
    parser.add_argument("--dataset", default="sample")
    parser.add_argument("--split", default="train")
    parser.add_argument("--num_texts", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--batch_size", type=int, default=64, help="Batch size of the pipeline.")
    parser.add_argument("--output", type=Path, default=Path("outputs/benchmarks/pipeline.json"))
    args = parser.parse_args()
    data = load_xmc_dataset(args.dataset)
    texts = data.queries[args.split]["text"][: args.num_texts]
    pipeline = load(args.model, data)
    raw = backbone(pipeline.model)
    tokens = pipeline.model.tokenize(texts, "query")
    some = tokens[: len(tokens) // 4]
    trial = {size: timed(partial(encode, raw, some, size)) for size in BATCH_SIZES}
    best = min(trial, key=lambda size: trial[size])
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "texts.parquet", Path(folder) / "tags.parquet"
        pq.write_table(pa.table({"text": texts}), source)
        contenders: dict[str, Callable[[], Any]] = {
            f"AutoModel (batches of {best})": lambda: encode(raw, tokens, best),
            "XMCPipeline.predict": lambda: pipeline.predict(texts, batch_size=args.batch_size),
            "XMCPipeline(...)": lambda: pipeline(texts, batch_size=args.batch_size),
            "predict_file": lambda: predict_file(pipeline, source, target, batch_size=args.batch_size),
        }
        seconds: dict[str, list[float]] = {name: [] for name in contenders}
        for _ in range(args.repeats):  # in turn, so that a busy moment hits all of them
            for name, run in contenders.items():
                seconds[name].append(timed(run))
    (first, alone), *rest = seconds.items()
    result = {
        "dataset": data.name,
        "num_texts": len(texts),
        "num_tokens": sum(map(len, tokens)),
        "num_labels": len(pipeline.index),
        "factory": pipeline.index.factory,
        "memory": pipeline.memory is not None,
        "batch_size": args.batch_size,
        "seconds_by_batch_size": {str(size): value for size, value in trial.items()},
        "texts_per_second": {name: len(texts) / statistics.median(times) for name, times in seconds.items()},
        # of each round, so that what slows the machine for a while slows both
        "throughput_ratio": {
            name: statistics.median(a / b for a, b in zip(alone, times, strict=True)) for name, times in rest
        },
        "seconds": seconds,
        "threads": torch.get_num_threads(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {pipeline.model.device}",
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
    }
    print_result(result, first)
    write_json(result, args.output)


def load(name: str | None, data: Any) -> XMCPipeline:
    if name is not None:
        return XMCPipeline.from_pretrained(name, device=torch.accelerator.current_accelerator())
    encoder = XMCDualEncoderModel.from_encoder(packaged_encoder(), max_query_length=128)
    return XMCPipeline.build(encoder, data.labels)


def backbone(model: XMCDualEncoderModel) -> torch.nn.Module:
    """The encoder as `AutoModel.from_pretrained` gives it, by way of a folder."""
    assert model.query_encoder is not None, "this compares with the encoder, and the model has none"
    with tempfile.TemporaryDirectory() as folder:
        model.query_encoder.save_pretrained(folder)
        return AutoModel.from_pretrained(folder, add_pooling_layer=False).to(model.device).eval()


@torch.inference_mode()
def encode(model: torch.nn.Module, tokens: list[list[int]], batch_size: int) -> None:
    """Hidden states of all texts, batched by length, so that there is as little padding as can be."""
    order = sorted(tokens, key=len)
    for start in range(0, len(order), batch_size):
        rows = [torch.tensor(row) for row in order[start : start + batch_size]]
        ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        mask = torch.arange(ids.shape[1]) < torch.tensor([len(row) for row in rows])[:, None]
        device = next(model.parameters()).device
        model(input_ids=ids.to(device), attention_mask=mask.long().to(device))


def timed(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def print_result(result: dict[str, Any], first: str) -> None:
    table = Table(
        title=f"{result['num_texts']:,} texts, {result['num_tokens']:,} tokens, {result['num_labels']:,} labels"
    )
    table.add_column("")
    table.add_column("texts per second", justify="right")
    table.add_column(f"share of {first}", justify="right")
    for name, rate in result["texts_per_second"].items():
        ratio = result["throughput_ratio"].get(name)
        table.add_row(name, f"{rate:.1f}", "" if ratio is None else f"{ratio:.3f}")
    Console().print(table)


if __name__ == "__main__":
    main()
