"""`hf-xmc rerank`: train a reranker for a trained folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hf_xmc.cli.tables import console, predict_command, print_metrics, print_next

EXAMPLE = "Example: hf-xmc rerank outputs/demo/model --dataset sample --encoder cross-encoder/ms-marco-MiniLM-L6-v2"


def rerank(
    run: Annotated[Path, typer.Argument(help="Trained folder; reranker/ is written into it.")],
    dataset: Annotated[str, typer.Option("--dataset", help="Data set that the model was trained on.")],
    encoder: Annotated[
        str, typer.Option("--encoder", help="Cross-encoder with one output, or any encoder: Hub id or folder.")
    ],
    k: Annotated[int, typer.Option("--k", help="Candidates per query that it learns to order.", min=2)] = 20,
    max_length: Annotated[int, typer.Option("--max_length", help="Tokens of text and label together.", min=4)] = 128,
    num_train_epochs: Annotated[
        float, typer.Option("--num_train_epochs", help="Passes over the training queries (xMEN: 20, of few queries).")
    ] = 1.0,
    learning_rate: Annotated[float, typer.Option("--learning_rate", help="Peak learning rate (as in xMEN).")] = 2e-5,
    batch_size: Annotated[
        int, typer.Option("--batch_size", help="Queries per step, each with all its candidates.", min=1)
    ] = 4,
    seed: Annotated[
        int, typer.Option("--seed", help="Seed for the order of queries and for a new output layer.")
    ] = 42,
) -> None:
    """Train a reranker on the training queries, and measure it on validation. To use it: hf-xmc predict --rerank 20"""
    from hf_xmc.data.dataset import load_xmc_dataset
    from hf_xmc.inference.fitting.reranker import train_reranker

    data = load_xmc_dataset(dataset)
    fitted = train_reranker(run, data, encoder, k, max_length, num_train_epochs, learning_rate, batch_size, seed)
    if fitted.metrics:
        title = f"{data.name}, validation ({len(data.queries['validation']):,} queries), per cent"
        print_metrics(title, fitted.metrics)
    console.print(f"Written to {run / 'reranker'}")
    print_next(predict_command(run, options=f"--rerank {k}"))
