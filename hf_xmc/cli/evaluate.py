"""`hf-xmc evaluate`: measure a trained folder, or a file of predictions, on a split."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hf_xmc.cli.tables import console, print_comparison, print_confidence, print_metrics, print_next

if TYPE_CHECKING:
    from hf_xmc.data.dataset import XMCDataset
    from hf_xmc.types import TopK

EXAMPLE = "Example: hf-xmc evaluate outputs/demo/model --dataset sample --split test --output_dir outputs/evaluation"


def evaluate(
    run: Annotated[
        str | None, typer.Argument(help="A trained folder, a Hub repository, or a file of predictions.")
    ] = None,
    dataset: Annotated[str, typer.Option("--dataset", help="As for train.")] = "",
    split: Annotated[str, typer.Option("--split", help="train, validation or test.")] = "test",
    output_dir: Annotated[Path | None, typer.Option("--output_dir", help="By default outputs/evaluation.")] = None,
    from_predictions: Annotated[
        Path | None,
        typer.Option(
            "--from_predictions", help="Score this file (.parquet, .jsonl) of any system; RUN is not needed."
        ),
    ] = None,
    against: Annotated[
        str | None, typer.Option("--against", help="A second folder or file, for a paired test on the same queries.")
    ] = None,
    hierarchy: Annotated[
        Path | None,
        typer.Option(
            "--hierarchy", help="Child uid, tab, parent uid a line, below a header: adds hierarchical scores."
        ),
    ] = None,
    k: Annotated[int, typer.Option("--k", help="Predictions a query.", min=1)] = 5,
    batch_size: Annotated[int, typer.Option("--batch_size", help="Texts encoded at a time.", min=1)] = 64,
    seed: Annotated[int, typer.Option("--seed", help="Of the resamples and of the sample that is shown.")] = 0,
    with_baselines: Annotated[
        bool, typer.Option("--baselines/--no_baselines", help="Measure popularity and tf-idf beside it.")
    ] = True,
) -> None:
    """Rank the catalogue for each query of a split; write metrics.json, predictions.parquet and report.html."""
    from hf_xmc.data.dataset import load_xmc_dataset
    from hf_xmc.data.hierarchy import read_parents
    from hf_xmc.errors import DataError
    from hf_xmc.hub.run import RUN, read_json
    from hf_xmc.inference.evaluation.evaluate import baseline_predictions, evaluate_predictions, is_shallow, score

    if not dataset:
        raise typer.BadParameter("say which set with --dataset: sample, a folder, or a name in $HF_XMC_DATA")
    if (run is None) == (from_predictions is None):
        raise typer.BadParameter("give RUN or --from_predictions FILE")
    system = str(from_predictions or run)
    data = load_xmc_dataset(dataset)
    if split not in data.queries:
        raise DataError(f"{dataset} has no split {split!r}", hint=f"it has {', '.join(data.queries)}")
    if not len(data.queries[split]):
        raise DataError(f"the split {split!r} of {dataset} has no queries", hint="choose another with --split")
    ks = tuple(sorted({j for j in (1, 3, 5, k) if j <= k}))
    topk, confidence = predictions_of(system, data, split, k, batch_size)
    other = None if against is None else predictions_of(against, data, split, k, batch_size)[0]
    if is_shallow(topk, data, split, k):
        console.print(
            f"[yellow]{topk.k} predictions a query, fewer than k = {k} and the filter need: metrics are too low.[/]"
        )
    others = {}
    if with_baselines:
        others = {name: score(topk, data, split, ks) for name, topk in baseline_predictions(data, split, k).items()}
    parents = None if hierarchy is None else read_parents(hierarchy, data.labels["uid"][:])
    folder = output_dir or Path("outputs/evaluation")
    found = evaluate_predictions(
        topk,
        data,
        split,
        folder,
        ks,
        name=Path(system).name,
        against=other,
        against_name=Path(against or "").name,
        baselines=others,
        seed=seed,
        parents=parents,
        train_seconds=read_json(Path(system) / RUN).get("train_seconds"),
        confidence=confidence,
    )
    rows = {**others, **({} if against is None or other is None else {against: score(other, data, split, ks)})}
    print_metrics(f"{data.name}, {split} ({len(topk):,} queries), per cent", {**rows, system: found.metrics})
    if found.comparison:
        print_comparison(system, str(against), found.comparison)
    if confidence is not None:
        errors = {
            f"{name} {when}": confidence["calibration"][when][name]
            for when in ("before", "after")
            for name in ("ECE@1", "ECE@5")
        }
        print_confidence(errors, confidence["sets"])
    console.print(f"Written to {folder}: metrics.json, details.json, predictions.parquet, report.html")
    print_next(
        f"open {folder / 'report.html'}", *([f'hf-xmc predict {run} --text "..."'] if Path(system).is_dir() else [])
    )


def predictions_of(
    system: str, data: XMCDataset, split: str, k: int, batch_size: int
) -> tuple[TopK, dict[str, Any] | None]:
    """Predictions of a trained folder or repository, or those that a file holds; and what the confidence of a folder
    is worth, where it has one."""
    import numpy as np

    from hf_xmc.errors import DataError
    from hf_xmc.inference.evaluation.confidence import measure_confidence
    from hf_xmc.inference.evaluation.evaluate import predict_split
    from hf_xmc.inference.evaluation.predictions import read_predictions
    from hf_xmc.inference.fitting.confidence import some
    from hf_xmc.inference.pipeline import XMCPipeline
    from hf_xmc.metrics import search_depth

    path = Path(system)
    if (path / "predictions.parquet").is_file() and not (path / "config.json").exists():
        path = path / "predictions.parquet"  # a folder that this command wrote
    if path.is_file() or path.suffix in (".parquet", ".jsonl"):
        return read_predictions(path, data.queries[split]["uid"][:], data.labels["uid"][:]), None
    pipeline = XMCPipeline.from_pretrained(system)
    known = pipeline.index.labels["uid"][:]
    if known[: data.num_labels] != data.labels["uid"][:]:
        raise DataError(
            f"the index of {system} ({len(pipeline.index.labels):,} labels) has other labels than {data.name} "
            f"({data.num_labels:,} labels), or in another order",
            hint="evaluate on the set that it was trained on, or build the index of this one with hf-xmc index",
        )
    search: dict[str, Any] = {}
    if added := len(known) - data.num_labels:
        console.print(f"[yellow]{added:,} labels were added to {system} later; {data.name} knows nothing of them.[/]")
        search = {"allowed": np.arange(data.num_labels)}
    confidence = pipeline.confidence_for()
    if confidence is None:
        return predict_split(pipeline, data, split, k, batch_size, **search), None
    # What was removed from the index can be in no set, and the calibration did not count it either.
    truth, filters = data.positives(split).without(pipeline.index.removed), data.filters.get(split)
    texts = data.queries[split]["text"][:]
    embeddings = pipeline.model.encode_queries(texts, batch_size, progress=True)
    rows = some(np.arange(len(truth)), confidence.depth, seed=0)  # sets need deep predictions
    kept = None if filters is None else filters.take(rows)
    deep = pipeline.rank(embeddings[rows], confidence.depth, [texts[row] for row in rows.tolist()], **search)
    measured = measure_confidence(deep, truth.take(rows), confidence, kept)
    return pipeline.rank(embeddings, search_depth(k, filters), texts, **search), measured
