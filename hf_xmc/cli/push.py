"""`hf-xmc push`: a trained folder or a prepared data set to the Hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hf_xmc.cli.tables import console, predict_command, print_next

EXAMPLE = "Example: hf-xmc push outputs/demo/model my-name/edam-tagger --private"


def push(
    run: Annotated[Path, typer.Argument(help="Trained folder, or a data set that hf-xmc prepare wrote.")],
    repo_id: Annotated[str, typer.Argument(help="Repository on the Hub, such as my-name/my-model.")],
    private: Annotated[
        bool | None,
        typer.Option(
            "--private/--public", help="Visibility of a new repository; by default the setting of the account."
        ),
    ] = None,
    commit_message: Annotated[
        str, typer.Option("--commit_message", help="Message of the commit.")
    ] = "Upload model, labels and index",
) -> None:
    """Push encoder, label table, index and model card as one repository (log in first: hf auth login).

    The folder of hf-xmc prepare becomes a data set with the configurations default and labels.
    """
    from hf_xmc.data.parquet_folder import detect
    from hf_xmc.hub.push import push_dataset, push_to_hub

    if detect(run):
        from hf_xmc.data.summary.card import check_repo_id

        check_repo_id(repo_id)
        console.print(f"Pushed: {push_dataset(run, repo_id, private)}")
        encoder = "--model_name_or_path sentence-transformers/all-MiniLM-L6-v2"
        print_next(f"hf-xmc train --dataset {repo_id} {encoder} --output_dir outputs/run")
        return
    console.print(f"Pushed: {push_to_hub(run, repo_id, private=private, commit_message=commit_message)}")
    print_next(predict_command(repo_id, run))
