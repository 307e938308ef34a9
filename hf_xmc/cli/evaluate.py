"""`hf-xmc evaluate`: measure a trained folder on a split."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hf_xmc.cli.tables import console, print_metrics, print_next

EXAMPLE = "Example: hf-xmc evaluate outputs/demo/model --dataset sample --split test --output_dir outputs/evaluation"


def evaluate(
    run: Annotated[str, typer.Argument(help="A trained folder, or a Hub repository.")],
    dataset: Annotated[str, typer.Option("--dataset", help="As for train.")],
    split: Annotated[str, typer.Option("--split", help="train, validation or test.")] = "test",
    output_dir: Annotated[Path | None, typer.Option("--output_dir", help="By default outputs/evaluation.")] = None,
    k: Annotated[int, typer.Option("--k", help="Predictions a query.", min=1)] = 5,
    batch_size: Annotated[int, typer.Option("--batch_size", help="Texts encoded at a time.", min=1)] = 64,
    with_baselines: Annotated[
        bool, typer.Option("--baselines/--no_baselines", help="Measure popularity and tf-idf beside it.")
    ] = True,
) -> None:
    """Rank the catalogue for each query of a split and write metrics.json."""
    from hf_xmc.data.dataset import load_xmc_dataset
    from hf_xmc.data.errors import DataError
    from hf_xmc.inference.evaluation import baseline_predictions, metrics_document, predict_split, score
    from hf_xmc.inference.pipeline import XMCPipeline
    from hf_xmc.training.run import write_json

    data = load_xmc_dataset(dataset)
    if split not in data.queries:
        raise DataError(f"{dataset} has no split {split!r}", cure=f"it has {', '.join(data.queries)}")
    pipeline = XMCPipeline.from_pretrained(run)
    if len(pipeline.index.labels) != data.num_labels:
        raise DataError(
            f"the index of {run} has {len(pipeline.index.labels):,} labels, {dataset} has {data.num_labels:,}",
            cure="evaluate on the set that it was trained on, or build the index of this one with hf-xmc index",
        )
    ks = tuple(sorted({j for j in (1, 3, 5, k) if j <= k}))
    metrics = score(predict_split(pipeline, data, split, k, batch_size), data, split, ks)
    others = {}
    if with_baselines:
        others = {name: score(topk, data, split, ks) for name, topk in baseline_predictions(data, split, k).items()}
    folder = output_dir or Path("outputs/evaluation")
    written = write_json(metrics_document(metrics, data, split, k, others), folder / "metrics.json")
    print_metrics(f"{data.name}, {split} ({len(data.queries[split]):,} queries), per cent", {**others, run: metrics})
    console.print(f"Written to {written}")
    print_next(f'hf-xmc predict {run} --text "..."')
