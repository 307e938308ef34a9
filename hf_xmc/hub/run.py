"""`run.json`: how a trained folder was made."""

from __future__ import annotations

import json
import math
import os
from importlib.metadata import version
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Any

from hf_xmc.data.files import replacing
from hf_xmc.errors import ModelFolderError

if TYPE_CHECKING:
    from transformers import TrainingArguments

    from hf_xmc.data.dataset import XMCDataset

LIBRARIES = ("torch", "transformers", "datasets", "accelerate", "huggingface-hub", "faiss-cpu", "numpy")
RUN, METRICS, CARD = "run.json", "metrics.json", "README.md"  # files of a trained folder


def versions() -> dict[str, str]:
    """Versions of the libraries that results depend on."""
    from hf_xmc import __version__  # of the code that runs, which the installed metadata may lag behind

    return {"hf-xmc": __version__, **{name: version(name) for name in LIBRARIES}}


def describe_run(
    dataset: XMCDataset, args: TrainingArguments, encoder: str, train_seconds: float, **more: Any
) -> dict[str, Any]:
    """What `run.json` holds: arguments that are not defaults, data with its fingerprint, versions."""
    return {
        "encoder": encoder if not Path(encoder).exists() else "",  # a path says nothing elsewhere
        "arguments": changed_arguments(args),
        "data": {
            "name": dataset.name,
            "licence": dataset.licence,
            "source": dataset.source,
            "counts": dataset.counts(),
            "fingerprint": dataset.fingerprint(),
            "example": shorten(dataset.queries["train"][0]["text"], 60, placeholder=" ..."),
        },
        "world_size": args.world_size,
        "hardware": hardware(args),
        "train_seconds": round(train_seconds, 1),
        "versions": versions(),
        **({"soft_positives": dataset.soft.counts()} if dataset.soft else {}),
        **({"reading": dataset.reading.to_json()} if dataset.reading else {}),
        **more,
    }


def hardware(args: TrainingArguments) -> dict[str, Any]:
    """What a training ran on, and the power that an estimate of its energy assumes: 300 W for a GPU with what feeds
    it, 10 W for a core."""
    import torch

    if args.device.type == "cuda":
        return {
            "device": torch.cuda.get_device_name(args.device),
            "count": args.world_size,
            "watts": 300 * args.world_size,
        }
    cores = torch.get_num_threads() * args.world_size
    return {"device": f"CPU ({cores} core{'s' if cores > 1 else ''})", "count": 1, "watts": 10 * cores}


def changed_arguments(args: TrainingArguments) -> dict[str, Any]:
    """The arguments that differ from their defaults; paths and tokens stay out."""
    defaults = type(args)(output_dir=args.output_dir).to_dict()
    private = {"output_dir", "logging_dir", "hub_token", "push_to_hub_token", "local_rank", "resume_from_checkpoint"}
    return {key: value for key, value in args.to_dict().items() if key not in private and defaults.get(key) != value}


def write_json(content: dict[str, Any] | list[Any], path: str | os.PathLike[str]) -> Path:
    """Write under a temporary name, then rename. NaN and infinity, which JSON does not have, become null."""
    text = json.dumps(without_nan(content), indent=2, ensure_ascii=False, allow_nan=False)
    with replacing(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")
    return Path(path)


def without_nan(value: Any) -> Any:
    """A value in which null stands for numbers that are not finite.

    >>> without_nan({"P@1": float("nan"), "k": [1, 2.5]})
    {'P@1': None, 'k': [1, 2.5]}
    """
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_json(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The object in a JSON file of a trained folder, of any size; an empty one if there is no file.

    Raises:
        ModelFolderError: the file is not JSON, or holds something else than an object.
    """
    found: dict[str, Any] = parsed(Path(path), dict)
    return found


def read_list(path: str | os.PathLike[str]) -> list[Any]:
    """As `read_json`, of a file that holds a list."""
    found: list[Any] = parsed(Path(path), list)
    return found


def parsed(path: Path, kind: type) -> Any:
    """The content of a JSON file, which is of this kind; an empty one if there is no file."""
    try:
        found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else kind()
    except (ValueError, RecursionError) as error:
        raise ModelFolderError(f"not JSON ({error})", path, hint="is the file complete?") from error
    if not isinstance(found, kind):
        expected = "an object" if kind is dict else "a list"
        raise ModelFolderError(f"found {found!r:.60}, expected {expected}", path, hint="is the file complete?")
    return found
