"""Tables in Arrow and Parquet files: written in batches, and memory-mapped rather than loaded."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from hashlib import blake2b
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hf_xmc.data.writing import remove_left, replacing, scratch_beside, sync_all
from hf_xmc.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset, Features

BATCH_ROWS = 10_000
BATCH_CHARACTERS = 2**26  # Arrow's strings have 32-bit offsets within a batch
PARQUET_ROWS = 50_000  # rows of a Parquet file that are in memory at once


class ArrowTableWriter:
    """Writes batches of columns to a file that `map_table` reads.

    The schema carries the features, so that they are restored on reading.
    """

    def __init__(self, path: Path, features: Features) -> None:
        self.schema = features.arrow_schema
        self.file = pa.OSFile(str(path), "wb")
        self.stream = pa.ipc.new_stream(self.file, self.schema)
        self.rows = 0

    def write(self, columns: dict[str, Any]) -> None:
        """Write one batch; values are Python lists or Arrow arrays."""
        arrays = [
            column.cast(field.type) if isinstance(column, pa.Array) else pa.array(column, type=field.type)
            for field in self.schema
            for column in (columns[field.name],)
        ]
        batch = pa.record_batch(arrays, schema=self.schema)
        self.stream.write_batch(batch)
        self.rows += batch.num_rows

    def write_table(self, table: pa.Table) -> None:
        """Write an Arrow table, cast to the schema of the file."""
        for batch in table.select(self.schema.names).cast(self.schema).to_batches(max_chunksize=BATCH_ROWS):
            self.stream.write_batch(batch)
            self.rows += batch.num_rows

    def __enter__(self) -> ArrowTableWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self.stream.close()
        self.file.close()


def map_table(path: Path) -> Dataset:
    """A memory-mapped table: pages are read when they are used."""
    from datasets import Dataset
    from datasets.table import MemoryMappedTable

    # The fingerprint that `Dataset.from_file` computes says no more, and takes as long as preparing a small data set.
    fingerprint = blake2b(file_key(path).encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
    return Dataset(MemoryMappedTable.from_file(str(path)), fingerprint=fingerprint)


def batches(table: Dataset, columns: list[str] | None = None, rows: int = BATCH_ROWS) -> Iterable[pa.Table]:
    """The rows of a table as Arrow tables of bounded size."""
    table = table if columns is None else table.select_columns(columns)
    return table.with_format("arrow").iter(batch_size=rows)


def list_column(table: Dataset, name: str, dtype: Any) -> tuple[np.ndarray, np.ndarray]:
    """A column of lists as CSR: `indptr` int64 `[N + 1]` and `values` `[nnz]`, without a Python loop over rows."""
    lengths, values = [np.zeros(1, dtype=np.int64)], [np.zeros(0, dtype=dtype)]
    for batch in batches(table, [name], rows=100_000):
        for chunk in batch[name].chunks:
            lengths.append(np.asarray(chunk.value_lengths().fill_null(0), dtype=np.int64))
            values.append(np.asarray(chunk.flatten(), dtype=dtype))
    return np.cumsum(np.concatenate(lengths)), np.concatenate(values)


def write_parquet(table: Dataset, path: Path) -> Path:
    """Write a table under a temporary name, then rename it: a file of that name is always complete."""
    schema = table.features.arrow_schema
    with replacing(path) as temporary, pq.ParquetWriter(temporary, schema) as writer:
        for batch in batches(table, rows=PARQUET_ROWS):
            writer.write_table(batch.cast(schema))
    return path


def read_parquet(path: Path) -> Dataset:
    """Read a file into memory; errors as in `read_table`."""
    from datasets import Dataset
    from datasets.table import InMemoryTable

    return Dataset(InMemoryTable(read_table(path)))


def read_table(path: Path) -> pa.Table:
    """Read a file into memory as an Arrow table, which needs no import of `datasets`.

    Raises:
        DataError: the file is missing, or not Parquet.
    """
    try:
        with pq.ParquetFile(path) as file:  # pq.read_table imports pandas
            return file.read()
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"cannot be read as Parquet ({error!s:.200})", path) from error


def as_rows(numbers: np.ndarray) -> pa.Array:
    """Row numbers to `take` from an Arrow table. `pa.array` would import pandas, to ask whether they are from there.

    >>> pa.table({"a": ["x", "y"]}).take(as_rows(np.array([1])))["a"].to_pylist()
    ['y']
    """
    numbers = np.ascontiguousarray(numbers, dtype=np.int64)
    return pa.Array.from_buffers(pa.int64(), len(numbers), [None, pa.py_buffer(numbers)])


def parquet_to_arrow(path: Path, target: Path) -> None:
    """Rewrite a Parquet file as an Arrow file that can be mapped, one batch at a time.

    Raises:
        DataError: the file is missing, or not Parquet.
    """
    from datasets import Features

    try:
        with pq.ParquetFile(path) as file:
            features = Features.from_arrow_schema(file.schema_arrow)
            with ArrowTableWriter(target, features) as writer:
                for batch in file.iter_batches(batch_size=PARQUET_ROWS):
                    writer.write_table(pa.Table.from_batches([batch]))
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"cannot be read as Parquet ({error!s:.200})", path) from error


def cache_path(kind: str, key: Iterable[Any]) -> Path:
    """Where `cached_folder` keeps its folder."""
    import datasets

    digest = blake2b("\0".join(map(str, key)).encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
    return Path(datasets.config.HF_DATASETS_CACHE) / "hf_xmc" / kind / digest


def cached_folder(kind: str, key: Iterable[Any], fill: Callable[[Path], None]) -> Path:
    """A folder in the cache of `datasets` that `fill` writes once per key; it is either complete or absent.

    If two processes need it at once, both write it, and the one that finishes first wins.
    """
    folder = cache_path(kind, key)
    if not folder.is_dir():
        with scratch_beside(folder) as temporary:
            remove_left(folder.parent)
            fill(temporary)
            sync_all(temporary)
            try:
                os.replace(temporary, folder)
            except OSError:  # another process was quicker
                if not folder.is_dir():
                    raise
    return folder


def file_key(path: Path) -> str:
    """A key that changes whenever the file, or a file in the folder, changes; also where the clock jumps, or a program
    sets the time of what it wrote: that leaves the time of the change of the entry as it is."""
    status = path.stat()
    key = f"{path.resolve()}|{status.st_size}|{status.st_mtime_ns}|{status.st_ctime_ns}|{status.st_ino}"
    return "|".join([key, *map(file_key, sorted(path.iterdir()))]) if path.is_dir() else key
