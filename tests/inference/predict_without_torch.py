"""Predict with ONNX Runtime where torch and the packages of training cannot be imported. Arguments: folder, texts."""

from __future__ import annotations

import json
import sys
from typing import Any

MISSING = ("torch", "matplotlib", "rdflib", "evaluate", "iterstrat", "sklearn", "accelerate", "optuna", "peft")


class Absent:
    """Makes packages look as if they were not installed."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        if name.split(".")[0] in MISSING:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def main() -> None:
    sys.meta_path.insert(0, Absent())  # type: ignore[arg-type]
    from hf_xmc import XMCPipeline

    tagger = XMCPipeline.from_pretrained(sys.argv[1], backend="onnx", precision="float32")
    found = tagger(json.loads(sys.argv[2]), k=5)
    print(json.dumps({"tags": found, "imported": sorted({*MISSING} & {*sys.modules})}))


if __name__ == "__main__":
    main()
