"""`hf-xmc fuse`: learn how the scores of a label's text and of its classifier are combined."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hf_xmc.cli.tables import console, predict_command, print_metrics, print_next, print_removed, quoted

EXAMPLE = "Example: hf-xmc fuse outputs/ngame --dataset sample"


def fuse(
    run: Annotated[
        Path, typer.Argument(help="Folder trained with --label_head classifier; its index is written again.")
    ],
    dataset: Annotated[str, typer.Option("--dataset", help="Data set that the model was trained on.")],
    depth: Annotated[
        int,
        typer.Option("--depth", help="Labels per query to learn from: as many by text as by classifier.", min=1),
    ] = 100,
    batch_size: Annotated[int, typer.Option("--batch_size", help="Texts encoded at a time.", min=1)] = 64,
    seed: Annotated[
        int, typer.Option("--seed", help="Seed for splitting validation into halves, as in hf-xmc calibrate.")
    ] = 0,
) -> None:
    """Learn on half of validation how the scores of text and classifier are combined, and index the combination."""
    from hf_xmc.data.dataset import load_xmc_dataset
    from hf_xmc.inference.fitting.label_head import fuse_label_head

    data = load_xmc_dataset(dataset)
    fitted = fuse_label_head(run, data, batch_size, seed, depth)
    summary = fitted.summary
    part = f"{data.name}, validation queries that chose nothing ({summary['measured_on']:,})"
    print_metrics(f"{part}, per cent", summary["metrics"])
    chosen = next(row["name"] for row in summary["tried"] if row["fusion"] == summary["fusion"])
    numbers = ", ".join(f"{name} {value:.3f}" for name, value in summary["fusion"].items())
    console.print(f"Chosen: {chosen} ({numbers}). Written to {run}: label_head.safetensors, index/", highlight=False)
    print_removed(fitted.removed)
    print_next(
        f"hf-xmc evaluate {quoted(run)} --dataset {quoted(dataset)}",
        f"hf-xmc calibrate {quoted(run)} --dataset {quoted(dataset)}",
        predict_command(run),
    )
