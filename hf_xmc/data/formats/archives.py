"""Archives of data sets: unpacked once into the cache of `datasets`."""

from __future__ import annotations

from pathlib import Path

import datasets

from hf_xmc.errors import DataError

SUFFIXES = (".zip", ".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz")


def unpacked(path: Path) -> Path:
    """The folder that an archive holds, below any folder that holds nothing else; other paths as they are.

    Raises:
        DataError: the archive is broken.
    """
    if path.is_file() and path.name.lower().endswith(SUFFIXES):
        settings = datasets.DownloadConfig(extract_compressed_file=True, disable_tqdm=True)
        try:
            path = Path(datasets.DownloadManager(download_config=settings).extract(str(path)))
        except Exception as error:  # of zipfile, tarfile, lzma, zlib, ...
            raise DataError(f"cannot be unpacked ({error!s:.120})", path, hint="is the file complete?") from error
        if path.is_file():
            raise DataError("not an archive", path, hint="expected .zip or .tar")
    while path.is_dir() and len(inside := list(path.iterdir())) == 1 and inside[0].is_dir():
        path = inside[0]
    return path
