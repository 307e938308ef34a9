"""What a static tower reads of a table of texts: found once, and kept in memory-mapped files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import blake2b
from pathlib import Path

import numpy as np
from datasets import Dataset
from tqdm.auto import tqdm

from hf_xmc.data.arrow import cached_folder
from hf_xmc.data.tokenized import chunked, distinct, text_hashes
from hf_xmc.modeling.ngrams_xmc import VERSION, Features

# Name of the file and type of the numbers in it.
PARTS = {"ids": np.int32, "counts": np.uint16, "indptr": np.int64, "text_of_row": np.int32}


def feature_table(texts: Dataset, buckets: int, pairs: bool = True, progress: bool = False) -> Features:
    """The features of the `text` column of a table; those of a text that repeats are stored once.

    They are kept in the cache of `datasets`, for the next run over the same texts.

    Args:
        texts: a table with `text`.
        buckets: number of different hashes.
        pairs: whether to include word pairs.
        progress: show a progress bar.
    """
    if not len(texts):
        return Features.of([], buckets, pairs)
    hashes = text_hashes(texts)  # [N, 2]

    def fill(folder: Path) -> None:
        write_features(texts, hashes, lambda some: Features.of(some, buckets, pairs), folder, progress)

    fingerprint = blake2b(hashes.tobytes(), digest_size=16).hexdigest()
    return open_features(cached_folder("features", [VERSION, fingerprint, buckets, pairs], fill))


def write_features(
    texts: Dataset,
    hashes: np.ndarray,
    read: Callable[[Sequence[str]], Features],
    folder: Path,
    progress: bool,
) -> None:
    """Write the features of the distinct texts, some thousand texts at a time."""
    first, text_of_row = distinct(hashes)
    ends = [np.zeros(1, dtype=np.int64)]
    with (
        open(folder / "ids", "wb") as ids,
        open(folder / "counts", "wb") as counts,
        tqdm(total=len(first), desc="Reading words", unit=" texts", delay=2, disable=not progress) as bar,
    ):
        for chunk in chunked(texts, first):
            found = read(chunk)
            found.ids.tofile(ids)
            found.counts.tofile(counts)
            ends.append(found.indptr[1:] + ends[-1][-1])
            bar.update(len(chunk))
    np.concatenate(ends).tofile(folder / "indptr")
    text_of_row.tofile(folder / "text_of_row")


def open_features(folder: Path) -> Features:
    """Map the features that `write_features` wrote; pages are read when they are used."""
    found = [
        np.memmap(folder / name, dtype, "r") if (folder / name).stat().st_size else np.zeros(0, dtype)
        for name, dtype in PARTS.items()
    ]
    return Features(*(np.asarray(part) for part in found))
