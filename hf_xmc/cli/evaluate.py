"""`hf-xmc evaluate`: measure a trained folder, or a file of predictions, on a split."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hf_xmc.cli.tables import (
    console,
    predict_command,
    print_beaten,
    print_comparison,
    print_confidence,
    print_metrics,
    print_next,
    print_threshold,
    quoted,
)

if TYPE_CHECKING:
    from hf_xmc.data.dataset import XMCDataset

EXAMPLE = "Example: hf-xmc evaluate outputs/demo/model --dataset sample --split test --output_dir outputs/evaluation"


def evaluate(
    run: Annotated[str | None, typer.Argument(help="Trained folder, Hub repository, or file of predictions.")] = None,
    dataset: Annotated[
        str, typer.Option("--dataset", help="Data set: 'sample', a folder, or the name of a folder in $HF_XMC_DATA.")
    ] = "",
    split: Annotated[
        str | None,
        typer.Option(
            "--split",
            help="Split to measure on: train, validation or test; by default test, or validation if there is no test.",
        ),
    ] = None,
    output_dir: Annotated[
        Path, typer.Option("--output_dir", help="Folder for metrics, predictions and the report.")
    ] = Path("outputs/evaluation"),
    from_predictions: Annotated[
        Path | None,
        typer.Option(
            "--from_predictions",
            help="File of predictions of any system (.parquet, .jsonl), to be given instead of RUN.",
        ),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option("--against", help="Second folder or file of predictions, for a paired test on the same queries."),
    ] = None,
    hierarchy: Annotated[
        Path | None,
        typer.Option(
            "--hierarchy",
            help="File with a header line, then one child uid and parent uid per line, separated by a tab; adds "
            "hierarchical metrics.",
        ),
    ] = None,
    k: Annotated[int, typer.Option("--k", help="Predictions per query.", min=1)] = 5,
    batch_size: Annotated[int, typer.Option("--batch_size", help="Texts encoded at a time.", min=1)] = 64,
    seed: Annotated[
        int, typer.Option("--seed", help="Seed for the bootstrap and for the sample of queries in the report.")
    ] = 0,
    with_baselines: Annotated[
        bool, typer.Option("--baselines/--no_baselines", help="Measure popularity and tf-idf as well.")
    ] = True,
    rerank: Annotated[
        int,
        typer.Option(
            "--rerank",
            help="Labels of each query that the reranker reorders; the ranking before is reported beside it.",
            min=0,
        ),
    ] = 0,
) -> None:
    """Rank the labels for each query of a split; write metrics.json, predictions.parquet and report.html."""
    from hf_xmc.data.dataset import load_xmc_dataset
    from hf_xmc.inference.evaluation.evaluate import evaluate as measure

    if not dataset:
        raise typer.BadParameter("name the data set with --dataset: sample, a folder, or a name in $HF_XMC_DATA")
    if (run is None) == (from_predictions is None):
        raise typer.BadParameter("give RUN or --from_predictions FILE")
    system = str(from_predictions or run)
    data = load_xmc_dataset(dataset)
    if split is None:
        split = default_split(data)
    found = measure(system, data, split, output_dir, k, against, hierarchy, batch_size, seed, with_baselines, rerank)
    title = f"{data.name}, {split} ({len(data.queries[split]):,} queries), per cent"
    second = {} if against is None or found.shared is not None else {against: found.other}
    print_metrics(title, {**found.baselines, **second, system: found.metrics})
    print_beaten(system, found.metrics, found.baselines)
    if found.comparison:
        on = "" if found.shared is None else f"the {found.shared:,} labels that both have"
        print_comparison(system, str(against), found.comparison, labels=on)
    if found.confidence is not None:
        errors = {
            f"{name} {when}": found.confidence["calibration"][when][name]
            for when in ("before", "after")
            for name in ("ECE@1", "ECE@5")
        }
        if "threshold" in found.confidence:
            where = f"advised by calibrate; on {found.confidence['num_queries']:,} {split} queries"
            print_threshold(found.confidence["threshold"], where, advice=False)
        print_confidence(errors, found.confidence["sets"])
    console.print(f"Written to {output_dir}: metrics.json, details.json, predictions.parquet, report.html")
    print_next(
        f"open {quoted(output_dir / 'report.html')}",
        *([predict_command(system)] if Path(system).is_dir() else []),
    )


def default_split(data: XMCDataset) -> str:
    """The test split, or validation if there is none, which is said."""
    if len(data.queries.get("test", ())):
        return "test"
    console.print(
        f"{data.name} has no test split: measured on validation, which training may have chosen its settings on.",
        highlight=False,
        markup=False,
    )
    return "validation"
