"""Measure query memory, centroids and calibration on the test splits of real data sets.

    python scripts/benchmarks/confidence.py biotools_edam bible_xref --features outputs/features

The system is the packaged all-MiniLM-L6-v2, frozen, with projections trained over all labels; the encoder alone is
printed beside it. Texts are encoded once: their pooled states are kept as `<set>_<split>.npy` in `--features`.
Settings are chosen on one half of validation and calibrated on the other (`hf_xmc.inference.fitting.confidence`).
Prints one table per data set and adds to `confidence.json`.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from hf_xmc import LabelIndex, XMCDataset, XMCDualEncoderModel, XMCPipeline, XMCTrainer, XMCTrainingArguments
from hf_xmc import load_xmc_dataset as load
from hf_xmc.cli.tables import print_confidence, print_metrics
from hf_xmc.data.tokenized import TokenTable
from hf_xmc.hub.run import versions
from hf_xmc.inference.evaluation.confidence import measure_confidence
from hf_xmc.inference.fitting.confidence import Fit, fit_from_embeddings, some
from hf_xmc.metrics import inverse_propensity, ranking_metrics, search_depth
from hf_xmc.modeling.packaged import packaged_encoder
from hf_xmc.types import TopK

SETS = ("biotools_edam", "bible_xref", "yso_finna_en", "eurlex57k_256w")
PARTS = ("labels", "train", "validation", "test")
SHOWN = ("P@1", "P@5", "nDCG@5", "PSP@1", "PSP@5")
console = Console()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="*", default=list(SETS))
    parser.add_argument("--features", type=Path, default=Path("outputs/features"))
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--batch_size", type=int, default=512)
    parser.add_argument("--learning_rate", type=float, default=1e-3)
    parser.add_argument("--level", type=float, default=0.9)
    parser.add_argument("--max_depth", type=int, default=20_000)
    parser.add_argument(
        "--test_queries", type=int, default=6000, help="Number of test queries, from the start of the split."
    )
    parser.add_argument("--output", type=Path, default=Path("outputs/benchmarks/confidence.json"))
    args = parser.parse_args()
    results = json.loads(args.output.read_text()) if args.output.is_file() else {}
    for name in args.sets:
        data = load(name)
        model = XMCDualEncoderModel.from_encoder(packaged_encoder(), projection_dim=384)
        pooled = {part: features(model, data, part, args.features / f"{name}_{part}.npy") for part in PARTS}
        pooled["test"] = pooled["test"][: args.test_queries]
        raw = {part: unit(states) for part, states in pooled.items()}
        seconds = train(model, data, pooled, args)
        embeddings = {part: embed(model, states, part) for part, states in pooled.items()}
        results[name] = {
            "steps": args.steps,
            "batch_size": args.batch_size,
            "learning_rate": args.learning_rate,
            "train_seconds": round(seconds, 1),
            "versions": versions(),
            **compare(model, data, embeddings, raw, args.level, args.max_depth),
        }
        args.output.parent.mkdir(parents=True, exist_ok=True)
        args.output.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


def compare(
    model: XMCDualEncoderModel,
    data: XMCDataset,
    embeddings: dict[str, np.ndarray],
    raw: dict[str, np.ndarray],
    level: float,
    max_depth: int,
) -> dict[str, Any]:
    """Fit every combination, measure all on test, print a table."""
    plain = pipeline(model, data, embeddings["labels"])
    rows = {
        "MiniLM": metrics(pipeline(model, data, raw["labels"]), data, raw["test"]),
        "trained projections": metrics(plain, data, embeddings["test"]),
    }
    start, fits = time.perf_counter(), dict[str, Fit]()
    for name, memory, centroids in (("memory", True, False), ("centroids", False, True), ("both", True, True)):
        same = name == "both" and fits["centroids"].summary["centroids"] is None  # nothing but the memory again
        fits[name] = (
            fits["memory"]
            if same
            else fit_from_embeddings(plain, data, embeddings, level, memory, centroids, max_depth=max_depth)
        )
        rows[f"+ {name}"] = metrics(fits[name].pipeline, data, embeddings["test"])
    fitted = time.perf_counter() - start
    print_metrics(f"{data.name}, test ({len(embeddings['test']):,} queries), per cent", rows, SHOWN)
    confidence = {}
    alone = fit_from_embeddings(plain, data, embeddings, level, memory=False, max_depth=max_depth)
    for name, fit in (("trained projections", alone), ("+ memory", fits["memory"])):
        confidence[name] = on_test(fit, data, embeddings["test"])
        console.print(f"[bold]{name}[/], {confidence[name]['depth']} predictions per query", highlight=False)
        errors = confidence[name]["calibration"]
        shown = {f"{key} {when}": errors[when][key] for when in errors for key in ("ECE@1", "ECE@5")}
        print_confidence(shown, confidence[name]["sets"])
    return {
        "metrics": {name: {key: row[key] for key in SHOWN} for name, row in rows.items()},
        "settings": {name: {key: fit.summary[key] for key in ("memory", "centroids")} for name, fit in fits.items()},
        "fit_seconds": round(fitted, 1),
        "confidence": confidence,
    }


def on_test(fit: Fit, data: XMCDataset, queries: np.ndarray) -> dict[str, Any]:
    """Calibration errors and coverage on the test split."""
    fitted = fit.pipeline.confidence
    assert fitted is not None
    truth, filters = data.positives("test"), data.filters.get("test")
    rows = some(np.arange(len(queries)), fitted.depth, seed=0)
    topk = fit.pipeline.rank(queries[rows], fitted.depth)
    measured = measure_confidence(topk, truth.take(rows), fitted, None if filters is None else filters.take(rows))
    miss_rate = {name: risk.miss_rate for name, risk in fitted.risks.items()}
    return {
        "depth": fitted.depth,
        "calibrated_on": fit.summary["calibrated_on"],
        "miss_rate": miss_rate,
        **{key: measured[key] for key in ("num_queries", "calibration", "sets")},
    }


def metrics(system: XMCPipeline, data: XMCDataset, queries: np.ndarray) -> dict[str, float]:
    """Ranking metrics on the test split."""
    weights = inverse_propensity(data.train_label_counts, data.num_train_queries, **data.propensity)
    rows, filters = np.arange(len(queries)), data.filters.get("test")
    filters = None if filters is None else filters.take(rows)
    topk: TopK = system.rank(queries, search_depth(5, filters)).sorted().first(search_depth(5, filters))
    return ranking_metrics(topk, data.positives("test").take(rows), (1, 5), weights, filters)


def pipeline(model: XMCDualEncoderModel, data: XMCDataset, labels: np.ndarray) -> XMCPipeline:
    return XMCPipeline(model, LabelIndex.build(labels, data.labels))


def train(
    model: XMCDualEncoderModel, data: XMCDataset, pooled: dict[str, torch.Tensor], args: argparse.Namespace
) -> float:
    """Train the projections over all labels, from states that are there already; returns seconds."""
    settings = XMCTrainingArguments(
        "outputs/benchmarks/run",
        max_steps=args.steps,
        per_device_train_batch_size=args.batch_size,
        learning_rate=args.learning_rate,
        freeze_encoder=True,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
    )
    ignored = data.filters.get("train")
    trainer = XMCTrainer(model, settings, data.queries["train"], None, data.labels, train_ignored=ignored)
    trainer.encoder.features |= {trainer.label_tokens: pooled["labels"], trainer.train_dataset.tokens: pooled["train"]}
    start = time.perf_counter()
    trainer.train()
    return time.perf_counter() - start


def features(model: XMCDualEncoderModel, data: XMCDataset, part: str, path: Path) -> torch.Tensor:
    """Pooled states of the texts of a split or of the labels, from `path` if it is there, `[N, H]`."""
    side = "label" if part == "labels" else "query"
    table = data.labels if part == "labels" else data.queries[part]
    if not path.is_file():
        tokens = TokenTable.build(table, lambda texts: model.tokenize(texts, side))  # type: ignore[arg-type]
        states = model.encode_tokens(tokens, side, progress=True, output="pooled")  # type: ignore[arg-type]
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, states.numpy())
    states = torch.from_numpy(np.load(path))
    assert len(states) == len(table), f"{path} has {len(states)} rows for {len(table)} texts: delete it."
    return states


@torch.no_grad()
def embed(model: XMCDualEncoderModel, pooled: torch.Tensor, part: str) -> np.ndarray:
    """Embeddings from pooled states, `[N, D]`."""
    return model(pooled=pooled, side="label" if part == "labels" else "query").embeddings.numpy()


def unit(states: torch.Tensor) -> np.ndarray:
    """What the encoder gives without a projection."""
    return torch.nn.functional.normalize(states, dim=-1).numpy()


if __name__ == "__main__":
    main()
