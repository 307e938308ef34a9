"""`hf-xmc fuse`: learn what a label's text and its classifier count together."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hf_xmc.cli.tables import console, print_metrics, print_next

EXAMPLE = "Example: hf-xmc fuse outputs/ngame --dataset sample"


def fuse(
    run: Annotated[
        Path, typer.Argument(help="A folder trained with --label_head classifier; its index is made anew.")
    ],
    dataset: Annotated[str, typer.Option("--dataset", help="The set that it was trained on.")],
    depth: Annotated[
        int, typer.Option("--depth", help="Labels a query to learn from, by text and as many by classifier.", min=1)
    ] = 100,
    batch_size: Annotated[int, typer.Option("--batch_size", help="Texts encoded at a time.", min=1)] = 64,
    seed: Annotated[int, typer.Option("--seed", help="Of the halves of validation, as in hf-xmc calibrate.")] = 0,
) -> None:
    """Learn on half of validation how the scores of text and classifier are put together, and index both as one."""
    from hf_xmc.data.dataset import load_xmc_dataset
    from hf_xmc.errors import DataError
    from hf_xmc.hub.card import write_model_card
    from hf_xmc.hub.run import read_json, write_json
    from hf_xmc.inference.evaluation.evaluate import metrics_document, predict_split, score
    from hf_xmc.inference.fitting.label_head import fuse_head
    from hf_xmc.inference.pipeline import XMCPipeline

    if not run.is_dir():
        raise DataError("no such folder", run, hint="train a model with hf-xmc train --label_head classifier ...")
    data = load_xmc_dataset(dataset)
    fitted = fuse_head(XMCPipeline.from_pretrained(run), data, batch_size, seed, depth)
    gone, summary = fitted.save(run), fitted.summary
    if before := read_json(run / "metrics.json"):  # which were those of the model as it was
        found = score(predict_split(fitted.pipeline, data, "validation", 5, batch_size), data, "validation")
        document = metrics_document(found, data, "validation", 5, None, seed, before.get("train_seconds"))
        write_json(document, run / "metrics.json")
    write_model_card(run)
    part = f"{data.name}, validation queries that chose nothing ({summary['measured_on']:,})"
    print_metrics(f"{part}, per cent", summary["metrics"])
    chosen = next(row["name"] for row in summary["tried"] if row["fusion"] == summary["fusion"])
    numbers = ", ".join(f"{name} {value:.3f}" for name, value in summary["fusion"].items())
    console.print(f"Chosen: {chosen} ({numbers}). Written to {run}: label_head.safetensors, index/", highlight=False)
    if gone:
        console.print(
            f"[yellow]Removed, as fitted to the index before: {', '.join(gone)};[/] fit with hf-xmc calibrate."
        )
    print_next(
        f"hf-xmc evaluate {run} --dataset {dataset}",
        f"hf-xmc calibrate {run} --dataset {dataset}",
        f'hf-xmc predict {run} --text "..."',
    )
