"""The label vectors of an index with the label table: Parquet for databases, safetensors for everything else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hf_xmc.data.files import replacing
from hf_xmc.errors import SettingsError
from hf_xmc.retrieval.index import LabelIndex

ROWS = 50_000  # labels whose vectors are in memory at once
COLUMN = "vector"


def export_vectors(index: LabelIndex, path: Path) -> Path:
    """Write the labels that an index finds: id, uid, text and further columns, and their vectors.

    Args:
        path: a file that ends in `.parquet` (column `vector`, a list of D float32) or in `.safetensors` (tensors
            `vectors` `[n, D]` and `ids` `[n]`; uids and texts are in `labels.parquet` under these ids).

    Raises:
        SettingsError: another kind of file.
    """
    ids = np.setdiff1d(np.arange(index.catalogue.num_rows), sorted(index.removed))
    if path.suffix == ".parquet":
        write_parquet(index, ids, path)
    elif path.suffix == ".safetensors":
        from safetensors.numpy import save_file

        with replacing(path) as temporary:
            save_file({"vectors": index.vectors(ids), "ids": ids.astype(np.int64)}, temporary)
    else:
        raise SettingsError(f"{path.name} ends in neither .parquet nor .safetensors")
    return path


def write_parquet(index: LabelIndex, ids: np.ndarray, path: Path) -> None:
    """In row groups, so that a large catalogue needs no second copy in memory."""
    table: pa.Table = index.labels.data.table
    columns = [field for field in table.schema if field.name not in ("id", COLUMN)]
    vector = pa.list_(pa.float32(), index.dimension)
    schema = pa.schema([pa.field("id", pa.int64()), *columns, pa.field(COLUMN, vector)])
    with replacing(path) as temporary, pq.ParquetWriter(temporary, schema) as writer:
        for start in range(0, max(len(ids), 1), ROWS):
            some = ids[start : start + ROWS]
            rows = table.select([field.name for field in columns]).take(pa.array(some))
            vectors = pa.FixedSizeListArray.from_arrays(pa.array(index.vectors(some).ravel()), index.dimension)
            arrays = [pa.chunked_array([pa.array(some)]), *rows.columns, pa.chunked_array([vectors])]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))
