"""`hf-xmc rerank`: train a reranker for a trained folder."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from hf_xmc.cli.tables import console, predict_command, print_metrics, print_next

EXAMPLE = "Example: hf-xmc rerank outputs/demo/model --dataset sample --kind late_interaction"


class Kind(StrEnum):
    """What `--kind` takes."""

    cross_encoder = "cross_encoder"
    late_interaction = "late_interaction"


def rerank(
    run: Annotated[Path, typer.Argument(help="Trained folder; reranker/ is written into it.")],
    dataset: Annotated[str, typer.Option("--dataset", help="Data set that the model was trained on.")],
    kind: Annotated[
        Kind,
        typer.Option(
            "--kind",
            help="cross_encoder: a second model reads text and label together; late_interaction: the tagger's own "
            "encoder reads each, and their tokens are compared.",
        ),
    ] = Kind.cross_encoder,
    k: Annotated[
        int | None,
        typer.Option("--k", help="Candidates per query that it learns to order; by default 20 or 100.", min=2),
    ] = None,
    num_train_epochs: Annotated[
        float | None,
        typer.Option(
            "--num_train_epochs",
            help="Passes over the training queries; by default 1 or 3 (xMEN: 20 of a cross-encoder, on few queries).",
        ),
    ] = None,
    learning_rate: Annotated[
        float | None,
        typer.Option("--learning_rate", help="Peak learning rate; by default 2e-5 (as in xMEN) or 1e-3."),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(
            "--batch_size", help="Queries per step, each with all its candidates; by default 4 or 16.", min=1
        ),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Seed for the order of queries and for new weights.")] = 42,
    encoder: Annotated[
        str | None,
        typer.Option(
            "--encoder",
            help="Of cross_encoder: a cross-encoder with one output, or any encoder; Hub id or folder.",
        ),
    ] = None,
    max_length: Annotated[
        int | None,
        typer.Option(
            "--max_length", help="Of cross_encoder: tokens of text and label together; by default 128.", min=4
        ),
    ] = None,
    dim: Annotated[
        int | None,
        typer.Option(
            "--dim", help="Of late_interaction: dimensions of the tokens that are compared; by default 128.", min=1
        ),
    ] = None,
    transport_weight: Annotated[
        float | None,
        typer.Option(
            "--transport_weight",
            help="Of late_interaction: weight of the conditional transport loss, 0 for max-sim alone; by default 0.1.",
            min=0,
        ),
    ] = None,
    max_train_samples: Annotated[
        int | None,
        typer.Option(
            "--max_train_samples",
            help="Of late_interaction: train on a sample of so many training queries; by default all.",
            min=1,
        ),
    ] = None,
) -> None:
    """Train a reranker on the training queries, and measure it on validation. To use it: hf-xmc predict --rerank K"""
    cross = {"encoder": encoder, "max_length": max_length}
    late = {"dim": dim, "transport_weight": transport_weight, "max_train_samples": max_train_samples}
    own, others = (cross, late) if kind is Kind.cross_encoder else (late, cross)
    if wrong := [name for name, value in others.items() if value is not None]:
        raise typer.BadParameter(f"--{wrong[0]} does not go with --kind {kind.value}")
    if kind is Kind.cross_encoder and encoder is None:
        raise typer.BadParameter("name the model to start from with --encoder, or choose --kind late_interaction")
    shared = {
        "k": k,
        "num_train_epochs": num_train_epochs,
        "learning_rate": learning_rate,
        "batch_size": batch_size,
        "seed": seed,
    }
    from hf_xmc.data.dataset import load_xmc_dataset
    from hf_xmc.inference.fitting.late_interaction import train_late_interaction
    from hf_xmc.inference.fitting.reranker import train_reranker

    data = load_xmc_dataset(dataset)
    train: Any = train_reranker if kind is Kind.cross_encoder else train_late_interaction
    fitted = train(run, data, **{name: value for name, value in {**shared, **own}.items() if value is not None})
    if fitted.metrics:
        title = f"{data.name}, validation ({len(data.queries['validation']):,} queries), per cent"
        print_metrics(title, fitted.metrics)
    console.print(f"Written to {run / 'reranker'}")
    print_next(predict_command(run, options=f"--rerank {fitted.k}"))
