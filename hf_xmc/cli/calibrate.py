"""`hf-xmc calibrate`: fit ranking channels and confidence to a trained folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from hf_xmc.cli.tables import (
    console,
    predict_command,
    print_channels,
    print_confidence,
    print_metrics,
    print_next,
    print_threshold,
    quoted,
)

EXAMPLE = "Example: hf-xmc calibrate outputs/demo/model --dataset sample"


def calibrate(
    run: Annotated[Path, typer.Argument(help="Trained folder; channels and confidence.json are written into it.")],
    dataset: Annotated[str, typer.Option("--dataset", help="Data set that the model was trained on.")] = "",
    level: Annotated[
        float,
        typer.Option("--level", help="Share of the true labels that a label set keeps, on average, such as 0.9."),
    ] = 0.9,
    memory: Annotated[
        bool, typer.Option("--memory/--no_memory", help="Let similar training queries vote, if that helps.")
    ] = True,
    channels: Annotated[
        str, typer.Option("--channels", help="Ranking channels to try, such as memory,names (default: all).")
    ] = "",
    fusion: Annotated[
        str,
        typer.Option(
            "--fusion",
            help="How channels are combined: weights, learned (a small linear model), or auto for the better one.",
        ),
    ] = "auto",
    prefer: Annotated[
        str,
        typer.Option("--prefer", help="What is chosen for: balanced, head (the first label) or tail (rare labels)."),
    ] = "balanced",
    centroids: Annotated[
        bool,
        typer.Option(
            "--centroids/--no_centroids",
            help="Move label vectors towards their training queries, if that helps; this writes a new index.",
        ),
    ] = False,
    passages: Annotated[
        str,
        typer.Option(
            "--passages",
            help="Cut long texts into passages from now on, scored by lse, max or mean, with settings such as "
            "lse,tokens=128; auto to choose on validation; or off (default: as in the folder).",
        ),
    ] = "",
    method: Annotated[
        str, typer.Option("--method", help="Method that turns scores into probabilities: isotonic or platt.")
    ] = "isotonic",
    max_depth: Annotated[
        int,
        typer.Option(
            "--max_depth", help="Predictions per query, at most; deeper ones allow sets of a higher level.", min=1
        ),
    ] = 2000,
    batch_size: Annotated[int, typer.Option("--batch_size", help="Texts encoded at a time.", min=1)] = 64,
    seed: Annotated[
        int, typer.Option("--seed", help="Seed for splitting validation into tuning and calibration halves.")
    ] = 0,
) -> None:
    """Choose ranking channels on half of validation, and fit probabilities, thresholds and label sets on the rest."""
    from hf_xmc.data.dataset import load_xmc_dataset
    from hf_xmc.inference.fitting.calibration import calibrate as fit
    from hf_xmc.inference.fitting.passages import passages_in_words
    from hf_xmc.retrieval.passages import Passages

    if not dataset:
        raise typer.BadParameter("name the data set with --dataset: sample, a folder, or a name in $HF_XMC_DATA")
    cut: Any = passages if passages in ("off", "auto") else Passages.parse(passages) if passages else None
    data = load_xmc_dataset(dataset)
    names = [name.strip() for name in channels.split(",") if name.strip()] or None
    given = (level, memory, centroids, method, batch_size, seed, max_depth)
    fitted = fit(run, data, *given, channels=names, fusion=fusion, prefer=prefer, passages=cut)
    summary = fitted.summary
    part = f"{data.name}, the half of validation that chose no setting ({summary['calibrated_on']:,} queries)"
    threshold = summary["threshold"]
    if threshold:
        print_threshold(threshold, f"on {summary['calibrated_on']:,} validation queries")
    kept = [row["name"] for row in summary["channels"] if row["kept"]]
    added = [*kept, *(["centroids"] if summary["centroids"] is not None else [])]
    rows = {"labels alone": summary["metrics"]["without"]}
    if added:
        rows[f"with {' and '.join(added)}"] = summary["metrics"]["with"]
    print_metrics(f"{part}, per cent", rows)
    if summary["channels"]:
        print_channels(summary["channels"], learned=fitted.pipeline.fusion is not None)
    if centroids and summary["centroids"] is None:
        console.print("[yellow]No centroids: on the other half of validation they did not help.[/]")
    if tried := summary.get("passages"):
        console.print(passages_in_words(tried), highlight=False)
    print_confidence(summary["calibration"], summary["sets"])
    folders = [f"{name}/" for name in kept]
    learned = ["fusion.json"] if fitted.pipeline.fusion is not None else []
    settings = [] if fitted.pipeline.passages is None else ["passages.json"]
    written = ["confidence.json", *folders, *learned, *settings, "README.md"]
    console.print(f"Written to {run}: {', '.join(written)}")
    print_next(
        f"hf-xmc evaluate {quoted(run)} --dataset {quoted(dataset)}    # the same figures on the test split",
        predict_command(run, options=f"--threshold {threshold['threshold']:.2f}" if threshold else ""),
    )
