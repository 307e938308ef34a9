"""The container: its files are valid, and the command that it runs is one that `hf-xmc serve` takes. It is built where
there is a Docker daemon, which is not here."""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import typer
import yaml

from hf_xmc.cli.main import app

ROOT = Path(__file__).parents[2]
DOCKERFILE, COMPOSE = ROOT / "deploy/Dockerfile", ROOT / "deploy/compose.yaml"


def instructions() -> list[tuple[str, str]]:
    """The instructions of the Dockerfile, each with what follows it."""
    text = re.sub(r"^#.*\n", "", DOCKERFILE.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return [(line.split()[0], line.partition(" ")[2].strip()) for line in text.splitlines() if line.strip()]


def parsed(words: list[str]) -> dict[str, Any]:
    """What the real parser makes of a command line."""
    group: Any = typer.main.get_command(app)
    program, command, *rest = words
    assert program == "hf-xmc"
    parent = group.make_context(program, [command, *rest], resilient_parsing=True)
    return dict(group.get_command(parent, command).make_context(command, list(rest), parent=parent).params)


def test_the_container_runs_a_valid_command_as_somebody_without_rights() -> None:
    found = instructions()
    given = dict(found)
    names = [name for name, _ in found]
    assert names[0] == "FROM"
    assert {*names} <= {"FROM", "ARG", "COPY", "RUN", "USER", "ENV", "VOLUME", "EXPOSE", "HEALTHCHECK"} | {
        "STOPSIGNAL",
        "ENTRYPOINT",
        "CMD",
    }
    assert names.index("USER") < names.index("ENTRYPOINT")
    assert given["USER"] == "tagger"
    assert f"useradd --uid 10001 --create-home {given['USER']}" in given["RUN"]
    options = parsed([*json.loads(given["ENTRYPOINT"]), *json.loads(given["CMD"])])
    assert (options["run"], options["host"], options["port"]) == ("/models/tagger", "0.0.0.0", 8000)
    assert given["VOLUME"] == "/models"
    for name, rest in found:
        if name == "COPY":
            sources = [word for word in shlex.split(rest) if not word.startswith("--")][:-1]
            assert all((ROOT / source).exists() for source in sources)
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    [wanted] = re.findall(r"/source\[([\w,]+)\]", given["RUN"])
    assert {*wanted.split(",")} <= {*extras}
    check = given["HEALTHCHECK"]
    compile(json.loads(check[check.index("[") :])[2], "HEALTHCHECK", "exec")


def test_what_the_container_copies_is_not_ignored() -> None:
    kept = {line[1:] for line in (ROOT / "deploy/Dockerfile.dockerignore").read_text().splitlines() if line[0] == "!"}
    copied = {word for name, rest in instructions() if name == "COPY" for word in rest.split()[:-1]}
    assert copied == kept


def test_compose_starts_the_same_command_with_a_named_volume() -> None:
    made = yaml.safe_load(COMPOSE.read_text())
    tagger = made["services"]["tagger"]
    assert (COMPOSE.parent / tagger["build"]["context"] / tagger["build"]["dockerfile"]).resolve() == DOCKERFILE
    given = dict(instructions())
    options = parsed([*json.loads(given["ENTRYPOINT"]), *tagger["command"]])
    [port] = tagger["ports"]
    assert port.split(":")[-1] == str(options["port"]) == given["EXPOSE"]
    [volume] = tagger["volumes"]
    name, place = volume.split(":")
    assert name in made["volumes"]
    assert options["run"].startswith(place)
    assert tagger["read_only"]
    assert tagger["healthcheck"]["test"][1:] == json.loads(given["HEALTHCHECK"][given["HEALTHCHECK"].index("[") :])
