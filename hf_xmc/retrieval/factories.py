"""The kinds of index, each as a FAISS factory string with the numbers that suit a catalogue."""

from __future__ import annotations

import math
from typing import Any

import faiss as typed_faiss
import numpy as np

faiss: Any = typed_faiss  # its type stubs lack keywords and attributes
# IVF keeps label ids itself; all others stand in an IDMap. Codes of a bit a dimension or less are never trusted alone:
# IndexRefine fetches k_factor times as many and ranks them by the vectors, which it keeps in half precision.
RECIPES = {
    "flat": "Flat",
    "flat-sq8": "SQ8",
    "hnsw": "HNSW{M},Flat",
    "hnsw-sq8": "HNSW{M},SQ8",
    "ivf-flat": "IVF{nlist},Flat",
    "ivf-sq8": "IVF{nlist},SQ8",
    "rabitq": "RaBitQ,Refine(SQfp16)",
    "pq": "PQ{m}x4fs,Refine(SQfp16)",
}
FACTORIES = tuple(RECIPES)
PQ_CENTROIDS = 16  # 4 bits
EFFORT = {  # the search parameter of a family, and the most that is tried
    "hnsw": ("efSearch", 1024),
    "ivf": ("nprobe", 1024),
    "rabitq": ("k_factor", 256),
    "pq": ("k_factor", 256),
}


def family(factory: str) -> str:
    """`"flat"`, `"hnsw"`, `"ivf"`, `"rabitq"` or `"pq"`."""
    return factory.split("-")[0]


def default_parameters(factory: str, num_rows: int, dimension: int) -> dict[str, int]:
    """Numbers for a catalogue of this size.

    >>> default_parameters("ivf-sq8", 1_000_000, 384)
    {'nlist': 2000, 'nprobe': 16}
    """
    kind = family(factory)
    if kind == "hnsw":
        return {"M": 32, "efConstruction": 64, "efSearch": 64}
    if kind == "ivf":
        # 39 rows a cell are what FAISS asks for to train one.
        nlist = max(1, min(round(2 * math.sqrt(num_rows)), num_rows // 39))
        return {"nlist": nlist, "nprobe": min(16, nlist)}
    if kind == "rabitq":
        return {"qb": 8, "k_factor": 16}
    if kind == "pq":
        return {"m": next(m for m in range(max(dimension // 4, 1), 0, -1) if dimension % m == 0), "k_factor": 16}
    return {}


def make_index(factory: str, matrix: np.ndarray, parameters: dict[str, int]) -> Any:
    """A trained index without rows, which takes them with `add_with_ids`.

    Args:
        matrix: embeddings to train on, `[L, D]`.

    Raises:
        ValueError: too few rows to train on.
    """
    needed = {"flat": 0, "pq": PQ_CENTROIDS}.get(factory, 1)
    if len(matrix) < needed:
        raise ValueError(f"A {factory} index needs {needed} embeddings to start with, found {len(matrix)}; use flat.")
    recipe = RECIPES[factory].format(**parameters)
    index = faiss.index_factory(matrix.shape[1], recipe, faiss.METRIC_INNER_PRODUCT)
    if family(factory) == "hnsw":
        index.hnsw.efConstruction = parameters["efConstruction"]
    elif family(factory) == "ivf":
        index.cp.min_points_per_centroid, index.cp.max_points_per_centroid = 1, 64  # more trains longer, not better
    elif family(factory) == "pq":
        faiss.downcast_index(index.base_index).pq.cp.min_points_per_centroid = 1
    index.train(matrix)
    set_effort(index, factory, parameters)
    return index if family(factory) == "ivf" else faiss.IndexIDMap(index)


def set_effort(index: Any, factory: str, parameters: dict[str, int]) -> None:
    """How much a search looks at: `efSearch`, `nprobe` or `k_factor`."""
    index = inner(index)
    kind = family(factory)
    if kind == "hnsw":
        index.hnsw.efSearch = parameters["efSearch"]
    elif kind == "ivf":
        index.nprobe = parameters["nprobe"]
    elif kind in ("rabitq", "pq"):
        index.k_factor = parameters["k_factor"]
        if kind == "rabitq":
            faiss.downcast_index(index.base_index).qb = parameters["qb"]  # bits that a query is rounded to


def inner(index: Any) -> Any:
    """What an IDMap holds, or the index itself."""
    return faiss.downcast_index(index.index) if isinstance(index, faiss.IndexIDMap) else index
