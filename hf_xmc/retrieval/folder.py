"""Finding a trained folder, or an encoder to start from, on this machine or on the Hub."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from hf_xmc.data.damage import first_damage
from hf_xmc.data.hub_access import hub_or_cache
from hf_xmc.data.transaction import OURS, finish
from hf_xmc.errors import DivergenceError, ModelFolderError, XMCError

if TYPE_CHECKING:
    from torch import Tensor, nn


def fetch_folder(
    name_or_folder: str | os.PathLike[str],
    allow_patterns: Sequence[str] | None = None,
    ignore_patterns: Sequence[str] = (),
    subfolder: str = "",
    **hub: Any,
) -> Path:
    """The path of a trained folder: a local folder itself, or the downloaded files of a Hub repository.

    Args:
        allow_patterns: download only files that match one of these; by default all.
        ignore_patterns: do not download files that match one of these.
        subfolder: where in the folder or repository the trained folder is.

    Raises:
        ModelFolderError: neither a folder nor a repository that can be downloaded; or a folder in which a killed
            command left something that cannot be finished.
    """
    folder = Path(name_or_folder)
    if folder.is_dir():
        finish(folder / subfolder)
        return folder / subfolder
    if "/" not in str(name_or_folder):  # taggers on the Hub are called name/model
        raise no_such_folder(folder, "give a trained folder, or a repository as name/model")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
    )

    try:
        inside = f"{subfolder}/" if subfolder else ""
        patterns = [f"{inside}{pattern}" for pattern in allow_patterns or (["*"] if subfolder else [])] or None
        ignored = [f"{inside}{pattern}" for pattern in (*ignore_patterns, f"{OURS}*")]
        with hub_or_cache(str(name_or_folder)):
            found = snapshot_download(str(name_or_folder), allow_patterns=patterns, ignore_patterns=ignored, **hub)
        return Path(found) / subfolder
    except HFValidationError as error:
        raise no_such_folder(folder, "give a trained folder, or a repository as name/model") from error
    except Exception as error:
        if not (isinstance(error, (HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled)) or is_cut(error)):
            raise
        if similar_folder(folder) is not None:
            raise no_such_folder(folder) from error
        reason = first_line(error)
        raise ModelFolderError(
            f"no such folder, and no repository of this name could be downloaded ({reason})",
            folder,
            hint="check the name",
        ) from error


def is_cut(error: Exception) -> bool:
    """Whether an error says that a connection failed or was cut. By name, since `huggingface_hub` changes the library
    that it connects with from version to version."""
    return any(cls.__name__ == "TransportError" for cls in type(error).__mro__) or isinstance(error, ConnectionError)


def no_such_folder(folder: Path, hint: str = "check the name") -> ModelFolderError:
    """The error of a folder that is not there, with one that is and has a similar name, or else with a hint."""
    if folder.is_file():
        return ModelFolderError("this is a file", folder, hint="give a trained folder, as hf-xmc fit writes it")
    near = similar_folder(folder)
    return ModelFolderError("no such folder", folder, hint=hint if near is None else f"did you mean {near}?")


def similar_folder(folder: Path) -> Path | None:
    """A folder whose path is spelled in a similar way; None if there is none.

    >>> import tempfile
    >>> outputs = Path(tempfile.mkdtemp()) / "outputs"
    >>> (outputs / "model").mkdir(parents=True)
    >>> similar_folder(outputs.with_name("output") / "modle") == outputs / "model"
    True
    """
    found = Path(folder.anchor)
    for part in folder.parts[1:] if folder.anchor else folder.parts:
        if part == ".." or (found / part).is_dir():
            found = found / part
            continue
        try:
            names = [path.name for path in found.iterdir() if path.is_dir()]
        except OSError:
            return None
        near = get_close_matches(part, names, 1, cutoff=0.7)
        if not near:
            return None
        found = found / near[0]
    return found if found != folder and found.is_dir() else None


@contextmanager
def loading_encoder(name_or_folder: str | os.PathLike[str]) -> Iterator[None]:
    """Errors of transformers about an encoder that cannot be loaded, as one that says which and why.

    Errors of the operating system, such as a full disk, stay as they are.

    Raises:
        ModelFolderError: no such encoder, or one that transformers cannot load.
    """
    local = Path(name_or_folder).is_dir()
    try:
        with nullcontext() if local else hub_or_cache(os.fspath(name_or_folder)):
            yield
    except XMCError:
        raise
    except (OSError, ValueError, SafetensorError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise ModelFolderError(
            f"no encoder {os.fspath(name_or_folder)!r} could be loaded ({first_line(error)})",
            hint="give a Hub id or a folder that AutoModel can load",
        ) from error


@contextmanager
def loading_weights(folder: Path, what: str) -> Iterator[None]:
    """Whatever transformers, tokenizers or safetensors raise about damaged files, as one error that says which.

    Errors of the operating system, such as a full disk, stay as they are.

    Args:
        what: the part of the folder, for the message.

    Raises:
        ModelFolderError: the files cannot be read, or do not fit together.
    """
    try:
        yield
    except XMCError:
        raise
    except Exception as error:  # tokenizers raises plain Exceptions, and transformers whatever it stumbles over
        if isinstance(error, OSError) and error.errno is not None:
            raise
        found, hint = first_damage(folder.iterdir()) if folder.is_dir() else ("", "")
        if found:
            raise ModelFolderError(found, folder, hint=hint) from error
        damaged = "weights" if isinstance(error, SafetensorError) else what
        reason = f"{type(error).__name__}: {first_line(error)}" if not str(error).strip() else first_line(error)
        raise ModelFolderError(
            f"the {damaged} cannot be read ({reason:.300})", folder, hint="copy or download the folder again"
        ) from error


def check_weights(model: nn.Module, info: Mapping[str, Any], folder: Path) -> None:
    """Refuse a model some of whose weights were not in its files, or are not finite.

    Args:
        info: what `from_pretrained(..., output_loading_info=True)` says.

    Raises:
        ModelFolderError: names the first such tensor.
    """
    again = "copy or download the folder again"
    if missing := sorted(info.get("missing_keys") or ()):
        raise ModelFolderError(f"{len(missing)} tensors are missing, the first: {missing[0]}", folder, hint=again)
    if others := sorted(map(str, info.get("mismatched_keys") or ())):
        raise ModelFolderError(f"tensors of another shape than in config.json: {others[0]:.200}", folder, hint=again)
    if bad := not_finite(model.state_dict()):
        raise ModelFolderError(f"the tensor {bad} holds numbers that are not finite", folder, hint=again)


def check_before_writing(tensors: Mapping[str, Tensor], what: str) -> None:
    """Refuse to write weights that are not finite.

    Args:
        what: whose they are, for the message.

    Raises:
        DivergenceError: names the first such tensor.
    """
    if bad := not_finite(tensors):
        raise DivergenceError(
            f"the tensor {bad} of {what} holds NaN or infinity, and is not written",
            hint="the training diverged: lower learning_rate, or use bf16 in place of fp16",
        )


def not_finite(tensors: Mapping[str, Tensor]) -> str:
    """The name of the first tensor with numbers that are not finite, or nothing."""
    import torch

    return next(
        (
            name
            for name, tensor in tensors.items()
            if tensor.is_floating_point() and not tensor.is_meta and not torch.isfinite(tensor).all()
        ),
        "",
    )


def first_line(error: Exception) -> str:
    """The first line of a message: libraries put the reason there, and advice below it."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
