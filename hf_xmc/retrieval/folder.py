"""Finding a trained folder on this machine or on the Hub."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
)

from hf_xmc.errors import ModelFolderError


def fetch_folder(
    name_or_folder: str | os.PathLike[str], allow_patterns: Sequence[str] | None = None, **hub: Any
) -> Path:
    """The path of a trained folder: a local folder itself, or the downloaded files of a Hub repository.

    Args:
        allow_patterns: download only files that match one of these; by default all.

    Raises:
        ModelFolderError: neither a folder nor a repository that can be downloaded.
    """
    folder = Path(name_or_folder)
    if folder.is_dir():
        return folder
    try:
        patterns = None if allow_patterns is None else list(allow_patterns)
        return Path(snapshot_download(str(name_or_folder), allow_patterns=patterns, **hub))
    except HFValidationError as error:
        raise ModelFolderError(
            "no such folder", folder, hint="give a trained folder, or a repository as name/model"
        ) from error
    except (HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        reason = str(error).strip().splitlines()[0]
        raise ModelFolderError(
            f"no such folder, and no repository of this name could be downloaded ({reason})",
            folder,
            hint="check the name",
        ) from error
