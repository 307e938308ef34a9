"""`hf-xmc rerank`: train a cross-encoder that reads the best labels of a trained folder again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from hf_xmc.cli.tables import console, print_metrics, print_next

EXAMPLE = "Example: hf-xmc rerank outputs/demo/model --dataset sample --encoder cross-encoder/ms-marco-MiniLM-L6-v2"


def rerank(
    run: Annotated[Path, typer.Argument(help="A trained folder; reranker/ is written into it.")],
    dataset: Annotated[str, typer.Option("--dataset", help="The set that it was trained on.")],
    encoder: Annotated[
        str, typer.Option("--encoder", help="A cross-encoder with one output, or any encoder: Hub id or folder.")
    ],
    k: Annotated[int, typer.Option("--k", help="Candidates a query that it learns to order.", min=2)] = 20,
    max_length: Annotated[int, typer.Option("--max_length", help="Tokens of text and label together.", min=4)] = 128,
    num_train_epochs: Annotated[float, typer.Option("--num_train_epochs", help="xMEN: 20, of few queries.")] = 1.0,
    learning_rate: Annotated[float, typer.Option("--learning_rate", help="As in xMEN.")] = 2e-5,
    batch_size: Annotated[
        int, typer.Option("--batch_size", help="Queries a step, each with all its candidates.", min=1)
    ] = 4,
    seed: Annotated[int, typer.Option("--seed", help="Of the order, and of a new output layer.")] = 42,
) -> None:
    """Train a reranker on the training queries, and measure it on validation. Use: hf-xmc predict ... --rerank 20"""
    from tempfile import TemporaryDirectory

    import numpy as np
    from transformers import TrainingArguments, set_seed

    from hf_xmc.data.dataset import load_xmc_dataset
    from hf_xmc.errors import DataError
    from hf_xmc.inference.evaluation.evaluate import predict_split, score
    from hf_xmc.inference.pipeline import XMCPipeline
    from hf_xmc.metrics import drop_pairs
    from hf_xmc.retrieval.rerank import CrossEncoderReranker, save_reranker
    from hf_xmc.training.reranker import train_reranker

    if not run.is_dir():
        raise DataError("no such folder", run, hint="train a model with hf-xmc train --output_dir ...")
    data = load_xmc_dataset(dataset)
    pipeline = XMCPipeline.from_pretrained(run)
    if pipeline.index.labels["uid"][: data.num_labels] != data.labels["uid"][:]:
        raise DataError(f"the index of {run} has other labels than {data.name}", hint="give the set it was trained on")
    set_seed(seed)
    pipeline.reranker = CrossEncoderReranker.from_encoder(encoder, max_length)
    # By the label vectors alone: in the query memory a training query would find itself.
    known: dict[str, Any] = {"allowed": np.arange(data.num_labels)}  # labels that were added later have no queries
    found = drop_pairs(predict_split(pipeline, data, "train", k, channels=(), **known), data.filters.get("train"))
    with TemporaryDirectory() as folder:
        args = TrainingArguments(
            folder,
            num_train_epochs=num_train_epochs,
            learning_rate=learning_rate,
            per_device_train_batch_size=batch_size,
            weight_decay=0.01,
            seed=seed,
            save_strategy="no",
            report_to="none",
        )
        texts = data.queries["train"]["text"][:]
        temperature = pipeline.model.config.temperature
        train_reranker(
            pipeline.reranker, texts, found, data.positives("train"), data.labels, args, temperature=temperature
        )
    save_reranker(pipeline.reranker, run)
    if queries := len(data.queries["validation"]):
        before, after = (
            score(predict_split(pipeline, data, "validation", 5, rerank=depth, **known), data, "validation")
            for depth in (0, k)
        )
        title = f"{data.name}, validation ({queries:,} queries), per cent"
        print_metrics(title, {"as found": before, f"best {k} reranked": after})
    console.print(f"Written to {run / 'reranker'}")
    print_next(f'hf-xmc predict {run} --rerank {k} --text "..."')
