"""The help pages of `train` and `plan`, whose arguments are those of transformers' TrainingArguments.

To know these takes an import of torch, several seconds. The arguments are therefore described in a file of the cache
of Hugging Face, which is written the first time, and again when this package or a library has changed.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from hashlib import blake2b
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from hf_xmc import cli

LIBRARIES = ("transformers", "torch", "accelerate")
SOURCES = ("cli", "modeling", "training")  # folders of this package that arguments are described in


def print_help(prog: str, example: str, parser: Callable[[], argparse.ArgumentParser]) -> None:
    """Print the help page of a command.

    Args:
        prog: name of the command.
        example: what stands below the arguments.
        parser: makes the parser that knows them.
    """
    path = cached_page(prog)
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        from hf_xmc.data.files import replacing

        rows = described(parser())
        try:
            with replacing(path) as temporary:
                temporary.write_text(json.dumps(rows) + "\n", encoding="utf-8")
        except OSError:  # no cache: it takes as long the next time
            pass
    parser_of(rows, prog, example).print_help()


def described(parser: argparse.ArgumentParser) -> list[dict[str, Any]]:
    """The arguments of a parser in JSON values, with help texts that name their defaults."""
    formatter = parser._get_formatter()
    return [
        {
            "flags": list(action.option_strings),
            "required": action.required,
            "help": action.help and formatter._expand_help(action),
            **({} if action.nargs == 0 else {"nargs": action.nargs, "metavar": action.metavar}),
            **({} if action.choices is None else {"choices": [str(choice) for choice in action.choices]}),
        }
        for action in parser._actions
        if not isinstance(action, argparse._HelpAction)
    ]


STORE_TRUE: dict[str, Any] = {"action": "store_true"}  # how a flag without a value is declared


def parser_of(rows: Sequence[dict[str, Any]], prog: str, example: str) -> argparse.ArgumentParser:
    """A parser whose help page is that of the parser that was `described`."""
    parser = argparse.ArgumentParser(prog=prog, epilog=example)
    for row in rows:
        known: dict[str, Any] = {"help": row["help"] and row["help"].replace("%", "%%"), "required": row["required"]}
        rest: dict[str, Any] = {name: row[name] for name in ("nargs", "metavar", "choices") if name in row}
        parser.add_argument(*row["flags"], **known, **(rest if "nargs" in row else STORE_TRUE))
    return parser


def cached_page(prog: str) -> Path:
    """The file that describes the arguments of a command; its name changes with everything that they depend on."""
    package = Path(cli.__file__).parent.parent
    files = sorted(path for folder in SOURCES for path in (package / folder).rglob("*.py"))
    stats = [(str(path), status.st_size, status.st_mtime_ns) for path in files for status in (path.stat(),)]
    key = repr((prog, sys.version_info[:3], [installed(name) for name in LIBRARIES], stats))
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface"
    digest = blake2b(key.encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()
    return Path(home).expanduser() / "hf_xmc" / "help" / f"{digest}.json"


def installed(library: str) -> str:
    """The version of a library, "" if it is not installed."""
    try:
        return version(library)
    except PackageNotFoundError:
        return ""
