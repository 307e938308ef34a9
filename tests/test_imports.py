"""Imports go one way: a module sees its own folder and the folders above it in this list, never in a ring."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import hf_xmc

PACKAGE = Path(hf_xmc.__file__).parent
ORDER = ["verbosity", "errors", "types", "metrics", "losses", "pages", "data", "sampling", "modeling", "retrieval"]
ORDER = [*ORDER, "hub", "training", "inference", "audit", "fit", "serving", "cli"]
SEES_ALL = {"__init__"}
SEES_ONLY = {"metrics": {"errors", "types"}, "pages": set[str](), "modeling": {"errors"}}


def allowed_rooms(room: str) -> set[str]:
    """The other rooms that a module of `room` may import from."""
    if room in SEES_ALL:
        return {*ORDER}
    if room in SEES_ONLY:
        return SEES_ONLY[room]
    return set(ORDER[: ORDER.index(room)])


def imported_names(source: str, module: tuple[str, ...]) -> set[str]:
    """What a module imports, at the top, in functions and for type checkers, with dots: modules and names in them.

    `module` is its path, as ("data", "collator") or ("data", "__init__").
    """
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parent = ("hf_xmc", *module)[: len(module) + 1 - node.level] if node.level else ()
            base = ".".join([*parent, *([node.module] if node.module else [])])
            names |= {f"{base}.{alias.name}" for alias in node.names}
    return names


def imported_rooms(source: str, module: tuple[str, ...]) -> set[str]:
    """Rooms of hf_xmc that a module imports."""
    return {name.split(".")[1] for name in imported_names(source, module) if name.startswith("hf_xmc.")}


def violations(source: str, module: tuple[str, ...]) -> set[str]:
    room = module[0]
    rooms = imported_rooms(source, module) - {room, "__version__"}
    return rooms - allowed_rooms(room)


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def sources() -> dict[tuple[str, ...], str]:
    """The text of each module, by its path."""
    return {path.relative_to(PACKAGE).with_suffix("").parts: path.read_text() for path in modules()}


def circle(sources: dict[tuple[str, ...], str]) -> list[str]:
    """Modules that import each other in a ring, if there are any; the package's own `__init__` loads lazily."""
    names = {".".join(("hf_xmc", *(part for part in module if part != "__init__"))): module for module in sources}

    def nearest(name: str) -> str:
        return name if name in names else name.rpartition(".")[0]

    def seen(name: str) -> Iterator[str]:
        for imported in imported_names(sources[names[name]], names[name]):
            if (other := nearest(imported)) in names and other not in (name, "hf_xmc"):
                yield other

    try:
        TopologicalSorter({name: {*seen(name)} for name in names if name != "hf_xmc"}).prepare()
    except CycleError as error:
        return error.args[1]
    return []


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_only_what_stands_above(path: Path) -> None:
    module = path.relative_to(PACKAGE).with_suffix("").parts
    assert not violations(path.read_text(), module), f"{path.name} imports a folder that it may not see"


def test_every_room_is_in_the_order() -> None:
    rooms = {path.relative_to(PACKAGE).with_suffix("").parts[0] for path in modules()}
    assert rooms <= {*ORDER, *SEES_ALL}


def test_no_modules_import_each_other() -> None:
    found = circle(sources())
    assert not found, " imports ".join(reversed(found))


def test_the_package_uses_no_names_of_its_own_front_door() -> None:
    """`from hf_xmc import X` inside the package would be a circle through the lazy `__init__`."""
    for module, source in sources().items():
        own = {name for name in imported_names(source, module) if name.count(".") == 1 and name.startswith("hf_xmc.")}
        rooms = {name.removeprefix("hf_xmc.") for name in own}
        assert rooms <= {*ORDER, "__version__"} or module == ("__init__",), module


@pytest.mark.parametrize(
    ("source", "module", "found"),
    [
        ("from hf_xmc.training import trainer", ("losses", "softmax"), {"training"}),
        ("from hf_xmc.data.dataset import XMCDataset", ("metrics", "ranking"), {"data"}),
        ("from ..training.trainer import XMCTrainer", ("losses", "softmax"), {"training"}),
        ("from hf_xmc import types", ("modeling", "modeling_xmc"), {"types"}),
        ("def f():\n    import hf_xmc.cli.main", ("hub", "card"), {"cli"}),
        ("from hf_xmc.inference import XMCPipeline", ("hub", "card"), {"inference"}),
        ("from hf_xmc.cli.main import app", ("inference", "pipeline"), {"cli"}),
        ("from hf_xmc.types import Positives", ("losses", "softmax"), set()),
        ("from .streaming import stream", ("losses", "softmax"), set()),
    ],
)
def test_the_check_sees_an_import_that_goes_up(source: str, module: tuple[str, ...], found: set[str]) -> None:
    assert violations(source, module) == found


@pytest.mark.parametrize(
    ("first", "second", "ring"),
    [
        ("from hf_xmc.data.b import B", "if TYPE_CHECKING:\n    from hf_xmc.data.a import A", True),
        ("from .b import B", "def f():\n    from hf_xmc.data import a", True),
        ("from hf_xmc.data import b", "from . import c", True),
        ("from hf_xmc.data.b import B", "from hf_xmc.types import TopK", False),
    ],
)
def test_the_check_sees_a_circle(first: str, second: str, ring: bool) -> None:
    made = {("data", "a"): first, ("data", "b"): second, ("data", "c"): "import hf_xmc.data.a", ("types",): ""}
    assert bool(circle(made)) == ring


def test_public_names_are_reachable() -> None:
    for name in hf_xmc.__all__:
        assert getattr(hf_xmc, name) is not None
    with pytest.raises(AttributeError):
        _ = hf_xmc.no_such_name
