"""`hf-xmc index`: encode a label table and build the index of a trained folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hf_xmc.cli.tables import console, predict_command, print_next, print_removed

EXAMPLE = "Example: hf-xmc index outputs/demo/model --dataset sample"


def index(
    run: Annotated[
        str,
        typer.Argument(
            help="Trained folder, into which the index is written; or a plain encoder, a folder or Hub id, which "
            "becomes a tagger in --output_dir.",
        ),
    ],
    dataset: Annotated[
        str | None,
        typer.Option("--dataset", help="Data set whose labels are indexed; by default the labels of the folder."),
    ] = None,
    factory: Annotated[
        str,
        typer.Option(
            "--factory",
            help="Kind of index: flat (exact), an approximate kind such as hnsw, or auto (chosen by the number of "
            "labels).",
        ),
    ] = "flat",
    texts: Annotated[
        str,
        typer.Option(
            "--texts",
            help="Texts that are indexed: alone (the column text only); with other names (column texts), scored by "
            "the best or by their mean; or rich: definitions, the names of parents and other kinds as well, with a "
            "weight for each kind.",
        ),
    ] = "alone",
    pool: Annotated[
        str,
        typer.Option(
            "--pool",
            help="How rich texts give the score of their label: max, mean or logsumexp; auto is the best one on the "
            "validation queries of --dataset, which also teach the weights.",
        ),
    ] = "auto",
    recall_target: Annotated[
        float,
        typer.Option("--recall_target", help="Share of the true ten best labels that an approximate index must find."),
    ] = 0.95,
    output_dir: Annotated[
        Path | None,
        typer.Option("--output_dir", help="Folder to write for a plain encoder; by default outputs/ and its name."),
    ] = None,
    batch_size: Annotated[int, typer.Option("--batch_size", help="Texts encoded at a time.", min=1)] = 64,
) -> None:
    """Encode the label texts with the model and build the index that predictions search."""
    from hf_xmc.inference.reindexing import build_folder_index

    made = build_folder_index(run, dataset, factory, texts, recall_target, batch_size, output_dir, pool)
    folder = made.folder or Path(run)
    found = made.index
    console.print(
        f"{len(found):,} labels of {found.index.d} dimensions indexed in {folder / 'index'} ({found.factory}, "
        f"recall@10 {found.about['recall_at_10']:.3f})"
    )
    if found.pooling is not None:
        weights = ", ".join(f"{kind} {weight:.2f}" for kind, weight in found.pooling.weights.items())
        learned = (
            "learned on validation" if made.tried else "equal weights, since there is no validation to learn from"
        )
        console.print(f"Texts of labels by {found.pooling.pool}: {weights} ({learned})", highlight=False)
    print_removed(made.removed)
    print_next(predict_command(folder))
