"""Clusters of equal size: groups of similar rows in a table of embeddings."""

from __future__ import annotations

from concurrent.futures import Executor, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from hf_xmc.errors import DataError, SettingsError

METHODS = ("bisecting", "kmeans")
BLOCK = 2**14  # rows that are gathered and worked on in memory
SAMPLE = 2**12  # rows that two centroids are found on
MAX_THREADS = 8  # each with its own block
CHUNK = 2**13  # rows read at a time where all are passed over
NOISE = 2.0**-20  # projections of unit rows are compared no finer; those of equal rows may differ by 2 ** -23
STARTS, ROUNDS = 4, 8  # of 2-means; see `balanced_clusters`
COARSE = 1024  # largest number of centroids for faiss's k-means
ROWS_PER_CENTROID = 64  # that it is trained on


class Clusters(NamedTuple):
    """Rows by cluster: those of cluster i are `order[bounds[i] : bounds[i + 1]]`, in ascending order.

    Every row is in one cluster, and sizes differ by at most one. `order` int64 `[N]`, `bounds` int64 `[m + 1]`.
    """

    order: np.ndarray
    bounds: np.ndarray


def balanced_clusters(embeddings: np.ndarray, num_clusters: int, seed: int = 0, method: str = "bisecting") -> Clusters:
    """Clusters of equal size by cosine similarity.

    `bisecting` is the recursive balanced 2-means of NGAME (Dahiya et al., WSDM 2023): a node of m clusters is divided
    by two centroids such that the rows of m // 2 clusters are on the side of the first one, and so on down to the
    leaves. Centroids are computed from several starts at once, of which the best pair is kept, on a sample of 4,096
    rows if a node has more. `docs/experiments.md` has measurements of the number of starts and rounds.

    `kmeans` begins with the spherical k-means of faiss. Each of its clusters is divided into clusters of the final
    size as above; the remaining rows, which are farthest from the centroids, are pooled and divided in the same way.

    Besides the embeddings, which may be half precision or a memory map, memory holds about 50 bytes per row, and two
    blocks of 16,384 rows in float32 per thread (50 MB at D = 384). It uses the threads of torch, at most 8.

    Equal rows are ordered by their number. The same input and seed give the same clusters (`bisecting`: with any
    number of threads); projections are compared with 16 bits, so that noise hardly ever separates equal rows.

    Args:
        embeddings: `[N, D]`, normalised here; they must be finite. A row of zeros is similar to no other row.
        num_clusters: from 1 to N.
        seed: seed of the starts and samples.
        method: `bisecting` or `kmeans`.

    Raises:
        ValueError: there are more clusters than rows, or fewer than one; a row is not finite; the method is unknown.

    >>> rows = np.array([[1, 0], [0, 1], [0.9, 0.1], [0.1, 0.9]], dtype=np.float32)
    >>> order, bounds = balanced_clusters(rows, num_clusters=2)
    >>> sorted(order[a:b].tolist() for a, b in zip(bounds[:-1], bounds[1:]))
    [[0, 2], [1, 3]]
    """
    if method not in METHODS:
        raise SettingsError(f"method is {method!r}; expected one of {METHODS}.")
    if embeddings.ndim != 2:
        raise ValueError(f"embeddings have the shape {embeddings.shape}; expected [N, D], a row for each text.")
    total = len(embeddings)
    if not 1 <= num_clusters <= total:
        raise SettingsError(
            f"{num_clusters:,} clusters of {total:,} rows: there must be at least one, and a row for each."
        )
    table = UnitRows(embeddings)
    rng = np.random.default_rng(seed)
    if method == "kmeans":
        return by_kmeans(table, num_clusters, rng)
    order, bounds = np.arange(total), np.arange(num_clusters + 1) * total // num_clusters
    bisect(table, [(order, bounds)], rng)
    return Clusters(order, bounds)


