"""`hf-xmc`: the command line."""

from __future__ import annotations

from typing import Annotated

import typer

from hf_xmc import __version__
from hf_xmc.cli import (
    calibrate,
    demo,
    evaluate,
    explain,
    fuse,
    index,
    labels,
    plan,
    predict,
    prepare,
    push,
    rerank,
    train,
)
from hf_xmc.cli.errors import user_errors

app = typer.Typer(
    epilog="Start with: hf-xmc demo",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    # Flags are spelled with underscores, as in transformers; dashes are accepted too.
    context_settings={"token_normalize_func": lambda token: token.replace("-", "_")},
)
for command in (demo, prepare, evaluate, fuse, calibrate, rerank, index, labels, predict, explain, push):
    app.command(epilog=command.EXAMPLE)(getattr(command, command.__name__.rsplit(".", 1)[-1]))
for command in (train, plan):  # their arguments are parsed by HfArgumentParser
    name = command.__name__.rsplit(".", 1)[-1]
    app.command(name, epilog=command.EXAMPLE, add_help_option=False, context_settings=train.PASS_ON)(
        getattr(command, name)
    )


@app.callback(invoke_without_command=True)
def options(
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.", is_eager=True)] = False,
) -> None:
    """Tag text with labels out of a very large catalogue."""
    if version:
        typer.echo(__version__)
        raise typer.Exit


def main() -> None:
    """Entry point."""
    with user_errors():
        app()


if __name__ == "__main__":
    main()
