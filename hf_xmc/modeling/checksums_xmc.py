"""Compares the files of a model with the checksums that its folder keeps in `manifest.json`."""

from __future__ import annotations

import json
from fnmatch import fnmatch
from hashlib import file_digest
from pathlib import Path
from typing import Any

from transformers.utils import cached_file

from .errors_xmc import ModelFolderError

MANIFEST = "manifest.json"
PENDING = ".hf_xmc.commit"  # in a folder that is being changed; see hf_xmc.data.transaction
READ = ("config.json", "model*.safetensors", "label_head.safetensors", "tokenizer*.json")  # what the model is made of


def check_files(name_or_folder: Any, **options: Any) -> None:
    """Compare the files of a model, in a folder or downloaded from the Hub, with `manifest.json`; without one there is
    nothing to compare.

    Args:
        options: options for finding the files, as of `transformers.utils.cached_file`.

    Raises:
        ModelFolderError: a file that is not as it was saved, or that is just being replaced.
    """
    if Path(name_or_folder, options.get("subfolder", ""), PENDING).is_dir():
        raise ModelFolderError(
            "a command that saved this folder was killed, or is at it",
            str(name_or_folder),
            hint="try again; if it stays so, load it with hf_xmc.XMCPipeline.from_pretrained, which finishes it",
        )
    listed = found(name_or_folder, MANIFEST, options)
    if listed is None:
        return
    files = json.loads(listed.read_text(encoding="utf-8")).get("files") or {}
    for name, expected in files.items():
        if not any(fnmatch(name, pattern) for pattern in READ):
            continue
        path = found(name_or_folder, name, options)
        if path is not None and digest(path) != expected:
            raise ModelFolderError(
                f"{name}: not as saved, by the checksums of {MANIFEST}",
                str(name_or_folder),
                hint=f"download or copy the folder again; if you changed it yourself, delete {MANIFEST}",
            )


def found(name_or_folder: Any, name: str, options: dict[str, Any]) -> Path | None:
    """The file, if there is one."""
    missing_is_fine = {
        "_raise_exceptions_for_missing_entries": False,
        "_raise_exceptions_for_connection_errors": False,
    }
    path = cached_file(name_or_folder, name, **missing_is_fine, **options)
    return None if path is None else Path(path)


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()
