"""`hf-xmc calibrate`: fit query memory and confidence to a trained folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hf_xmc.cli.tables import console, print_confidence, print_metrics, print_next

EXAMPLE = "Example: hf-xmc calibrate outputs/demo/model --dataset sample"


def calibrate(
    run: Annotated[Path, typer.Argument(help="A trained folder; memory/ and confidence.json are written into it.")],
    dataset: Annotated[str, typer.Option("--dataset", help="The set that it was trained on.")] = "",
    level: Annotated[
        float, typer.Option("--level", help="Of the label sets: 0.9 promises that nine of ten true labels are in.")
    ] = 0.9,
    memory: Annotated[
        bool, typer.Option("--memory/--no_memory", help="Let similar training queries vote, where that helps.")
    ] = True,
    centroids: Annotated[
        bool,
        typer.Option(
            "--centroids/--no_centroids",
            help="Draw label vectors towards their training queries, where that helps; writes a new index.",
        ),
    ] = False,
    method: Annotated[
        str, typer.Option("--method", help="Of the probabilities: isotonic, platt, temperature or beta.")
    ] = "isotonic",
    max_depth: Annotated[
        int,
        typer.Option("--max_depth", help="Predictions a query at most; deeper ones let sets promise more.", min=1),
    ] = 2000,
    batch_size: Annotated[int, typer.Option("--batch_size", help="Texts encoded at a time.", min=1)] = 64,
    seed: Annotated[int, typer.Option("--seed", help="Of the halves of validation.")] = 0,
) -> None:
    """Tune the memory on half of validation, fit probabilities, thresholds and label sets on the other half."""
    from hf_xmc.data.dataset import load_xmc_dataset
    from hf_xmc.errors import DataError
    from hf_xmc.inference.fitting.confidence import fit_confidence
    from hf_xmc.inference.pipeline import XMCPipeline
    from hf_xmc.retrieval.calibration import METHODS

    if method not in METHODS:  # before anything is encoded
        raise ValueError(f"method is {method!r}; expected one of {', '.join(METHODS)}.")
    if not 0 < level < 1:
        raise ValueError(f"level is {level}; it must lie between 0 and 1, as 0.9.")
    if not dataset:
        raise typer.BadParameter("say which set with --dataset: sample, a folder, or a name in $HF_XMC_DATA")
    if not run.is_dir():
        raise DataError("no such folder", run, hint="train a model with hf-xmc train --output_dir ...")
    data = load_xmc_dataset(dataset)
    fitted = fit_confidence(
        XMCPipeline.from_pretrained(run), data, level, memory, centroids, method, batch_size, seed, max_depth
    )
    fitted.save(run)
    summary = fitted.summary
    part = f"{data.name}, validation queries that chose nothing ({summary['calibrated_on']:,})"
    added = [name for name in ("memory", "centroids") if summary[name] is not None]
    rows = {"labels alone": summary["metrics"]["without"]}
    if added:
        rows[f"with {' and '.join(added)}"] = summary["metrics"]["with"]
    print_metrics(f"{part}, per cent", rows)
    for name, wanted in (("memory", memory), ("centroids", centroids)):
        if wanted and summary[name] is None:
            console.print(f"[yellow]No {name}: on the other queries of validation it did not help.[/]")
    print_confidence(summary["calibration"], summary["sets"])
    console.print(f"Written to {run}: confidence.json" + (", memory/" if summary["memory"] else ""))
    print_next(
        f"hf-xmc evaluate {run} --dataset {dataset}    # the same figures on the test split, and a page",
        f'hf-xmc predict {run} --text "..."',
    )