class UnitRows:
    """Rows of a table, converted to float32 and scaled to length 1 when they are read."""

    def __init__(self, embeddings: np.ndarray) -> None:
        self.embeddings = embeddings
        self.scale = np.empty(len(embeddings), dtype=np.float32)
        for start in range(0, len(embeddings), CHUNK):
            rows = embeddings[start : start + CHUNK].astype(np.float32, copy=False)
            self.scale[start : start + CHUNK] = np.sqrt(np.einsum("nd,nd->n", rows, rows))
        wrong = np.flatnonzero(~np.isfinite(self.scale))
        if len(wrong):
            raise DataError(
                f"{len(wrong):,} of {len(embeddings):,} embeddings are not finite, the first of them in row "
                f"{wrong[0]:,}; did the training diverge? Try a lower learning rate, or bf16 in place of fp16."
            )
        self.scale = np.divide(1, self.scale, out=self.scale, where=self.scale > 0)

    def take(self, rows: np.ndarray) -> np.ndarray:
        """A copy of some rows, float32 `[n, D]`."""
        found = self.embeddings[rows].astype(np.float32, copy=False)
        found *= self.scale[rows, None]
        return found

    def project(self, rows: np.ndarray, axis: np.ndarray, threads: Executor) -> np.ndarray:
        """Scalar products of rows with an axis `[D]`, `[n]`."""
        chunks = [rows[start : start + CHUNK] for start in range(0, len(rows), CHUNK)]
        return np.concatenate(list(threads.map(lambda chunk: self.take(chunk) @ axis, chunks)))


def bisect(table: UnitRows, nodes: list[tuple[np.ndarray, np.ndarray]], rng: np.random.Generator) -> None:
    """Reorder row numbers in place, so that those between two bounds are similar.

    Args:
        nodes: row numbers of each node, ascending, `[n]`, and the bounds of its m clusters, `[m + 1]`, from 0 to n.
    """
    blocks = []
    nodes = nodes[::-1]
    # One thread per matrix product: the order of its sums, and the result, is the same on any number.
    with threadpool_limits(1, "blas"), ThreadPoolExecutor(min(torch.get_num_threads(), MAX_THREADS)) as threads:
        while nodes:
            order, bounds = nodes.pop()
            middle = (len(bounds) - 1) // 2
            if not middle:
                continue
            if len(order) <= BLOCK:
                blocks.append((order, bounds))
                continue
            first = int(bounds[middle])
            axis = best_axis(table.take(drawn(order, rng)), first / len(order), rng)
            order[:] = order[lowest_first(table.project(order, axis, threads), first)]
            nodes += [(order[first:], bounds[middle:] - first), (order[:first], bounds[: middle + 1])]
        seeds = rng.integers(2**63, size=len(blocks))

        def work(place: int) -> None:
            order, bounds = blocks[place]
            bisect_block(table.take(order), order, bounds, np.random.default_rng(seeds[place]))

        list(threads.map(work, range(len(blocks))))


