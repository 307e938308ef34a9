"""Vectors in FAISS under label ids: search, add and remove for every kind of index."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import faiss as typed_faiss
import numpy as np

from hf_xmc.errors import SettingsError
from hf_xmc.retrieval.catalogue import NotInIndex
from hf_xmc.retrieval.factories import default_parameters, family, inner, make_index, set_effort
from hf_xmc.retrieval.search import best_of_each, share_threads, torch_search

if TYPE_CHECKING:
    import torch

faiss: Any = typed_faiss  # its type stubs lack keywords and attributes
DEAD_SHARE = 0.25  # of the rows of an HNSW graph; with a larger share the graph is rebuilt
FILTER_SHARE = 0.1  # of the rows of an HNSW graph; where a filter leaves fewer, all of them are compared
LEAST_DEPTH = 10  # results of a search by codes, at least
BATCH = 10_000  # rows that are read at a time
NO_LABEL = -1  # the id of a dead row
LIVE = (0, 2**62)  # the range of all other ids


class VectorIndex:
    """Rows of a FAISS index, each under the id of its label; a label may have several rows.

    How rows are removed depends on what FAISS can do. Flat indexes and codes move later rows up, with their ids; IVF
    removes them from its lists. HNSW cannot remove: a row dies by losing its id, searches skip it, and the graph is
    rebuilt from its own vectors when a quarter of it is dead.
    """

    def __init__(self, index: Any, factory: str, parameters: dict[str, int]) -> None:
        self.index = index
        self.factory, self.kind = factory, family(factory)
        self.parameters = parameters
        self.mapped = False
        self.device: torch.device | None = None
        self.on_device: torch.Tensor | None = None  # the vectors, after the first search on the device
        set_effort(index, factory, parameters)
        self.num_dead = int((self.row_labels() == NO_LABEL).sum()) if self.kind == "hnsw" else 0
        self.by_label: tuple[np.ndarray, np.ndarray] | None = None  # rows in the order of labels, and their labels

    @classmethod
    def build(cls, factory: str, matrix: np.ndarray, label_ids: np.ndarray, **parameters: int) -> VectorIndex:
        """Train on the embeddings `[M, D]` and add them under the ids `[M]`."""
        share_threads()
        parameters = {**default_parameters(factory, len(matrix)), **parameters}
        made = cls(make_index(factory, matrix, parameters), factory, parameters)
        made.add(matrix, label_ids)
        return made

    @classmethod
    def read(
        cls, path: str | os.PathLike[str], factory: str, parameters: dict[str, int], memory_map: bool = False
    ) -> VectorIndex:
        """Read what `write` wrote. Memory-mapped rows stay in the file until a search needs them."""
        made = cls(faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC if memory_map else 0), factory, parameters)
        made.mapped = memory_map
        return made

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write a file. Not by FAISS itself, which does not notice that a disk is full when it closes one.

        Raises:
            OSError: the file cannot be written.
        """
        with open(path, "wb") as file:
            faiss.write_index(self.index, faiss.PyCallbackIOWriter(file.write))

    @property
    def d(self) -> int:
        """Dimension of the vectors."""
        return int(self.index.d)

    @property
    def num_rows(self) -> int:
        """Number of rows that can be found."""
        return int(self.index.ntotal) - self.num_dead

    def row_labels(self) -> np.ndarray:
        """The label of each row, int64 `[rows]`, a view into FAISS. IVF has none: it keeps the ids in its lists."""
        if not self.index.ntotal:
            return np.empty(0, np.int64)
        return faiss.rev_swig_ptr(self.index.id_map.data(), self.index.ntotal)

    def search(self, queries: np.ndarray, k: int, mask: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Scores and label ids of the k best rows of each query, `[N, k]`, best first; -1 only where the index has
        no more rows.

        Args:
            queries: float32 `[N, D]`.
            mask: the labels that may be returned, bool `[L]`; None for all.
        """
        share_threads()
        if self.kind == "flat":
            return self.exact(queries, k, mask)
        if mask is None and not self.num_dead:
            scores, ids = self.index.search(queries, self.depth(k))
        else:
            params = self.filter(k, mask)
            if params is None:
                return self.exact(queries, k, mask)
            scores, ids = self.index.search(queries, k, params=params)
        scores, ids = scores[:, :k], ids[:, :k]
        if ids[:, -1].min(initial=0) < 0:  # too few results in the lists or on the paths that were searched
            short = ids[:, -1] < 0
            scores[short], ids[short] = self.exact(queries[short], k, mask)
        return scores, ids

    def depth(self, k: int) -> int:
        """Number of rows to ask for. Codes fetch a multiple of it, which would be too few vectors for k = 1."""
        return max(k, min(LEAST_DEPTH, self.num_rows)) if self.kind in ("rabitq", "pq") else k

    def filter(self, k: int, mask: np.ndarray | None) -> Any:
        """Search parameters that exclude dead rows and labels outside the mask, or None if it is better to compare all
        rows. Excluded rows are visited as well and count towards the effort, so the effort grows with their share.
        """
        kind = self.kind
        if kind == "hnsw":
            share = self.live().mean() if mask is None else (mask[self.row_labels()] & self.live()).mean()
            if share >= FILTER_SHARE:
                effort = math.ceil(max(self.parameters["efSearch"], k) / share)
                selector = faiss.IDSelectorRange(*LIVE) if mask is None else bitmap(mask)
                return faiss.SearchParametersHNSW(sel=selector, efSearch=effort)
        elif kind == "ivf" and mask is not None:
            probes = math.ceil(self.parameters["nprobe"] / max(mask.mean(), 1e-6))
            return faiss.SearchParametersIVF(sel=bitmap(mask), nprobe=min(probes, self.index.nlist))
        return None  # codes cannot be filtered, their vectors can

    def search_labels(self, queries: np.ndarray, k: int, mask: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """The k best labels where labels have several rows: a label scores as its best row."""
        width = 2 * k
        while True:
            width = min(width, self.num_rows)
            scores, ids = self.search(queries, width, mask)
            ids, scores, found = best_of_each(ids, scores)
            if width == self.num_rows or found.min(initial=k) >= k:
                return scores[:, :k], ids[:, :k]
            width *= 2

    def exact(self, queries: np.ndarray, k: int, mask: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Search over every row, by the most precise vectors that the index keeps."""
        kind = self.kind
        if self.device is not None:
            return self.search_on_device(queries, k, mask)
        if kind == "flat":
            params = None if mask is None else faiss.SearchParameters(sel=bitmap(mask))
            return self.index.search(queries, k, params=params)
        if kind == "ivf":
            selector = {} if mask is None else {"sel": bitmap(mask)}
            return self.index.search(queries, k, params=faiss.SearchParametersIVF(nprobe=self.index.nlist, **selector))
        labels, live = self.row_labels(), self.live()
        rows = live if mask is None else live & mask[labels]
        found, positions = self.storage().search(queries, k, params=faiss.SearchParameters(sel=bitmap(rows)))
        return found, np.where(positions < 0, NO_LABEL, labels[positions])

    def to(self, device: Any) -> None:
        """Search a flat index on a torch device; `"cpu"` means FAISS again.

        Raises:
            SettingsError: another kind of index.
        """
        import torch

        if self.factory != "flat":
            raise SettingsError(f"a {self.factory} index is searched on the CPU; build a flat one for the {device}")
        self.device = None if torch.device(device).type == "cpu" else torch.device(device)
        self.on_device = None

    def search_on_device(self, queries: np.ndarray, k: int, mask: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        import torch

        labels = self.row_labels()
        if self.on_device is None:
            vectors = faiss.rev_swig_ptr(inner(self.index).get_xb(), self.index.ntotal * self.d)
            self.on_device = torch.from_numpy(vectors).view(-1, self.d).to(self.device)
        allowed = None if mask is None else torch.from_numpy(mask[labels]).to(self.device)
        scores, rows = (x.cpu().numpy() for x in torch_search(torch.from_numpy(queries), self.on_device, k, allowed))
        return scores, np.where(rows < 0, NO_LABEL, labels[rows])

    def live(self) -> np.ndarray:
        """Which rows are not dead, bool `[rows]`."""
        return self.row_labels() != NO_LABEL

    def storage(self) -> Any:
        """The vectors under a graph or codes: a flat or scalar-quantised index whose ids are rows."""
        index = inner(self.index)
        return faiss.downcast_index(index.storage if self.kind == "hnsw" else index.refine_index)

    def vectors_of(self, label_ids: np.ndarray) -> np.ndarray:
        """The stored vector of each label, float32 `[n, D]`; one of them if a label has several.

        Raises:
            KeyError: a label that is not in the index.
        """
        if self.kind == "ivf":
            self.index.set_direct_map_type(faiss.DirectMap.Hashtable)
            try:
                return self.index.reconstruct_batch(label_ids)
            except RuntimeError as error:
                raise NotInIndex("one of the label ids is not in the index") from error
            finally:
                self.index.set_direct_map_type(faiss.DirectMap.NoMap)
        labels, rows = np.unique(self.row_labels(), return_index=True)
        places = np.searchsorted(labels, label_ids)
        if not np.array_equal(labels[np.minimum(places, len(labels) - 1)], label_ids):
            raise NotInIndex("one of the label ids is not in the index")
        return (inner(self.index) if self.kind == "flat" else self.storage()).reconstruct_batch(rows[places])

    def rows_of_labels(self, label_ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """All vectors of some labels, float32 `[m, D]`, and where those of each label start, int64 `[n]`. The vectors
        of a label are in the order in which they were added.

        Args:
            label_ids: rising, int64 `[n]`.

        Raises:
            NotInIndex: a label without vectors.
            SettingsError: an IVF index, which does not keep their order.
        """
        if self.kind == "ivf":
            raise SettingsError(f"a {self.factory} index does not keep the texts of a label apart")
        if self.by_label is None:
            order = np.argsort(self.row_labels(), kind="stable")
            self.by_label = order, self.row_labels()[order]
        order, labels = self.by_label
        first, last = (np.searchsorted(labels, label_ids, side) for side in ("left", "right"))
        counts = last - first
        if not counts.all():
            raise NotInIndex("one of the label ids is not in the index")
        starts = np.cumsum(counts) - counts
        rows = order[np.repeat(first - starts, counts) + np.arange(int(counts.sum()))]
        stored = inner(self.index) if self.kind == "flat" else self.storage()
        return starts, stored.reconstruct_batch(rows)

    def all_rows(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Label ids `[m]` and vectors `[m, D]` of all rows that can be found, in batches."""
        if self.kind == "ivf":
            for number in range(self.index.nlist):
                size = self.index.get_list_size(number)
                if size:
                    ids = faiss.rev_swig_ptr(self.index.invlists.get_ids(number), size).copy()
                    rows = np.empty((size, self.d), np.float32)
                    for offset in range(size):
                        self.index.reconstruct_from_offset(number, offset, faiss.swig_ptr(rows[offset]))
                    yield ids, rows
            return
        labels, vectors = self.row_labels(), inner(self.index) if self.kind == "flat" else self.storage()
        live = np.flatnonzero(labels != NO_LABEL)
        for start in range(0, len(live), BATCH):
            some = live[start : start + BATCH]
            yield labels[some].copy(), vectors.reconstruct_batch(some)

    def add(self, matrix: np.ndarray, label_ids: np.ndarray) -> None:
        """Add rows `[m, D]` under the ids of their labels `[m]`."""
        if len(matrix):
            self.own()
            self.index.add_with_ids(matrix, label_ids)

    def remove(self, label_ids: np.ndarray) -> None:
        """Remove all rows of these labels."""
        self.own()
        kind = self.kind
        if kind in ("flat", "ivf"):
            self.index.remove_ids(faiss.IDSelectorBatch(label_ids))
            return
        labels = self.row_labels()
        gone = np.isin(labels, label_ids)
        if kind == "hnsw":
            labels[gone] = NO_LABEL
            self.num_dead += int(gone.sum())
            if self.num_dead > DEAD_SHARE * self.index.ntotal:
                self.index = rebuilt(self.index, self.parameters)
                self.num_dead = 0
            return
        refine, kept = inner(self.index), labels[~gone]
        rows = faiss.IDSelectorBatch(np.flatnonzero(gone))
        for part in (refine.base_index, refine.refine_index):
            faiss.downcast_index(part).remove_ids(rows)
        faiss.copy_array_to_vector(kept, self.index.id_map)
        refine.ntotal = self.index.ntotal = len(kept)

    def own(self) -> None:
        """Prepare for a change: load a memory-mapped index into memory, since FAISS crashes when it writes to one."""
        self.on_device = self.by_label = None
        if self.mapped:
            self.index = faiss.deserialize_index(faiss.serialize_index(self.index))
            set_effort(self.index, self.factory, self.parameters)
            self.mapped = False


def rebuilt(index: Any, parameters: dict[str, int]) -> Any:
    """An HNSW index of the live rows, from the vectors that it stores; a scalar quantiser stays as it was trained."""
    labels = faiss.vector_to_array(index.id_map)
    live = labels != NO_LABEL
    graph = inner(index)
    vectors = graph.storage.reconstruct_n(0, graph.ntotal)[live]
    if isinstance(graph, faiss.IndexHNSWSQ):
        quantizer = faiss.downcast_index(graph.storage)
        fresh = faiss.IndexHNSWSQ(graph.d, quantizer.sq.qtype, parameters["M"], graph.metric_type)
        storage = faiss.downcast_index(fresh.storage)
        faiss.copy_array_to_vector(faiss.vector_to_array(quantizer.sq.trained), storage.sq.trained)
        fresh.is_trained = storage.is_trained = True
    else:
        fresh = faiss.IndexHNSWFlat(graph.d, parameters["M"], graph.metric_type)
    fresh.hnsw.efConstruction, fresh.hnsw.efSearch = parameters["efConstruction"], parameters["efSearch"]
    made = faiss.IndexIDMap(fresh)
    if live.any():
        made.add_with_ids(vectors, labels[live])
    return made


def bitmap(mask: np.ndarray) -> Any:
    """A FAISS selector of the ids where the mask holds."""
    return faiss.IDSelectorBitmap(np.packbits(mask, bitorder="little"))
