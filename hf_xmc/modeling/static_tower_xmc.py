"""The static tower: embeddings of texts without a transformer, from a table of vectors of hashed words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import embedding_bag, normalize

from .ngrams_xmc import Features, Taken

SPREAD = 0.1  # standard deviation of new vectors: far enough apart that shared words alone make texts similar
LEAST_IDF = 0.1
PART = 2**22  # features of texts that are embedded at a time
MAPPED = 2**24  # buckets up to which their rows are looked up in one array


class StaticTower(nn.Module):
    """A table of vectors, one for each feature that training saw: a text is the sum of the vectors of its words, word
    pairs and stems (`ngrams_xmc`), scaled to unit length. Each is weighted by its idf and by 1 + log of how often the
    text has it. Features without a vector are left out, and a text of such features alone is the zero vector.

    With vectors at random, as they begin, the cosine of two texts is about that of their tf-idf vectors; training
    moves features that predict the same labels towards each other.

    The table is no weight for the usual optimizers: each step touches few of its rows, which the trainer moves by
    row-wise Adagrad. It is saved in half precision (`compact`).

    Args:
        dim: dimension of the vectors, S.
        buckets: number of different hashes of features.
        rows: number of features that have a vector, R; `grow` adds some.

    >>> tower = StaticTower(dim=4, buckets=2**18)
    >>> tower.grow(tower.features(["a red car", "a car"]))
    >>> tower.encode(["a red car", "car", "unknown"]).norm(dim=1).round(decimals=3).tolist()
    [1.0, 1.0, 0.0]
    """

    def __init__(self, dim: int, buckets: int, rows: int = 0) -> None:
        super().__init__()
        self.dim = dim
        self.num_buckets = buckets
        self.table = nn.Parameter(torch.empty(rows, dim), requires_grad=False)  # [R, S]
        self.register_buffer("buckets", torch.zeros(rows, dtype=torch.int32))  # [R], ascending
        self.register_buffer("idf", torch.ones(rows))  # [R]
        self.lookup: tuple[np.ndarray, np.ndarray] | None = None  # what `rows_of` needs, made at its first call

    buckets: Tensor
    idf: Tensor

    def __len__(self) -> int:
        """Number of features that have a vector."""
        return len(self.table)

    def extra_repr(self) -> str:
        return f"{len(self):,} features of {self.num_buckets:,} buckets, dim={self.dim}"

    def features(self, texts: Sequence[str]) -> Features:
        """The features of texts, before their vectors are looked up."""
        return Features.of(texts, self.num_buckets)

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Embeddings of texts without gradients, `[N, S]`: of unit length, or zero."""
        return self.embed(self.features(texts))

    @torch.no_grad()
    def embed(self, features: Features, rows: np.ndarray | None = None) -> Tensor:
        """Embeddings of texts of which the features are known, without gradients, float32 `[n, S]`, on the tower's
        device.

        Args:
            features: of a table of texts.
            rows: embed only these of its texts.
        """
        rows = np.arange(len(features)) if rows is None else rows
        result = torch.empty(len(rows), self.dim, device=self.table.device)
        step = max(1, PART * len(features.indptr) // max(len(features.ids), 1))
        for start in range(0, len(rows), step):
            bag = self.bag(features.take(rows[start : start + step]))
            result[start : start + step] = normalize(sums(self.table, *bag).float(), dim=-1)
        return result

    def bag(self, taken: Taken, kept: np.ndarray | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """What `sums` adds up for these texts, on the tower's device: rows of the table, int64 `[m]`, their weights
        `[m]`, and where each text begins, int64 `[n + 1]`.

        Args:
            kept: False for features that are left out, `[features]`; by default all that have a vector are kept.
        """
        row = self.rows_of(taken.ids)
        keep = row >= 0 if kept is None else (row >= 0) & kept
        row, counts = row[keep].astype(np.int64), taken.counts[keep]
        indptr = np.concatenate([[0], np.cumsum(keep)])[taken.indptr]
        weights = self.idf_of(row) * LOG_COUNTS[np.minimum(counts, len(LOG_COUNTS) - 1)]
        device, dtype = self.table.device, self.table.dtype
        return (
            torch.from_numpy(row).to(device),
            torch.from_numpy(weights).to(device, dtype),
            torch.from_numpy(indptr).to(device),
        )

    def rows_of(self, buckets: np.ndarray) -> np.ndarray:
        """The row of each bucket in the table, `[n]`; -1 where it has none."""
        known, _ = self.looked_up()
        if self.num_buckets <= MAPPED:
            return known[buckets]
        if not len(known):
            return np.full(len(buckets), -1)
        place = np.searchsorted(known, buckets).clip(max=len(known) - 1)
        return np.where(known[place] == buckets, place, -1)

    def idf_of(self, rows: np.ndarray) -> np.ndarray:
        """The idf of rows, float32 `[n]`."""
        return self.looked_up()[1][rows]

    def looked_up(self) -> tuple[np.ndarray, np.ndarray]:
        """The row of each bucket (for many buckets the sorted buckets instead), and the idf of each row."""
        if self.lookup is None:
            known = self.buckets.cpu().numpy()
            if self.num_buckets <= MAPPED:
                row_of = np.full(self.num_buckets, -1, dtype=np.int32)
                row_of[known] = np.arange(len(known), dtype=np.int32)
                known = row_of
            self.lookup = known, self.idf.float().cpu().numpy()
        return self.lookup

    def grow(self, *tables: Features, least: int = 1, always: Features | None = None, seed: int = 0) -> None:
        """Give a vector, drawn at random, and an idf to each feature of these texts that has none yet. What the tower
        has already stays as it is.

        Args:
            tables: features of the training texts and of the label texts.
            least: texts that must have a feature.
            always: features that get a vector even if fewer texts have them.
            seed: of the vectors.
        """
        num_texts = sum(len(table) for table in tables)
        found, frequency = document_frequency(tables, self.num_buckets)
        wanted = frequency >= least
        if always is not None:
            wanted |= np.isin(found, always.ids)
        new = wanted & (self.rows_of(found) < 0)
        idf = np.log((num_texts + 1) / (frequency[new] + 1)).clip(LEAST_IDF)
        before, device, dtype = len(self), self.table.device, self.table.dtype
        generator = torch.Generator().manual_seed(seed + before)
        vectors = SPREAD * torch.randn(len(idf), self.dim, generator=generator)
        buckets = torch.cat([self.buckets, torch.from_numpy(found[new]).to(device, torch.int32)])
        order = buckets.argsort()
        table = torch.cat([self.table.data, vectors.half().to(device, dtype)])  # as it would be read again
        self.replace(table[order], buckets[order], torch.cat([self.idf, torch.from_numpy(idf).to(self.idf)])[order])

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self.lookup = None

    def start(self) -> None:
        """Vectors at random, where there are rows and no weights were loaded."""
        nn.init.normal_(self.table, std=SPREAD)

    @torch.no_grad()
    def round_to_half(self) -> None:
        """Round the vectors to what they are saved as."""
        self.table.copy_(self.table.half())

    def replace(self, table: Tensor, buckets: Tensor, idf: Tensor) -> None:
        """Take other vectors `[R, S]`, of these buckets, ascending `[R]`, with this idf `[R]`."""
        self.table = nn.Parameter(table, requires_grad=False)
        self.buckets, self.idf, self.lookup = buckets, idf, None


# Of a feature that a text has n times, by n.
LOG_COUNTS = np.concatenate([[0], 1 + np.log(np.arange(1, 2**16))]).astype(np.float32)


def sums(table: Tensor, rows: Tensor, weights: Tensor, indptr: Tensor) -> Tensor:
    """The weighted sum of the rows of each text, `[n, S]`; see `StaticTower.bag`."""
    if not len(indptr) - 1 or not len(table):
        return table.new_zeros(len(indptr) - 1, table.shape[1])
    return embedding_bag(rows, table, indptr, mode="sum", per_sample_weights=weights, include_last_offset=True)


def document_frequency(tables: Sequence[Features], buckets: int) -> tuple[np.ndarray, np.ndarray]:
    """The features that occur in the texts of these tables, ascending, and in how many texts, int64 `[n]` each.

    >>> tables = [Features.of([text], buckets=2**18) for text in ("red", "red car")]
    >>> sorted(document_frequency(tables, buckets=2**18)[1].tolist())
    [1, 1, 2]
    """
    ids = np.concatenate([np.zeros(0, dtype=np.int32), *(table.ids for table in tables)])
    rows = np.concatenate([np.zeros(0), *(np.repeat(table.repeats(), np.diff(table.indptr)) for table in tables)])
    if buckets <= MAPPED:
        frequency = np.bincount(ids, weights=rows, minlength=1)
        found = np.flatnonzero(frequency)
        return found, frequency[found].astype(np.int64)
    found, place = np.unique(ids, return_inverse=True)
    return found, np.bincount(place, weights=rows, minlength=len(found)).astype(np.int64)


def compact(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a model as they are saved: the table of a static tower, most of the file, in half precision.

    >>> compact({"static_tower.table": torch.ones(2), "other": torch.ones(2)})["static_tower.table"].dtype
    torch.float16
    """
    return {name: x.half() if name.endswith("static_tower.table") else x for name, x in weights.items()}
