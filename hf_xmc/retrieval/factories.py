"""The kinds of index, each as a FAISS factory string with parameters that suit the size of the catalogue."""

from __future__ import annotations

import math
from typing import Any

import faiss as typed_faiss
import numpy as np

from hf_xmc.errors import SettingsError

faiss: Any = typed_faiss  # its type stubs lack keywords and attributes
# IVF keeps label ids itself; all others are put in an IDMap. Codes of one bit per dimension are never trusted alone:
# IndexRefine fetches k_factor times as many results and ranks them by the vectors, which it keeps in half precision.
RECIPES = {
    "flat": "Flat",
    "hnsw": "HNSW{M},Flat",
    "ivf-flat": "IVF{nlist},Flat",
    "ivf-sq8": "IVF{nlist},SQ8",
    "rabitq": "RaBitQ,Refine(SQfp16)",
}
FACTORIES = tuple(RECIPES)
# Kinds that earlier versions could build. Folders with one of them are read, searched and changed as before; where
# such an index is built again, it becomes the kind on the right.
REPLACED = {"flat-sq8": "flat", "hnsw-sq8": "hnsw", "pq": "rabitq"}
EFFORT = {  # the search parameter of each family, and the largest value that is tried
    "hnsw": ("efSearch", 1024),
    "ivf": ("nprobe", 1024),
    "rabitq": ("k_factor", 256),
}


def family(factory: str) -> str:
    """`"flat"`, `"hnsw"`, `"ivf"` or `"rabitq"`; `"pq"` in folders of earlier versions."""
    return factory.split("-")[0]


def default_parameters(factory: str, num_rows: int) -> dict[str, int]:
    """Parameters for a catalogue of this size.

    >>> default_parameters("ivf-sq8", 1_000_000)
    {'nlist': 2000, 'nprobe': 16}
    """
    kind = family(factory)
    if kind == "hnsw":
        return {"M": 32, "efConstruction": 64, "efSearch": 64}
    if kind == "ivf":
        # FAISS asks for 39 rows per cell to train one.
        nlist = max(1, min(round(2 * math.sqrt(num_rows)), num_rows // 39))
        return {"nlist": nlist, "nprobe": min(16, nlist)}
    if kind == "rabitq":
        return {"qb": 8, "k_factor": 16}
    return {}


def make_index(factory: str, matrix: np.ndarray, parameters: dict[str, int]) -> Any:
    """A trained index without rows, to which rows are added with `add_with_ids`.

    Args:
        matrix: embeddings to train on, `[L, D]`.

    Raises:
        SettingsError: nothing to train on.
    """
    if not len(matrix) and factory != "flat":
        raise SettingsError(f"a {factory} index needs embeddings to train on, found none", hint="use flat")
    recipe = RECIPES[factory].format(**parameters)
    index = faiss.index_factory(matrix.shape[1], recipe, faiss.METRIC_INNER_PRODUCT)
    if family(factory) == "hnsw":
        index.hnsw.efConstruction = parameters["efConstruction"]
    elif family(factory) == "ivf":
        index.cp.min_points_per_centroid, index.cp.max_points_per_centroid = 1, 64  # more takes longer, and no better
    index.train(matrix)
    set_effort(index, factory, parameters)
    return index if family(factory) == "ivf" else faiss.IndexIDMap(index)


def set_effort(index: Any, factory: str, parameters: dict[str, int]) -> None:
    """Set how much of the index a search looks at: `efSearch`, `nprobe` or `k_factor`."""
    index = inner(index)
    kind = family(factory)
    if kind == "hnsw":
        index.hnsw.efSearch = parameters["efSearch"]
    elif kind == "ivf":
        index.nprobe = parameters["nprobe"]
    elif kind in ("rabitq", "pq"):
        index.k_factor = parameters["k_factor"]
        if kind == "rabitq":
            faiss.downcast_index(index.base_index).qb = parameters["qb"]  # bits per dimension of a query


def inner(index: Any) -> Any:
    """The index inside an IDMap, or the index itself."""
    return faiss.downcast_index(index.index) if isinstance(index, faiss.IndexIDMap) else index
