"""`hf-xmc push`: a trained folder to the Hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hf_xmc.cli.tables import console, predict_command, print_next

EXAMPLE = "Example: hf-xmc push outputs/demo/model my-name/edam-tagger --private"


def push(
    run: Annotated[Path, typer.Argument(help="Trained folder.")],
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
    """Push encoder, label table, index and model card as one repository (log in first: hf auth login)."""
    from hf_xmc.hub.push import push_to_hub

    console.print(f"Pushed: {push_to_hub(run, repo_id, private=private, commit_message=commit_message)}")
    print_next(predict_command(repo_id, run))
