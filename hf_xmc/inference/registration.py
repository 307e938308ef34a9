"""What makes `import hf_xmc` enough for transformers to know our model and task, without importing either yet."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

# Module of transformers -> module of ours that registers there when it is imported.
FOLLOWERS = {
    "transformers.models.auto.modeling_auto": "hf_xmc.modeling",  # AutoConfig and AutoModel
    "transformers.pipelines": "hf_xmc.inference.transformers_pipeline",  # pipeline("xmc-tagging", ...)
}


def register_with_transformers() -> None:
    """Register the model and the task `xmc-tagging`: now where transformers is there, else once it is imported.

    Registering needs the classes, and they need torch: several seconds that `hf-xmc --help` shall not wait for.
    Whoever imports `AutoModel` or `pipeline` pays for torch anyway, before or after `import hf_xmc`.
    """
    finder = next((finder for finder in sys.meta_path if isinstance(finder, Follow)), None)
    if finder is None:
        sys.meta_path.insert(0, finder := Follow())
    finder.follow()


class Follow(MetaPathFinder):
    """Finds the modules of transformers as usual. Ours follow once none of them is half imported: modules of
    transformers import each other, and a follower that ran in between would meet names that are not there
    yet. The same holds for ours: a follower imports more of transformers, and the next one waits until it is whole."""

    depth = 0

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path, target) if name.startswith("transformers.") else None
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
        """Import what follows the modules that are there, unless one is being imported."""
        if self.depth:
            return
        self.depth += 1
        try:
            for name, follower in FOLLOWERS.items():
                if name in sys.modules:
                    import_module(follower)
        finally:
            self.depth -= 1
