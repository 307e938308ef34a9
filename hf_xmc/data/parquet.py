"""Tables to Parquet files and back."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, Features
from datasets.table import InMemoryTable

from hf_xmc.data.arrow import ArrowTableWriter, batches
from hf_xmc.data.files import replacing
from hf_xmc.errors import DataError

GROUP = 50_000  # rows that are in memory at once


def write_parquet(table: Dataset, path: Path) -> Path:
    """Write under a temporary name, then rename, so that a file of that name is always whole."""
    schema = table.features.arrow_schema
    with replacing(path) as temporary, pq.ParquetWriter(temporary, schema) as writer:
        for batch in batches(table, rows=GROUP):
            writer.write_table(batch.cast(schema))
    return path


def read_parquet(path: Path) -> Dataset:
    """Read a file into memory.

    Raises:
        DataError: it is missing, or not Parquet.
    """
    try:
        return Dataset(InMemoryTable(pq.read_table(path)))
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"cannot be read as Parquet ({error!s:.200})", path) from error


def parquet_to_arrow(path: Path, target: Path) -> None:
    """Rewrite a file so that it can be mapped; memory holds one batch.

    Raises:
        DataError: it is missing, or not Parquet.
    """
    try:
        with pq.ParquetFile(path) as file:
            features = Features.from_arrow_schema(file.schema_arrow)
            with ArrowTableWriter(target, features) as writer:
                for batch in file.iter_batches(batch_size=GROUP):
                    writer.write_table(pa.Table.from_batches([batch]))
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"cannot be read as Parquet ({error!s:.200})", path) from error
