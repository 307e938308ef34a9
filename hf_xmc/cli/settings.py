"""Settings of a run as a YAML file: read in place of flags, written so that they can be read again."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from difflib import get_close_matches
from enum import Enum
from pathlib import Path
from typing import Any

import yaml

from hf_xmc.errors import DataError

SECRET = ("hub_token", "push_to_hub_token")


def with_settings(argv: Sequence[str], parser: argparse.ArgumentParser) -> list[str]:
    """The arguments with those of the file after `--config` in front, so that flags win over the file."""
    reader = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    reader.add_argument("--config")
    given, rest = reader.parse_known_args(argv)
    return rest if given.config is None else [*settings_as_flags(Path(given.config), parser), *rest]


def settings_as_flags(path: Path, parser: argparse.ArgumentParser) -> list[str]:
    """A file of settings as command-line arguments, for the parser to read as it reads any.

    Words are kept as they stand (`no` is no boolean here, `1e-4` no text): each is read as its flag would read it.
    Keys without a value are left out; a mapping becomes JSON.

    Raises:
        DataError: the file cannot be read, is not a mapping, or has a key that is no argument.
    """
    try:
        text = path.read_text(encoding="utf-8")
        words, values = yaml.load(text, Words), yaml.safe_load(text)  # nosec B506: makes strings
    except (OSError, UnicodeError, yaml.YAMLError, RecursionError) as error:
        raise DataError(
            f"cannot be read as YAML ({error})", path, hint="expected one `key: value` per line"
        ) from error
    if not isinstance(words, dict):
        raise DataError(f"found {type(values).__name__}", path, hint="expected one `key: value` per line")
    known = {action.dest for action in parser._actions} - {"help"}
    flags: list[str] = []
    for key, value in words.items():
        name = str(key).replace("-", "_")
        if name not in known:
            near = get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]}?" if near else "hf-xmc train --help lists all"
            raise DataError(f"there is no setting {key!r}", path, hint=hint)
        if isinstance(value, dict):
            flags.append(f"--{name}={json.dumps(values[key])}")
        elif isinstance(value, list):
            flags += [f"--{name}", *map(str, value)]
        elif value is not None:
            flags.append(f"--{name}={value}")
    return flags


class Words(yaml.SafeLoader):
    """YAML whose scalars are all text, but for the empty one and null."""


Words.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag.endswith((":null", ":merge"))]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def changed_settings(given: argparse.Namespace, parser: argparse.ArgumentParser) -> dict[str, Any]:
    """What was given and differs from the defaults, tokens left out."""
    # argparse converts a default that is a string as if it had been given: "no" becomes False.
    converted = {
        action.dest: action.type(action.default)
        for action in parser._actions
        if isinstance(action.default, str) and callable(action.type)
    }
    return {
        name: value.value if isinstance(value, Enum) else value
        for name, value in vars(given).items()
        if name not in SECRET and value is not None and value != converted.get(name, parser.get_default(name))
    }


def write_settings(given: argparse.Namespace, parser: argparse.ArgumentParser, path: str | os.PathLike[str]) -> Path:
    """Write what was given (what differs from the defaults), tokens left out."""
    settings = changed_settings(given, parser)
    from hf_xmc.data.files import replacing  # slow to import, and no help page needs it

    with replacing(path) as temporary:
        temporary.write_text(yaml.safe_dump(settings, sort_keys=False, allow_unicode=True), encoding="utf-8")
    return Path(path)
