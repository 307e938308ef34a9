"""RAE-XMC training (`--query_keys`) beside the same training without it, each with the query memory and all channels.

    python scripts/benchmarks/memory_training.py biotools_edam --preset fast --seeds 0 1 2
    python scripts/benchmarks/memory_training.py bible_xref --tokens 48 --label_strategy in_batch --channels memory \
        --fusion weights --epochs 2 --seeds 0 1 2
    python scripts/benchmarks/memory_training.py biotools_edam --preset fast --seeds 0 1 2 --split test

Trains as `hf-xmc fit` does (`hf_xmc/fit/stages.py`), with a frozen encoder whose states are computed once, or without
an encoder (`--preset fast`). Then the channels are fitted, and the tagger is measured by its label vectors alone, by
the memory alone, and as a whole. Validation figures are of the half on which nothing was chosen. Both splits are
measured in the same run and written to `--output`; the table shows one of them, so that choices can be made without
seeing test. What is in the file already is not run again.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from contextlib import redirect_stdout
from dataclasses import replace
from io import StringIO
from pathlib import Path

import numpy as np
import yaml
from rich.console import Console
from rich.table import Table
from transformers.utils import logging

from hf_xmc import XMCDataset, XMCPipeline, load_xmc_dataset
from hf_xmc.fit import stages
from hf_xmc.fit.plan import Plan
from hf_xmc.fit.settings import settings_from
from hf_xmc.hub.run import read_json, write_json
from hf_xmc.inference.evaluation.evaluate import label_weights
from hf_xmc.inference.fitting.confidence import fit_from_embeddings, halves
from hf_xmc.inference.labels import build_index
from hf_xmc.metrics import ranking_metrics, search_depth
from hf_xmc.modeling.packaged import default_encoder

SHOWN = ("P@1", "P@5", "nDCG@5", "PSP@1", "PSP@5")
WAYS = {"as fit does": False, "with query keys": True}
STATIC = 0.25
Figures = dict[str, dict[str, float]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="Data set: a folder, or a name in $HF_XMC_DATA.")
    parser.add_argument("--preset", choices=("fast", "default"), default="default")
    parser.add_argument("--label_strategy", default="all", help="Labels that a step compares with.")
    parser.add_argument("--channels", nargs="+", default=["memory", "names", "lexical"])
    parser.add_argument("--fusion", default="auto", help="How channels are combined: weights, learned or auto.")
    parser.add_argument("--tokens", type=int, default=64, help="Tokens of a text that the encoder reads.")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument(
        "--static_weight", type=float, default=STATIC, help="Share of the word vectors in the embedding."
    )
    parser.add_argument("--temperature", type=float, help="Of the loss. Default: that of the preset.")
    parser.add_argument("--train", nargs="+", default=[], metavar="NAME=VALUE", help="Further training arguments.")
    parser.add_argument("--ways", nargs="+", choices=tuple(WAYS), default=list(WAYS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--split", choices=("validation", "test"), default="validation", help="What the table shows.")
    parser.add_argument("--output", type=Path, default=Path("outputs/benchmarks/memory_training.json"))
    args = parser.parse_args()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    data, results = load_xmc_dataset(args.data), read_json(args.output)
    setting = f"{data.name}, {args.preset}, {args.label_strategy}, {args.epochs} epochs, {'+'.join(args.channels)}"
    setting += f", static {args.static_weight}" if args.static_weight != STATIC else ""
    setting += "".join(f", {more}" for more in args.train)
    setting += f", temperature {args.temperature}" if args.temperature else ""
    rows = results.setdefault(setting, {})
    for seed in args.seeds:
        for name in args.ways:
            if f"{name}, seed {seed}" not in rows:
                rows[f"{name}, seed {seed}"] = measured(data, args, seed, WAYS[name])
                args.output.parent.mkdir(parents=True, exist_ok=True)
                write_json(results, args.output)
    Console(width=140).print(table_of(setting, rows, args.split))


def measured(data: XMCDataset, args: argparse.Namespace, seed: int, query_keys: bool) -> dict[str, Figures]:
    """The metrics of one training, by split and by what ranks."""
    fast = args.preset == "fast"
    settings = settings_from(
        args.preset, seed=seed, query_keys=query_keys, epochs=args.epochs, batch_size=256,
        channels=tuple(args.channels), max_query_length=None if fast else args.tokens,
    )  # fmt: skip
    if args.temperature:
        settings = replace(settings, temperature=args.temperature)
    weight = 1.0 if fast else args.static_weight
    plan = Plan((), settings, args.label_strategy, hidden=0 if fast else 384, weights=(weight,))
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(StringIO()):
        model = stages.first_model(plan, None if fast else default_encoder(), None, weight)
        trainer = stages.trainer_for(model, plan, data, Path(folder), stages.ShareDone(lambda share: None))
        trainer.args.eval_strategy = trainer.args.save_strategy = "no"
        trainer.args.load_best_model_at_end = False
        trainer.args.encode_dtype = "auto"
        for name, value in (more.split("=") for more in args.train):
            setattr(trainer.args, name, yaml.safe_load(value))
        started = time.process_time()
        trainer.train()
        seconds = time.process_time() - started
        labels = np.arange(data.num_labels), trainer.table(trainer.label_tokens, "label")
        tokens = {split: trainer.tokenize(model, queries, None).tokens for split, queries in data.queries.items()}
        embedded = {split: trainer.table(table, "query").numpy() for split, table in tokens.items()}
        plain = XMCPipeline(trainer.model, build_index(trainer.model, data.labels, labels), {})
        chosen_by = {"channels": args.channels, "fusion": args.fusion, "seed": seed}
        tagger = fit_from_embeddings(plain, data, embedded, **chosen_by).pipeline
    found: dict[str, Figures] = {}
    for split in ("validation", "test"):
        number = len(data.queries[split])
        chosen = halves(number, seed)[1] if split == "validation" else np.arange(number)
        texts, filters = data.queries[split].select(chosen)["text"][:], data.filters.get(split)
        depth, embeddings = search_depth(5, filters), embedded[split][chosen]
        ranked = {"label vectors": tagger.rank(embeddings, depth, texts, channels=())}
        ranked |= {c.name: c.rank(texts, embeddings, depth).sorted().padded(depth) for c in tagger.channels}
        ranked["tagger"] = tagger.rank(embeddings, depth, texts)
        truth, removed = data.positives(split).take(chosen), None if filters is None else filters.take(chosen)
        scored = {
            name: ranking_metrics(one, truth, (1, 5), label_weights(data), removed) for name, one in ranked.items()
        }
        found[split] = {name: {metric: one[metric] for metric in SHOWN} for name, one in scored.items()}
    found["seconds"] = {"training": {"CPU": seconds}}
    return found


def table_of(title: str, rows: dict[str, dict[str, Figures]], split: str) -> Table:
    """Mean over seeds, and half of the range."""
    table = Table(title=f"{title}; {split}, per cent")
    for column in ("", "", *SHOWN, "training, CPU s"):
        table.add_column(column, justify="left" if not column else "right")
    for way in (way for way in WAYS if any(name.startswith(way) for name in rows)):
        runs = [found for name, found in rows.items() if name.startswith(f"{way}, ")]
        for part in dict.fromkeys(part for run in runs for part in run[split]):
            cells = []
            for metric in SHOWN:
                values = [100 * run[split][part][metric] for run in runs if part in run[split]]
                spread = f" ± {(max(values) - min(values)) / 2:.1f}" if len(values) > 1 else ""
                cells.append(f"{np.mean(values):.1f}{spread}")
            seconds = np.mean([run["seconds"]["training"]["CPU"] for run in runs])
            table.add_row(way, f"{part} ({len(values)})", *cells, f"{seconds:.0f}")
    return table


if __name__ == "__main__":
    main()
