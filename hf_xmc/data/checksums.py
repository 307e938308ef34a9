"""`manifest.json`: size and SHA-256 of each file of a trained folder, by which a damaged or exchanged one is noticed.

It is written with the parts of the folder, and checked before they are loaded. Whoever can change the manifest can
change the rest too: it protects from damage, from files of two versions in one folder, and from edits of single files.

    format       2; format 1, of version 0.1, had `files` alone
    generation   a number that grows with each change of the files
    files        file -> SHA-256
    sizes        file -> bytes
    made_from    part -> part that it was made from or fitted to -> a hash of the latter as it was then
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from hf_xmc.data.damage import damage_of, is_pointer
from hf_xmc.data.documents import read_document
from hf_xmc.data.files import file_fingerprint, replacing
from hf_xmc.errors import ModelFolderError

MANIFEST = "manifest.json"
FORMAT = 2


def write_manifest(
    folder: Path, files: Mapping[str, str], made_from: Mapping[str, Mapping[str, str]], before: Mapping[str, Any]
) -> Path:
    """Write sizes and checksums of files of a folder.

    Args:
        files: file -> SHA-256.
        before: the manifest before; the generation grows if something has changed since.
    """
    about = {
        "files": {name: files[name] for name in sorted(files)},
        "sizes": {name: (folder / name).stat().st_size for name in sorted(files)},
        "made_from": {part: dict(sorted(made_from[part].items())) for part in sorted(made_from)},
    }
    changed = any(before.get(key) != value for key, value in about.items())
    content = {"format": FORMAT, "generation": int(before.get("generation", 0)) + changed, **about}
    with replacing(folder / MANIFEST) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return folder / MANIFEST


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a folder; without one, an empty one.

    Raises:
        ModelFolderError: it was written by a later version.
    """
    if not (folder / MANIFEST).is_file():
        return {}
    from hf_xmc.data.schemas import ManifestDocument

    hint = f"download or copy the folder again, or delete {MANIFEST} if you trust the other files"
    return read_document(folder / MANIFEST, ManifestDocument, FORMAT, hint)


def forget_checksums(folder: str | os.PathLike[str]) -> None:
    """Remove the manifest of a folder of which a single part is about to be written."""
    Path(folder, MANIFEST).unlink(missing_ok=True)


def checksums(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """File -> SHA-256, sorted; large files at once, since hashing does not hold the interpreter."""
    rows = sorted(names)
    with ThreadPoolExecutor(max_workers=4) as pool:
        return dict(zip(rows, pool.map(lambda name: file_fingerprint(folder / name), rows), strict=True))


def check_manifest(folder: Path, names: Collection[str] | None = None) -> None:
    """Compare the files of a folder with its manifest; without a manifest, or for files that it does not list, there
    is nothing to compare, but pointers of Git LFS are noticed.

    Args:
        names: the files that will be read; by default all that are listed. A listed one that is missing counts as
            changed only by default, since a part of a repository may have been downloaded.

    Raises:
        ModelFolderError: a file that is not as it was saved.
    """
    for name in sorted(names or ()):
        if damage := pointer(folder / name):
            raise ModelFolderError(damage[0], folder, hint=damage[1])
    about = read_manifest(folder)
    listed: dict[str, str] = about.get("files") or {}
    asked = [name for name in listed if names is None or name in names]
    if names is None and (gone := [name for name in asked if not (folder / name).is_file()]):
        raise changed(folder, gone, "missing")
    there = [name for name in asked if (folder / name).is_file()]
    sizes: dict[str, int] = about.get("sizes") or {}
    if other := [name for name in there if name in sizes and (folder / name).stat().st_size != sizes[name]]:
        raise changed(folder, other, "not as saved")  # by their sizes, before anything large is read
    found = checksums(folder, there)
    if different := [name for name in there if found[name] != listed[name]]:
        raise changed(folder, different, "not as saved")


def pointer(path: Path) -> tuple[str, str] | None:
    """What is wrong, and what to do, where a file is a pointer of Git LFS."""
    return damage_of(path) if path.is_file() and is_pointer(path) else None


def changed(folder: Path, names: Collection[str], what: str) -> ModelFolderError:
    if found := next((both for name in sorted(names) if (both := pointer(folder / name))), None):
        return ModelFolderError(found[0], folder, hint=found[1])
    return ModelFolderError(
        f"{', '.join(sorted(names))}: {what}, by the checksums of {MANIFEST}",
        folder,
        hint=f"download or copy the folder again; if you changed it yourself, delete {MANIFEST}",
    )