def drawn(rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A sample of the rows that is large enough to compute a centroid."""
    return rows if len(rows) <= SAMPLE else np.sort(rng.choice(rows, SAMPLE, replace=False))


def bisect_block(rows: np.ndarray, order: np.ndarray, bounds: np.ndarray, rng: np.random.Generator) -> None:
    """As `bisect`, for rows `[n, D]` in memory, which are reordered too: the two parts of a node are views."""
    middle = (len(bounds) - 1) // 2
    if not middle:
        return
    first = int(bounds[middle])
    sample = rows if len(rows) <= SAMPLE else rows[drawn(np.arange(len(rows)), rng)]
    places = lowest_first(rows @ best_axis(sample, first / len(rows), rng), first)
    rows[:], order[:] = rows[places], order[places]
    bisect_block(rows[:first], order[:first], bounds[: middle + 1], rng)
    bisect_block(rows[first:], order[first:], bounds[middle:] - first, rng)


def best_axis(rows: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """The axis `[D]` that divides rows `[n, D]` into the lowest share and the others: the difference of two centroids.

    Of several starts (a row and the row least similar to it), the one whose parts are closest to their centroids.
    """
    count = max(1, round(len(rows) * share))
    starts = rows[rng.integers(len(rows), size=STARTS)]  # [S, D]
    axes = rows[(rows @ starts.T).argmin(0)] - starts  # two rows at random may be equal
    total = rows.sum(0)
    for _ in range(ROUNDS):
        heights = np.ascontiguousarray((rows @ axes.T).T)  # [S, n]
        low = heights <= np.partition(heights, count - 1)[:, count - 1 : count]  # more of them where rows are equal
        sums = low.astype(np.float32) @ rows  # [S, D]
        low_lengths, low_centroids = to_unit(sums)
        high_lengths, high_centroids = to_unit(total - sums)
        axes = high_centroids - low_centroids
        closeness = low_lengths + high_lengths  # sum over all rows of the similarity to their centroid, [S]
    best: np.ndarray = axes[(closeness / len(rows)).round(5).argmax()]  # of equally good ones the first, despite noise
    return best / max(float(np.linalg.norm(best)), 1e-12)


def to_unit(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lengths `[S]`, and the vectors scaled to length 1, `[S, D]`."""
    lengths = np.linalg.norm(vectors, axis=1)
    return lengths, vectors / np.maximum(lengths, 1e-12)[:, None]


def lowest_first(heights: np.ndarray, count: int) -> np.ndarray:
    """Positions of the `count` lowest, then of the others, both ascending, `[n]`; of equal ones the first is lower.

    >>> lowest_first(np.array([3.0, 1.0, 2.0, 1.0, 1.0]), count=2).tolist()
    [1, 3, 0, 2, 4]
    """
    step = max(NOISE, 2.0 ** (np.frexp(np.ptp(heights))[1] - 16))
    heights = np.rint(heights / step)
    cut = np.partition(heights, count - 1)[count - 1]
    low = heights < cut
    low[np.flatnonzero(heights == cut)[: count - int(low.sum())]] = True
    return np.concatenate([np.flatnonzero(low), np.flatnonzero(~low)])


def by_kmeans(table: UnitRows, num_clusters: int, rng: np.random.Generator) -> Clusters:
    """Clusters of the final size from those of faiss; the remaining rows are pooled and bisected."""
    total = len(table.scale)
    small, larger = divmod(total, num_clusters)  # `larger` clusters have one row more
    left = {small + 1: larger, small: num_clusters - larger}  # clusters to be made of each size
    nodes, rest = [], []
    for rows in coarse_clusters(table, num_clusters, rng):
        sizes: list[int] = []
        for size in left:
            made = min(left[size], (len(rows) - sum(sizes)) // size)
            left[size] -= made
            sizes += [size] * made
        nodes.append((np.sort(rows[: sum(sizes)]), np.cumsum([0, *sizes])))
        rest.append(rows[sum(sizes) :])
    sizes = [size for size, count in left.items() for _ in range(count)]
    nodes.append((np.sort(np.concatenate(rest)), np.cumsum([0, *sizes])))
    bisect(table, nodes, rng)
    ends = np.cumsum([0, *(len(order) for order, _ in nodes)])
    bounds = [bounds[1:] + end for (_, bounds), end in zip(nodes, ends, strict=False)]
    return Clusters(np.concatenate([order for order, _ in nodes]), np.concatenate([[0], *bounds]))


def coarse_clusters(table: UnitRows, num_clusters: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Row numbers of each cluster of faiss's k-means, nearest to its centroid first. Each is large enough for at least
    8 clusters of the final size."""
    import faiss  # here, since only this method needs it

    total, dim = table.embeddings.shape
    count = max(1, min(COARSE, num_clusters // 8))
    sample = np.sort(rng.choice(total, min(total, count * ROWS_PER_CENTROID), replace=False))
    kmeans = faiss.Kmeans(
        dim, count, spherical=True, seed=int(rng.integers(2**31)), min_points_per_centroid=1, niter=10
    )
    kmeans.train(table.take(sample))
    nearest, scores = np.empty(total, dtype=np.int64), np.empty(total, dtype=np.float32)
    for start in range(0, total, CHUNK):
        rows = np.arange(start, min(start + CHUNK, total))
        found, ids = kmeans.index.search(table.take(rows), 1)
        nearest[rows], scores[rows] = ids[:, 0], found[:, 0]
    by_cluster = np.lexsort((-scores, nearest))
    return np.split(by_cluster, np.cumsum(np.bincount(nearest, minlength=count))[:-1])
