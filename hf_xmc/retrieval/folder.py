"""Where a trained folder lies."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError

from hf_xmc.errors import DataError


def fetch_folder(
    name_or_folder: str | os.PathLike[str], allow_patterns: Sequence[str] | None = None, **hub: Any
) -> Path:
    """A trained folder as it is, or that of a Hub repository, downloaded if need be (`only` these patterns).

    Raises:
        DataError: neither a folder nor a name that a repository can have.
    """
    folder = Path(name_or_folder)
    if folder.is_dir():
        return folder
    try:
        patterns = None if allow_patterns is None else list(allow_patterns)
        return Path(snapshot_download(str(name_or_folder), allow_patterns=patterns, **hub))
    except HFValidationError as error:
        raise DataError(
            "no such folder", folder, hint="give a trained folder, or a repository as name/model"
        ) from error
