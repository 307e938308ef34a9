"""`hf-xmc`: the command line."""

from __future__ import annotations

import pkgutil
from collections.abc import Iterator
from importlib import import_module
from importlib.abc import InspectLoader
from types import ModuleType
from typing import Annotated

import typer

from hf_xmc import __version__, cli
from hf_xmc.cli.errors import user_errors
from hf_xmc.cli.quiet import quietly

# The order of the help page; a command that is not named here comes last.
ORDER = (
    *("demo", "fit", "prepare", "audit", "plan", "train", "fuse", "evaluate", "calibrate", "rerank"),
    *("index", "labels", "describe", "predict", "explain", "map", "serve", "export", "push", "verify"),
)


def commands() -> Iterator[tuple[str, ModuleType]]:
    """The commands, by name: each module of this folder that has an EXAMPLE and a function of its own name."""
    names = [module.name for module in pkgutil.iter_modules(cli.__path__) if has_example(module)]
    for name in sorted(names, key=lambda name: (ORDER.index(name) if name in ORDER else len(ORDER), name)):
        module = import_module(f"{cli.__name__}.{name}")
        if callable(getattr(module, name, None)):
            yield name, module


def has_example(module: pkgutil.ModuleInfo) -> bool:
    """Whether the text of a module sets EXAMPLE. Others are not imported: some of them import torch, which takes
    seconds, and `hf-xmc --help` does not."""
    spec = module.module_finder.find_spec(module.name, None)
    source = spec.loader.get_source(spec.name) if spec is not None and isinstance(spec.loader, InspectLoader) else None
    return source is not None and "\nEXAMPLE = " in source


app = typer.Typer(
    epilog="Start with: hf-xmc demo",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    # Flags are spelled with underscores, as in transformers; dashes are accepted too.
    context_settings={"token_normalize_func": lambda token: token.replace("-", "_")},
)
for command, module in commands():
    # The arguments of train and plan are parsed by HfArgumentParser, help included.
    settings = {"add_help_option": False, "context_settings": module.PASS_ON} if hasattr(module, "PASS_ON") else {}
    app.command(command, epilog=module.EXAMPLE, **settings)(quietly(getattr(module, command)))


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
