"""What the parts of NGAME contribute: batches of similar queries instead of random ones, and per-label vectors on top.

    python scripts/benchmarks/ngame.py --part batches --data biotools_edam --split validation
    python scripts/benchmarks/ngame.py --part batches --data bible_xref --seeds 0 1 2
    python scripts/benchmarks/ngame.py --part heads --data biotools_edam

- `batches`: candidates are the labels of the batch; batches are random, or unions of clusters of several sizes, with
  the same steps, seeds and settings.
- `heads`: no head, a residual head, a classifier trained together with the texts, and the stages of NGAME: a
  classifier on top of the trained model, with mined negatives. Label embeddings are those of the index; those of a
  classifier are fused with weights learned on the validation split (`hf_xmc.retrieval.head_fusion`).

The encoder is frozen and projections are trained, so that a run takes a minute; `--finetune` trains the encoder too.
Metrics are those of the test split; choose settings with `--split validation`. Prints a table (mean over seeds, and
half of the range) and writes ngame_<part>_<data>_<split>.json. The states of the frozen encoder come from the cache
after the first run.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from hf_xmc import XMCDataset, XMCDualEncoderModel, XMCTrainer, XMCTrainingArguments, load_xmc_dataset
from hf_xmc.hub.run import versions, write_json
from hf_xmc.inference.evaluation.evaluate import label_weights, score
from hf_xmc.inference.fitting.confidence import halves
from hf_xmc.metrics import search_depth
from hf_xmc.modeling import LabelHead
from hf_xmc.modeling.packaged import packaged_encoder
from hf_xmc.retrieval.head_fusion import fit_fusion
from hf_xmc.retrieval.search import exact_search

MEASURES = ("P@1", "P@5", "nDCG@5", "PSP@1", "PSP@5")
SPLITS = ("validation", "test")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=("batches", "heads"), required=True)
    parser.add_argument("--data", default="sample", help="'sample', a folder, or the name of one in $HF_XMC_DATA.")
    parser.add_argument("--encoder", help="Encoder; by default the packaged all-MiniLM-L6-v2.")
    parser.add_argument("--finetune", action="store_true", help="Train the encoder too.")
    parser.add_argument("--batch_size", type=int, default=256)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--max_steps", type=int, help="Number of steps, instead of --epochs.")
    parser.add_argument("--learning_rate", type=float, default=1e-3)
    parser.add_argument("--loss", default="decoupled_softmax")
    parser.add_argument("--num_positives", type=int)
    parser.add_argument("--cluster_sizes", type=int, nargs="+", default=[8, 32])
    parser.add_argument("--cluster_start_epoch", type=int, default=0)
    parser.add_argument("--cluster_refresh_epochs", type=int, default=1)
    parser.add_argument("--label_head_learning_rate", type=float, default=0.03)
    parser.add_argument(
        "--label_strategy", default="all", help="heads: label strategy of all stages except NGAME's second."
    )
    parser.add_argument("--max_query_length", type=int, default=128)
    parser.add_argument("--max_label_length", type=int, default=64)
    parser.add_argument("--split", choices=SPLITS, default="test")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--output_dir", type=Path, default=Path("outputs/benchmarks"))
    settings = parser.parse_args()

    data = load_xmc_dataset(settings.data)
    rows: dict[str, list[dict[str, float]]] = {}
    for seed in settings.seeds:
        found = batches(data, settings, seed) if settings.part == "batches" else heads(data, settings, seed)
        for name, metrics in found.items():
            rows.setdefault(name, []).append(metrics)
    show(f"{data.name}, {settings.split}, {len(settings.seeds)} seeds, per cent", rows)
    flags = {name: str(value) if isinstance(value, Path) else value for name, value in vars(settings).items()}
    path = settings.output_dir / f"ngame_{settings.part}_{Path(settings.data).name}_{settings.split}.json"
    print(write_json({"rows": rows, "settings": flags, "versions": versions()}, path))


def batches(data: XMCDataset, settings: Any, seed: int) -> dict[str, dict[str, float]]:
    """Random batches, and clusters of each size."""
    found = {}
    for size in (None, *settings.cluster_sizes):
        clustered: dict[str, Any] = (
            {}
            if size is None
            else {
                "train_sampling_strategy": "clustered",
                "cluster_size": size,
                "cluster_start_epoch": settings.cluster_start_epoch,
                "cluster_refresh_epochs": settings.cluster_refresh_epochs,
            }
        )
        trainer, seconds = train(data, settings, seed, None, label_strategy="in_batch", **clustered)
        name = "random batches" if size is None else f"clusters of {size}"
        found[name] = {**measured(trainer, data, settings), "seconds": seconds}
        print(name, seed, {key: round(100 * found[name][key], 2) for key in MEASURES}, flush=True)
    return found


def heads(data: XMCDataset, settings: Any, seed: int) -> dict[str, dict[str, float]]:
    """No head, heads trained with the texts or without, and a classifier on top."""
    strategy = {"label_strategy": settings.label_strategy}
    plain, seconds = train(data, settings, seed, None, **strategy)
    found = {"no head": {**measured(plain, data, settings), "seconds": seconds}}
    for kind, share in (("residual", 1.0), ("residual", 0.5), ("classifier", 0.5)):
        trainer, seconds = train(data, settings, seed, kind, label_head_loss_weight=share, **strategy)
        name = f"{kind}, loss weight {share}"
        found[name] = {**measured(trainer, data, settings), "seconds": seconds}
        found[f"- its texts alone ({name})"] = {**measured(trainer, data, settings, alone=True), "seconds": 0.0}
    second = {"label_strategy": "mixed", "label_head_loss_weight": 1.0, "freeze_encoder": True}
    trainer, seconds = train(data, settings, seed, "classifier", plain.model, **second)
    found["no head, then a classifier on top"] = {**measured(trainer, data, settings), "seconds": seconds}
    for name, metrics in found.items():
        print(name, seed, {key: round(100 * metrics[key], 2) for key in MEASURES}, flush=True)
    return found


def train(
    data: XMCDataset, settings: Any, seed: int, head: str | None, model: XMCDualEncoderModel | None = None, **args: Any
) -> tuple[XMCTrainer, float]:
    """A model after the steps of the settings, and the seconds that they took."""
    torch.manual_seed(seed)
    if model is None:
        model = XMCDualEncoderModel.from_encoder(
            settings.encoder or packaged_encoder(),
            projection_dim=None if settings.finetune else 384,
            label_head=head,
            max_query_length=settings.max_query_length,
            max_label_length=settings.max_label_length,
        )
    model.config.label_head = head
    steps = settings.max_steps or settings.epochs * (len(data.queries["train"]) // settings.batch_size)
    given = {
        "freeze_encoder": not settings.finetune,
        "disable_dropout": True,
        "per_device_train_batch_size": settings.batch_size,
        "max_steps": steps,
        "learning_rate": settings.learning_rate,
        "label_head_learning_rate": settings.label_head_learning_rate,
        "loss": settings.loss,
        "num_positives": settings.num_positives,
        "seed": seed,
        "logging_steps": 20,
        "report_to": "none",
        "save_strategy": "no",
        "gradient_caching": False if settings.finetune else None,
        "disable_tqdm": True,
    }
    with tempfile.TemporaryDirectory() as folder:
        trainer = XMCTrainer(
            model,
            XMCTrainingArguments(folder, **{**given, **args}),
            data.queries["train"],
            label_dataset=data.labels,
            train_ignored=data.filters.get("train"),
        )
        start = time.perf_counter()
        trainer.train()
        return trainer, time.perf_counter() - start


def measured(trainer: XMCTrainer, data: XMCDataset, settings: Any, alone: bool = False) -> dict[str, float]:
    """Metrics of the split, with the head or by the texts `alone`; a classifier is fused first, on validation."""
    head, texts = trainer.model.label_head, trainer.table(trainer.label_tokens, "label")  # [L, D]
    head = None if alone else head
    if head is not None and head.kind == "classifier":
        head.fusion = fusion(trainer, data, head, texts)
        print("fusion", head.fusion)
    labels = texts if head is None else head.embed(texts)
    return ranked(queries_of(trainer, data, settings.split), labels, data, settings.split)


def fusion(trainer: XMCTrainer, data: XMCDataset, head: LabelHead, texts: Tensor) -> dict[str, float]:
    """Weights of text and classifier, learned on half of the validation split."""
    tuning, _ = halves(len(data.queries["validation"]), seed=0)
    filters = data.filters.get("validation")
    found, _ = fit_fusion(
        queries_of(trainer, data, "validation")[tuning],
        texts,
        head.rows(torch.arange(len(texts))),
        head.frequency().numpy(),
        data.positives("validation").take(tuning),
        label_weights(data),
        None if filters is None else filters.take(tuning),
    )
    return found


def queries_of(trainer: XMCTrainer, data: XMCDataset, split: str) -> Tensor:
    """Embeddings of a split's queries, `[N, D]`."""
    tokens = trainer.tokenize(trainer.model, data.queries[split], data.filters.get(split)).tokens
    return trainer.encoder.table(tokens, "query")


def ranked(queries: Tensor, labels: Tensor, data: XMCDataset, split: str) -> dict[str, float]:
    topk = exact_search(queries, labels, search_depth(5, data.filters.get(split)))
    return {name: value for name, value in score(topk, data, split).items() if name in MEASURES}


def show(title: str, rows: Mapping[str, list[dict[str, float]]]) -> None:
    table = Table(title=title)
    for column in ("", *MEASURES, "seconds"):
        table.add_column(column, justify="right" if column else "left")
    for name, runs in rows.items():
        cells = []
        for measure in MEASURES:
            values = 100 * np.array([run[measure] for run in runs])
            spread = f" ± {np.ptp(values) / 2:.1f}" if len(values) > 1 else ""
            cells.append(f"{values.mean():.1f}{spread}")
        table.add_row(name, *cells, f"{np.mean([run['seconds'] for run in runs]):.0f}")
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
