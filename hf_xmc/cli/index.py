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
            help="Texts that are indexed if labels have alternative names (column texts): alone (the column text "
            "only), or all of them, scored by the best or by their mean.",
        ),
    ] = "alone",
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

    made = build_folder_index(run, dataset, factory, texts, recall_target, batch_size, output_dir)
    folder = made.folder or Path(run)
    found = made.index
    console.print(
        f"{len(found):,} labels of {found.index.d} dimensions indexed in {folder / 'index'} ({found.factory}, "
        f"recall@10 {found.about['recall_at_10']:.3f})"
    )
    print_removed(made.removed)
    print_next(predict_command(folder))
