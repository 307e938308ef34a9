"""Imports go one way: a module sees its own folder and the folders above it in this list."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import hf_xmc

PACKAGE = Path(hf_xmc.__file__).parent
ORDER = [
    "verbosity",
    "errors",
    "types",
    "metrics",
    "losses",
    "data",
    "sampling",
    "modeling",
    "retrieval",
    "training",
    "hub",
]
SEES_ALL = {"inference", "cli", "__init__"}
SEES_ONLY = {"metrics": {"errors", "types"}, "modeling": {"errors"}}


def allowed_rooms(room: str) -> set[str]:
    """The other rooms that a module of `room` may import from."""
    if room in SEES_ALL:
        return {*ORDER, "inference", "cli"}
    if room in SEES_ONLY:
        return SEES_ONLY[room]
    return set(ORDER[: ORDER.index(room)])


def imported_rooms(source: str, module: tuple[str, ...]) -> set[str]:
    """Rooms of hf_xmc that a module imports. `module` is its path, as ("data", "collator")."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parent = ("hf_xmc", *module)[: len(module) + 1 - node.level] if node.level else ()
            base = ".".join([*parent, *([node.module] if node.module else [])])
            names |= {f"{base}.{alias.name}" for alias in node.names}
    return {name.split(".")[1] for name in names if name.startswith("hf_xmc.")}


def violations(source: str, module: tuple[str, ...]) -> set[str]:
    room = module[0]
    rooms = imported_rooms(source, module) - {room, "__version__"}
    return rooms - allowed_rooms(room)


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_only_what_stands_above(path: Path) -> None:
    module = path.relative_to(PACKAGE).with_suffix("").parts
    assert not violations(path.read_text(), module), f"{path.name} imports a folder that it may not see"


def test_every_room_is_in_the_order() -> None:
    rooms = {path.relative_to(PACKAGE).with_suffix("").parts[0] for path in modules()}
    assert rooms <= {*ORDER, *SEES_ALL}


@pytest.mark.parametrize(
    ("source", "module", "found"),
    [
        ("from hf_xmc.training import trainer", ("losses", "softmax"), {"training"}),
        ("from hf_xmc.data.dataset import XMCDataset", ("metrics", "ranking"), {"data"}),
        ("from ..training.trainer import XMCTrainer", ("losses", "softmax"), {"training"}),
        ("from hf_xmc import types", ("modeling", "modeling_xmc"), {"types"}),
        ("def f():\n    import hf_xmc.cli.main", ("hub", "card"), {"cli"}),
        ("from hf_xmc.types import Positives", ("losses", "softmax"), set()),
        ("from .streaming import stream", ("losses", "softmax"), set()),
    ],
)
def test_the_check_sees_an_import_that_goes_up(source: str, module: tuple[str, ...], found: set[str]) -> None:
    assert violations(source, module) == found


def test_public_names_are_reachable() -> None:
    for name in hf_xmc.__all__:
        assert getattr(hf_xmc, name) is not None
    with pytest.raises(AttributeError):
        _ = hf_xmc.no_such_name
