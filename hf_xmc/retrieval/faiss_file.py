"""Checks a FAISS file before FAISS parses it, which trusts what it reads: a wrong size makes it crash or take memory.

The file is walked field by field, in the layout of `faiss/impl/index_write.cpp`, for the kinds of index that this
package writes or has written. Sizes are compared with the length of the file, ids with the label table, and the links
of a graph with its nodes. Nothing is copied: the arrays are views of the mapped file.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np

from hf_xmc.errors import ModelFolderError

MOST_DIMENSIONS = 2**16
MOST_EFFORT = 2**20  # of efSearch and its like
INNER_PRODUCT = 0
DEAD = -1  # the id of a removed row of a graph
# For each kind, the four letters of the index inside the IDMap; IVF has no IDMap.
KINDS = {
    "flat": "IxFI",
    "flat-sq8": "IxSQ",
    "hnsw": "IHNf",
    "hnsw-sq8": "IHNs",
    "ivf-flat": "IwFl",
    "ivf-sq8": "IwSq",
    "rabitq": "IxRF",
    "pq": "IxRF",
}
SCALARS = {0: 1, 4: 2}  # types of scalar quantisers, 8 bits and half precision, and their bytes per dimension


class NotSound(ValueError):
    """What is wrong with a file, and where."""


@dataclass(frozen=True)
class Header:
    """What begins every index: the dimension of its vectors and their number."""

    dimension: int
    rows: int


@dataclass(frozen=True)
class FaissFile:
    """What a sound file holds.

    Args:
        dimension: of the vectors.
        rows: vectors, including dead ones.
        ids: the label of each row, int64 `[rows]`, in the order of the file.
    """

    dimension: int
    rows: int
    ids: np.ndarray


def check_faiss_file(path: str | os.PathLike[str], factory: str, num_labels: int | None = None) -> FaissFile:
    """Walk the file of an index of this kind and compare all sizes, ids and links.

    Args:
        num_labels: rows of the label table, below which all ids must be.

    Raises:
        ModelFolderError: a size, an id, a link or a setting that FAISS should not be given.

    >>> import tempfile
    >>> from hf_xmc.retrieval.vectors import VectorIndex
    >>> file = Path(tempfile.mkdtemp()) / "index.faiss"
    >>> VectorIndex.build("flat", np.eye(3, dtype=np.float32), np.arange(3)).write(file)
    >>> check_faiss_file(file, "flat", 3).ids.tolist()
    [0, 1, 2]
    """
    path = Path(path)
    try:
        if not path.stat().st_size:
            raise NotSound("the file is empty")
        return Walk(np.asarray(np.memmap(path, np.uint8, "r"))).whole(factory, num_labels)
    except NotSound as error:
        raise ModelFolderError(
            f"not a sound {factory} index of FAISS ({error})",
            path,
            hint="download or copy the folder again, or build the index again with hf-xmc index",
        ) from error


class Walk:
    """Reads a file from its first byte to its last one."""

    def __init__(self, data: np.ndarray) -> None:
        self.data = data
        self.place = 0

    def whole(self, factory: str, num_labels: int | None) -> FaissFile:
        """The whole file, of an index of this kind."""
        letters = KINDS[factory]
        if letters.startswith("Iw"):
            self.expect(letters)
            header, ids = self.ivf(scalar=letters == "IwSq")
        else:
            self.expect("IxMp", "IxM2")  # the second one in folders of version 0.1
            header = self.header()
            self.expect(letters)
            self.part(letters, header, factory)
            ids = self.array(np.int64, header.rows, "label ids")
        if self.place != len(self.data):
            raise NotSound(f"{len(self.data) - self.place:,} bytes after its end")
        least = DEAD if factory.startswith("hnsw") else 0
        self.within(ids, least, 2**62 if num_labels is None else num_labels - 1, "label ids")
        return FaissFile(header.dimension, header.rows, ids)

    def part(self, letters: str, outer: Header, factory: str = "") -> None:
        """What follows the four letters of an index that holds the rows of another one."""
        header = self.header()
        if header != outer:
            raise NotSound(
                f"{letters} at byte {self.place:,} has {header.rows:,} rows of {header.dimension:,} dimensions, "
                f"the index around it {outer.rows:,} of {outer.dimension:,}"
            )
        if letters == "IxFI":
            vectors = self.array(np.float32, header.rows * header.dimension, "vectors")
            if not isfinite(vectors.sum(dtype=np.float64)):
                raise NotSound("a vector holds numbers that are not finite")
        elif letters == "IxSQ":
            self.array(np.uint8, header.rows * self.scalar_quantizer(header.dimension), "codes")
        elif letters in ("IHNf", "IHNs"):
            self.graph(header.rows)
            self.expect(inside := {"IHNf": "IxFI", "IHNs": "IxSQ"}[letters])
            self.part(inside, header)
        elif letters == "Ixrq":
            self.rabitq(header)
        elif letters == "IPfs":
            self.fast_scan(header)
        elif letters == "IxRF":
            self.expect(inside := {"rabitq": "Ixrq", "pq": "IPfs"}[factory])
            self.part(inside, header)
            self.expect("IxSQ")
            self.part("IxSQ", header)
            factor = self.value("f", "k_factor")
            if not (isfinite(factor) and 1 <= factor <= MOST_EFFORT):
                raise NotSound(f"k_factor is {factor}")

    def header(self) -> Header:
        dimension, rows = self.value("i", "the dimension"), self.value("q", "the number of rows")
        self.value("qq", "unused fields")
        trained, metric = self.value("B", "is_trained"), self.value("i", "the metric")
        if not 1 <= dimension <= MOST_DIMENSIONS:
            raise NotSound(f"the dimension at byte {self.place:,} is {dimension:,}")
        if not 0 <= rows <= len(self.data):  # a row takes a byte at least
            raise NotSound(f"{rows:,} rows at byte {self.place:,}, in {len(self.data):,} bytes")
        if trained != 1:
            raise NotSound(f"is_trained at byte {self.place:,} is {trained}, expected 1")
        if metric != INNER_PRODUCT:
            raise NotSound(f"the metric at byte {self.place:,} is {metric}, expected {INNER_PRODUCT} (inner product)")
        return Header(dimension, rows)

    def graph(self, rows: int) -> None:
        """The links of an HNSW graph: offsets and levels of the nodes, and neighbours within the levels that they
        have."""
        chances = self.array(np.float64, None, "probabilities of levels")
        starts = np.asarray(self.array(np.int32, None, "numbers of links"), np.int64)
        if not 2 <= len(starts) <= 64 or len(chances) != len(starts) - 1:
            raise NotSound(f"a graph of {len(starts) - 1} levels, with {len(chances)} probabilities")
        self.within(chances, 0, 1, "probabilities of levels")
        links = np.diff(starts)
        if starts[0] != 0 or links.min() < 1 or links.max() > 2**16:
            raise NotSound("its nodes have no links, or too many")
        levels = self.array(np.int32, rows, "levels")
        self.within(levels, 1, len(links), "levels")
        offsets = self.array(np.uint64, rows + 1, "offsets of links")
        if offsets[0] != 0 or not np.array_equal(np.diff(offsets), starts[levels].astype(np.uint64)):
            raise NotSound("the offsets of its links do not fit the levels of its nodes")
        neighbours = self.array(np.int32, int(offsets[-1]), "neighbours")
        self.within(neighbours, -1, rows - 1, "neighbours")
        for level in range(1, int(levels.max(initial=1))):
            nodes = np.flatnonzero(levels > level)
            places = offsets[nodes].astype(np.int64)[:, None] + np.arange(starts[level], starts[level + 1])
            others = neighbours[places]
            if (levels[others[others >= 0]] <= level).any():
                raise NotSound(f"links of level {level} lead to nodes that are not there")
        self.entry(levels)

    def entry(self, levels: np.ndarray) -> None:
        """Where a search begins: a node of the highest level."""
        start, highest = self.value("i", "the entry point"), self.value("i", "the highest level")
        # If the first nodes were lower ones, FAISS moves the entry point with each higher one that it adds.
        if len(levels) and not (0 <= start < len(levels) and levels[start] - 1 == highest == levels.max() - 1):
            raise NotSound(f"the entry point is {start:,} at level {highest}, of {len(levels):,} nodes")
        if not len(levels) and (start, highest) != (-1, -1):
            raise NotSound(f"the entry point is {start:,} at level {highest}, and there are no nodes")
        for name in ("efConstruction", "efSearch", "upper_beam"):
            if not 1 <= (found := self.value("i", name)) <= MOST_EFFORT:
                raise NotSound(f"{name} is {found:,}")

    def scalar_quantizer(self, dimension: int) -> int:
        """The bytes of a vector."""
        kind, _, argument = (
            self.value("i", "the quantiser"),
            self.value("i", "its range"),
            self.value("f", "its range"),
        )
        own, size = self.value("Q", "its dimension"), self.value("Q", "its code size")
        if kind not in SCALARS or own != dimension or size != dimension * SCALARS[kind] or not isfinite(argument):
            raise NotSound(f"a scalar quantiser of type {kind}, {own:,} dimensions and {size:,} bytes")
        trained = self.array(np.float32, 2 * dimension if kind == 0 else 0, "ranges of the quantiser")
        if not np.isfinite(trained).all():
            raise NotSound("the ranges of its quantiser are not finite")
        return int(size)

    def rabitq(self, header: Header) -> None:
        own, size = self.value("Q", "its dimension"), self.value("Q", "its code size")
        expected = (header.dimension + 7) // 8 + 8  # a bit per dimension and two numbers
        metric = self.value("i", "the metric of the codes")
        if own != header.dimension or size != expected or metric != INNER_PRODUCT:
            raise NotSound(f"codes of {own:,} dimensions in {size:,} bytes, expected {expected:,}, of metric {metric}")
        self.array(np.uint8, header.rows * size, "codes")
        if not np.isfinite(self.array(np.float32, header.dimension, "the centre")).all():
            raise NotSound("its centre is not finite")
        if not 0 <= (bits := self.value("B", "qb")) <= 8:
            raise NotSound(f"qb is {bits}, expected 0 to 8")

    def fast_scan(self, header: Header) -> None:
        """Product quantisation with four bits, its rows in blocks of 32."""
        own, parts, bits = (self.value("Q", name) for name in ("its dimension", "its parts", "its bits"))
        if own != header.dimension or not 1 <= parts <= own or own % parts or bits != 4:
            raise NotSound(f"a quantiser of {own:,} dimensions in {parts:,} parts of {bits:,} bits")
        if not np.isfinite(self.array(np.float32, own * 2**bits, "centroids")).all():
            raise NotSound("its centroids are not finite")
        way, block, queries = (self.value("i", name) for name in ("implem", "bbs", "qbs"))
        if way != 0 or block != 32 or queries != 0:
            raise NotSound(f"search settings {way}, {block} and {queries}, expected 0, 32 and 0")
        rows, even = self.value("Q", "its rows"), self.value("Q", "its parts")
        if rows != -(-header.rows // block) * block or even != parts + parts % 2:
            raise NotSound(f"{rows:,} rows of {even:,} parts in blocks, for {header.rows:,} of {parts:,}")
        self.array(np.uint8, rows * even // 2, "codes")

    def ivf(self, scalar: bool) -> tuple[Header, np.ndarray]:
        """An inverted file, after its four letters: cells and the rows that they hold."""
        header = self.header()
        cells, probes = self.value("Q", "nlist"), self.value("Q", "nprobe")
        if not 1 <= cells <= len(self.data) or not 1 <= probes <= MOST_EFFORT:
            raise NotSound(f"nlist is {cells:,} and nprobe {probes:,}")
        self.expect("IxFI")
        self.part("IxFI", Header(header.dimension, cells))
        if self.value("B", "the direct map") != 0:
            raise NotSound("it has a direct map, which this package never writes")
        self.array(np.int64, 0, "the direct map")
        if not scalar:
            size = 4 * header.dimension
        else:
            size = self.scalar_quantizer(header.dimension)
            if self.value("Q", "the code size") != size or self.value("B", "by_residual") not in (0, 1):
                raise NotSound("the code size or by_residual is wrong")
        return header, self.lists(header.rows, cells, size)

    def lists(self, rows: int, cells: int, size: int) -> np.ndarray:
        """The label ids of all cells."""
        self.expect("ilar")
        if (found := (self.value("Q", "the cells"), self.value("Q", "the code size"))) != (cells, size):
            raise NotSound(f"{found[0]:,} cells with codes of {found[1]:,} bytes, expected {cells:,} and {size:,}")
        letters = self.letters()
        if letters == "full":
            counts = self.array(np.uint64, cells, "sizes of cells")
        elif letters == "sprs":
            pairs = self.array(np.uint64, None, "sizes of cells")
            if (
                len(pairs) % 2
                or (np.diff(pairs[::2].astype(np.float64)) <= 0).any()
                or pairs[::2].max(initial=0) >= cells
            ):
                raise NotSound("the numbers of its cells are not in order")
            counts = pairs[1::2]
        else:
            raise NotSound(f"cells of kind {letters!r}")
        if counts.max(initial=0) > rows or int(counts.sum()) != rows:
            raise NotSound(f"its cells do not hold the {rows:,} rows together")
        ids = [np.zeros(0, np.int64)]
        for count in counts[counts > 0].tolist():
            self.take(count * size, "codes")
            ids.append(self.take(8 * count, "label ids").view("<i8"))
        return np.concatenate(ids)

    def value(self, code: str, name: str) -> Any:
        """One number (the first one, if the code names several)."""
        return struct.unpack(f"<{code}", self.take(struct.calcsize(f"<{code}"), name).tobytes())[0]

    def letters(self) -> str:
        return self.take(4, "the kind").tobytes().decode("latin-1")

    def expect(self, *letters: str) -> None:
        if (found := self.letters()) not in letters:
            expected = " or ".join(map(repr, letters))
            raise NotSound(f"found {found!r} at byte {self.place - 4:,}, expected {expected}")

    def array(self, dtype: Any, length: int | None, name: str) -> np.ndarray:
        """A vector: its length, which must be the given one, and its numbers."""
        found = self.value("Q", f"the number of {name}")
        if length is not None and found != length:
            raise NotSound(f"the number of {name} at byte {self.place - 8:,} is {found:,}, expected {length:,}")
        kind = np.dtype(dtype).newbyteorder("<")
        return self.take(found * kind.itemsize, name).view(kind)

    def take(self, size: int, name: str) -> np.ndarray:
        """The next bytes."""
        left = len(self.data) - self.place
        if size > left:
            raise NotSound(f"{name} at byte {self.place:,} should have {size:,} bytes, and the file has {left:,} more")
        self.place += size
        return self.data[self.place - size : self.place]

    def within(self, values: np.ndarray, least: float, most: float, name: str) -> None:
        """Reject numbers outside a range, and those that are none."""
        if len(values) and not (least <= values.min() and values.max() <= most):
            raise NotSound(f"{name} from {values.min():,} to {values.max():,}, expected {least:,} to {most:,}")
