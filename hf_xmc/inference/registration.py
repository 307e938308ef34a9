"""Registers model and task with transformers on `import hf_xmc`, without importing transformers or torch."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

FOLLOWED = ("transformers.", "hf_xmc.modeling.")  # packages whose modules may import each other
# Module of transformers -> module of hf_xmc that registers there when it is imported.
FOLLOWERS = {
    "transformers.models.auto.modeling_auto": "hf_xmc.modeling.registered",  # AutoConfig and AutoModel
    "transformers.pipelines": "hf_xmc.inference.transformers_pipeline",  # pipeline("xmc-tagging", ...)
}


def register_with_transformers() -> None:
    """Register the model and the task `xmc-tagging`: now if transformers is imported already, else once it is.

    Registering needs the classes, and these need torch, whose import takes several seconds: too long for
    `hf-xmc --help`. Code that imports `AutoModel` or `pipeline` imports torch anyway.
    """
    the_finder().follow()


def when_imported(name: str, then: Callable[[], Any]) -> Callable[[], None]:
    """Call a function once a module of transformers is imported: now if it is already. Returns a function that calls
    this off."""
    finder, key = the_finder(), object()
    finder.waiting[key] = (name, then)
    finder.follow()
    return lambda: finder.waiting.pop(key, None) and None


def the_finder() -> Follow:
    """The finder of this process, in its place."""
    finder = next((finder for finder in sys.meta_path if isinstance(finder, Follow)), None)
    if finder is None:
        sys.meta_path.insert(0, finder := Follow())
    return finder


class Follow(MetaPathFinder):
    """Finds modules of transformers as usual, and imports the modules that follow them once none of them is partially
    imported: they import each other, and a follower that ran in between would not find names defined later. A follower
    imports more of transformers itself, so the next one waits until it is complete."""

    depth = 0

    def __init__(self) -> None:
        self.waiting: dict[object, tuple[str, Callable[[], Any]]] = {}  # module, and what to call once it is there

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path, target) if name.startswith(FOLLOWED) else None
        if spec is None or spec.loader is None:
            return None
        loader: Any = spec.loader
        execute = loader.exec_module

        def execute_and_follow(module: ModuleType) -> None:
            self.depth += 1
            try:
                execute(module)
            finally:
                self.depth -= 1
            self.follow()

        loader.exec_module = execute_and_follow
        return spec

    def follow(self) -> None:
        """Import the followers of imported modules, unless a module is being imported."""
        if self.depth:
            return
        self.depth += 1
        try:
            for key, (name, then) in [*self.waiting.items()]:
                if name in sys.modules and key in self.waiting:
                    del self.waiting[key]
                    then()
            for name, follower in FOLLOWERS.items():
                if name in sys.modules:
                    import_module(follower)
        finally:
            self.depth -= 1
