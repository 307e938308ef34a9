"""What a release stands on: versions that agree with each other, workflows that can be read, an audit that says when
it could not ask."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.markers import default_environment
from packaging.requirements import Requirement

from tests.conftest import ROOT

WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
LOCKED = ("dev", "docs", "fuzz")  # the extras of `make lock`; they take in the others of the package
HERE = {**default_environment(), "extra": ""}


def pins(path: Path) -> dict[str, list[Requirement]]:
    """The pins of a file by name; a package may have several, for different Pythons."""
    found: dict[str, list[Requirement]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.strip() and not line.startswith("#"):
            pin = Requirement(line.partition("  #")[0])
            found.setdefault(name_of(pin.name), []).append(pin)
    return found


def name_of(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def required() -> Iterator[Requirement]:
    """What the package needs with the locked extras."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras, waiting, seen = project["optional-dependencies"], [*LOCKED], set[str]()
    lines = [*project["dependencies"]]
    while waiting:
        if (extra := waiting.pop()) not in seen:
            seen.add(extra)
            lines += extras[extra]
            waiting += [its for line in extras[extra] if line.startswith("hf-xmc") for its in Requirement(line).extras]
    yield from (one for one in map(Requirement, lines) if one.name != "hf-xmc")


def test_the_lock_has_a_version_of_everything_that_the_package_needs() -> None:
    locked, pinned = pins(ROOT / "lock.txt"), pins(ROOT / "constraints.txt")
    for one in required():
        found = locked.get(name_of(one.name))
        assert found, f"{one.name} is not in lock.txt: run make lock"
        for pin in found:
            [version] = [its.version for its in pin.specifier]
            assert one.specifier.contains(version), f"lock.txt has {pin}, and pyproject.toml asks for {one}"
    for name, its in pinned.items():
        if name in locked:
            assert {str(pin.specifier) for pin in its} == {str(pin.specifier) for pin in locked[name]}, name


def test_the_bill_of_materials_has_the_locked_versions() -> None:
    components = json.loads((ROOT / "sbom/hf-xmc.cdx.json").read_text(encoding="utf-8"))["components"]
    locked = pins(ROOT / "lock.txt")
    assert len(components) > 50
    for one in components:
        assert one["version"] in {its.version for pin in locked[name_of(one["name"])] for its in pin.specifier}, one


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_can_be_read_and_name_what_is_there(path: Path) -> None:
    workflow: dict[Any, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert {"name", "permissions", "jobs", True} <= {*workflow}, "True is how YAML reads `on`"
    for job in workflow["jobs"].values():
        assert job["runs-on"]
        for step in job["steps"]:
            assert ("uses" in step) != ("run" in step), step
            assert re.fullmatch(r"[\w-]+/[\w-]+@v\d+", step.get("uses", "a/b@v1")), "an action of a version"
            for word in step.get("run", "").split():
                if "/" in word and "*" not in word and not word.startswith(("-", "http")):
                    assert (ROOT / word).exists(), f"{path.name} names {word}, which is not there"


def test_an_audit_that_cannot_ask_says_so_and_fails_where_it_must_not_be_left_out(tmp_path: Path) -> None:
    offline = tmp_path / "python"
    offline.write_text(f'#!/bin/sh\nhttps_proxy=http://127.0.0.1:9 exec {sys.executable} "$@"\n')
    offline.chmod(0o755)
    for words, code in (((), 0), (("--required",), 1)):
        done = subprocess.run(["bash", str(ROOT / ".ci/audit"), str(offline), *words], capture_output=True, text=True)
        assert done.returncode == code, done
        assert "pip-audit: skipped, since https://pypi.org" in done.stdout
