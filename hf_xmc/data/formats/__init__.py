"""Readers of file formats, one module per format. `open_source` finds the one that a folder or file needs."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

from hf_xmc.data.formats.source import Options, Reader, Source
from hf_xmc.errors import DataError


def open_source(path: Path, options: Options) -> Source:
    """Streams over the data of a folder, file or archive, with the reason why it is read as that format.

    Raises:
        DataError: no format fits, or a file that the format needs is missing.
    """
    from hf_xmc.data.formats.unread import not_read, saved_otherwise  # slow, as in `folder_of`

    path = folder_of(path)
    known = readers()
    for reader in known:
        reason = reader.detect(path)
        if reason is not None:
            source = reader.open_source(path, options)
            source.reason = source.reason or reason
            if unread := not_read(path, source):
                source.choices.said.append(unread)
            return source
    inside = sorted(path.iterdir()) if path.is_dir() else [path]
    expected = saved_otherwise(inside) or "expected " + "; ".join(reader.expected for reader in known)
    found = ", ".join(one.name for one in inside[:8]) or "nothing"
    raise DataError(f"no data set (found {found})", path, hint=expected)


def readers() -> list[Reader]:
    """What the modules of this folder declare as `READER`, in the order in which `open_source` asks them."""
    names = sorted(module.name for module in iter_modules(__path__))
    declared = [vars(import_module(f"{__name__}.{name}")).get("READER") for name in names]
    return sorted((reader for reader in declared if reader is not None), key=lambda reader: reader.order)


def folder_of(path: Path) -> Path:
    """The folder that an archive holds, unpacked once into the cache of `datasets`; other paths unchanged. Folders
    that contain nothing but one folder are skipped.

    Raises:
        DataError: the archive is broken, or is not unpacked because it may do harm.
    """
    from hf_xmc.data.archives import (
        is_archive,
        unpacked,
    )  # slow, and the command line reads `source` for every command

    path = unpacked(path) if is_archive(path) else path
    while path.is_dir() and len(inside := list(path.iterdir())) == 1 and inside[0].is_dir():
        path = inside[0]
    return path
