"""`hf-xmc`: the command line."""

from __future__ import annotations

import sys

import typer
from rich.console import Console

from hf_xmc.cli import demo, evaluate, index, predict, prepare, push, train

app = typer.Typer(
    help="Tag text with labels out of a very large catalogue.",
    epilog="Start with: hf-xmc demo",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    # Flags are spelled with underscores, as in transformers; dashes are accepted too.
    context_settings={"token_normalize_func": lambda token: token.replace("-", "_")},
)
for command in (demo, prepare, evaluate, index, predict, push):
    app.command(epilog=command.EXAMPLE)(getattr(command, command.__name__.rsplit(".", 1)[-1]))
app.command("train", epilog=train.EXAMPLE, add_help_option=False, context_settings=train.PASS_ON)(train.train)


def main() -> None:
    """Entry point: what the user can mend is a message, what we must mend is a traceback."""
    from hf_xmc.data.errors import DataError

    try:
        app()
    except (DataError, OSError) as error:
        Console(stderr=True).print(f"[bold red]Error[/] {error}", highlight=False, soft_wrap=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
