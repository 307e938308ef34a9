"""Tables to Parquet files and back."""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset
from datasets.table import InMemoryTable

from hf_xmc.data.errors import DataError


def write_parquet(table: Dataset, path: Path) -> Path:
    """Write under a temporary name, then rename, so that a file of that name is always whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        pq.write_table(table.with_format("arrow")[:], temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def read_parquet(path: Path) -> Dataset:
    """Read a file.

    Raises:
        DataError: it is missing, or not Parquet.
    """
    try:
        return Dataset(InMemoryTable(pq.read_table(path)))
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"cannot be read as Parquet ({error!s:.200})", path) from error
