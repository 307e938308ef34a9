"""What is wrong with a file that cannot be read: a pointer of Git LFS in its place, or a file that is cut off."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterable
from pathlib import Path

LFS = b"version https://git-lfs.github.com/spec/"
POINTER = 1024  # bytes that a pointer has at most
TORCH = (".pt", ".pth", ".bin")  # zip archives, as torch.save writes them


def is_pointer(path: Path) -> bool:
    """Whether a file is a pointer of Git LFS, which `git clone` leaves where `git lfs` is not installed."""
    if path.stat().st_size > POINTER:
        return False
    with path.open("rb") as file:
        return file.read(len(LFS)) == LFS


def damage_of(path: Path) -> tuple[str, str]:
    """What is wrong with a file and what to do, both empty if nothing is; judged by its kind, without loading it.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "model.safetensors"
    >>> _ = path.write_bytes((10**6).to_bytes(8, "little") + b"{}")
    >>> damage_of(path)[0]
    'model.safetensors is cut off'
    """
    again = "copy or download it again"
    if is_pointer(path):
        return f"{path.name} is a pointer of Git LFS and not the file itself", "run git lfs pull in the repository"
    if path.suffix == ".safetensors" and tensors_end(path) != path.stat().st_size:
        return f"{path.name} is cut off", again
    if path.suffix == ".json" and not is_json(path):
        return f"{path.name} is cut off or is not JSON", again
    if path.suffix in TORCH and not zipfile.is_zipfile(path):
        return f"{path.name} is cut off", again
    return "", ""


def first_damage(paths: Iterable[Path]) -> tuple[str, str]:
    """What is wrong with the first of some files that is damaged, and what to do; both empty if none is."""
    found = (damage_of(path) for path in sorted(paths) if path.is_file())
    return next((both for both in found if both[0]), ("", ""))


def tensors_end(path: Path) -> int:
    """The size that a file of safetensors must have by its header; -1 if it has none."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= size - 8:
            return -1
        try:
            header = json.loads(file.read(length))
            ends = [about["data_offsets"][1] for name, about in header.items() if name != "__metadata__"]
            return 8 + length + int(max(ends, default=0))
        except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
            return -1


def is_json(path: Path) -> bool:
    """Whether a file is JSON."""
    try:
        json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return False
    return True
