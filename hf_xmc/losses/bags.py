"""Texts of several passages in a loss: the score of a text from those of its passages, and gradients back to them.

The score of a text is a pool of the scores z_t of its passages, as at prediction: the largest, the mean, or the soft
maximum log(mean_t exp(r z_t)) / r. Losses see the pooled scores alone, so that every loss on the streaming driver
trains on bags, as in multiple-instance learning. The gradient of a passage's score is that of the text's score times
the passage's weight in the pool.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import log

import torch
from torch import Tensor

from hf_xmc.losses.sharding import Shard


@dataclass(frozen=True)
class PassagePooling:
    """How the scores of passages give that of their text.

    Args:
        kind: `"lse"`: log(mean(exp(sharpness * scores))) / sharpness; `"max"`; `"mean"`.
        sharpness: of `"lse"`, for dot products.
    """

    kind: str = "lse"
    sharpness: float = 50.0

    def __call__(self, scores: Tensor) -> Tensor:
        """The scores of a text, `[C]`, from the dot products of its passages, `[n, C]`; differentiable."""
        if len(scores) == 1:
            return scores[0]
        if self.kind == "max":
            return scores.amax(0)
        if self.kind == "mean":
            return scores.mean(0)
        return ((self.sharpness * scores).logsumexp(0) - log(len(scores))) / self.sharpness

    def weigh_(self, scores: Tensor, temperature: float, out: Tensor) -> None:
        """Write the scores of a text into `out` `[C]`, and replace those of its passages, `[n, C]`, by their weights:
        the derivatives of the one by the other. Scores are dot products divided by `temperature`."""
        if len(scores) == 1:
            out.copy_(scores[0])
            scores.fill_(1.0)
        elif self.kind == "max":
            best = scores.max(0)
            out.copy_(best.values)
            scores.zero_().scatter_(0, best.indices[None], 1.0)
        elif self.kind == "mean":
            torch.mean(scores, 0, out=out)
            scores.fill_(1 / len(scores))
        else:
            sharpness = self.sharpness * temperature
            top = scores.amax(0)
            total = scores.sub_(top).mul_(sharpness).exp_().sum(0)  # from 1 to n
            scores.div_(total)
            torch.add(top, total.div_(len(scores)).log_(), alpha=1 / sharpness, out=out)


@dataclass(frozen=True)
class QueryBags:
    """Queries that have several passages each. It stands where the embeddings of queries stand, `[B, D]`.

    Args:
        vectors: embeddings of all passages, query after query, `[T, D]`.
        counts: how many passages each query has, at least 1, int64 `[B]`.
        pooling: how they give the score of a label.

    >>> bags = QueryBags(torch.eye(3), torch.tensor([2, 1]), PassagePooling("max"))
    >>> bags.shape, dot_products(bags, torch.eye(3)).tolist()
    ((2, 3), [[1.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    """

    vectors: Tensor
    counts: Tensor
    pooling: PassagePooling = PassagePooling()

    def __len__(self) -> int:
        return len(self.counts)

    @property
    def ndim(self) -> int:
        return self.vectors.ndim

    @property
    def shape(self) -> tuple[int, int]:
        return len(self), self.vectors.shape[1]

    @property
    def device(self) -> torch.device:
        return self.vectors.device

    @property
    def dtype(self) -> torch.dtype:
        return self.vectors.dtype

    def to(self, dtype: torch.dtype) -> QueryBags:
        """The same in another data type."""
        return replace(self, vectors=self.vectors.to(dtype))

    def detach(self) -> QueryBags:
        """The same without gradients."""
        return replace(self, vectors=self.vectors.detach())

    def gathered(self, ranks: Shard) -> QueryBags:
        """The queries of all ranks, without gradients."""
        return replace(self, vectors=ranks.gather(self.vectors.detach()), counts=ranks.gather(self.counts))


Queries = Tensor | QueryBags


def joined(parts: Sequence[Queries]) -> Queries:
    """The queries of several micro-batches as those of one."""
    bags = [part for part in parts if isinstance(part, QueryBags)]
    if not bags:
        return torch.cat([part for part in parts if isinstance(part, Tensor)])
    vectors, counts = torch.cat([bag.vectors for bag in bags]), torch.cat([bag.counts for bag in bags])
    return replace(bags[0], vectors=vectors, counts=counts)


def dot_products(queries: Queries, labels: Tensor) -> Tensor:
    """The pooled dot products of queries and labels `[C, D]`, `[B, C]`, all at once and with gradients."""
    if isinstance(queries, Tensor):
        return queries @ labels.T
    scores = queries.vectors @ labels.T  # [T, C]
    if not len(queries):
        return scores
    return torch.stack([queries.pooling(part) for part in scores.split(queries.counts.tolist())])


class Vectors:
    """How the driver of the losses lays out queries that have one vector each: a row of scores is a vector's."""

    def __init__(self, shard: Shard) -> None:
        self.shard = shard

    def gather(self, x: Tensor) -> Tensor:
        """The vectors of all ranks, `[V, D]`, from this rank's."""
        return self.shard.gather_queries(x)

    def own(self, gathered: Tensor) -> Tensor:
        """This rank's part of what `gather` returns."""
        return self.shard.own_queries(gathered)

    def bounds(self, most: int) -> list[int]:
        """Where the tiles begin and the last one ends, in queries; a tile has at most `most` vectors if it can."""
        return [*range(0, self.shard.num_queries, most), self.shard.num_queries]

    def vectors(self, start: int, stop: int) -> slice:
        """Those of the queries from `start` to before `stop`."""
        return slice(start, stop)

    def pool_(self, scores: Tensor, start: int, stop: int) -> Tensor:
        """The scores of queries, `[b, C]`, from those of their vectors, which may be overwritten."""
        return scores

    def spread_(self, gradient: Tensor, scores: Tensor, start: int, stop: int) -> Tensor:
        """The gradient of the vectors' scores, from that of the queries' and what `pool_` has left in `scores`."""
        return gradient

    def repeat(self, values: Tensor, start: int, stop: int) -> Tensor:
        """For each vector the value of its query."""
        return values


class Bagged(Vectors):
    """The same for queries of several passages."""

    def __init__(self, shard: Shard, bags: QueryBags, temperature: float) -> None:
        super().__init__(shard)
        self.pooling = bags.pooling
        self.temperature = temperature
        self.counts = shard.gather_queries(bags.counts)  # of all ranks
        self.indptr = [0, *self.counts.cumsum(0).tolist()]
        first = shard.first_query
        self.own_vectors = slice(self.indptr[first], self.indptr[first + shard.own_num_queries])

    def gather(self, x: Tensor) -> Tensor:
        return self.shard.gather(x)

    def own(self, gathered: Tensor) -> Tensor:
        return gathered[self.own_vectors]

    def bounds(self, most: int) -> list[int]:
        bounds = [0]
        while bounds[-1] < self.shard.num_queries:
            fits = bisect_right(self.indptr, self.indptr[bounds[-1]] + most) - 1
            bounds.append(max(fits, bounds[-1] + 1))
        return bounds

    def vectors(self, start: int, stop: int) -> slice:
        return slice(self.indptr[start], self.indptr[stop])

    def bags(self, scores: Tensor, start: int, stop: int) -> tuple[Tensor, ...]:
        """The rows of each query in a tile."""
        return scores.split(
            [b - a for a, b in zip(self.indptr[start:stop], self.indptr[start + 1 : stop + 1], strict=True)]
        )

    def pool_(self, scores: Tensor, start: int, stop: int) -> Tensor:
        pooled = scores.new_empty(stop - start, scores.shape[1])
        for part, out in zip(self.bags(scores, start, stop), pooled, strict=True):
            self.pooling.weigh_(part, self.temperature, out)
        return pooled

    def spread_(self, gradient: Tensor, scores: Tensor, start: int, stop: int) -> Tensor:
        for part, row in zip(self.bags(scores, start, stop), gradient, strict=True):
            part.mul_(row)
        return scores

    def repeat(self, values: Tensor, start: int, stop: int) -> Tensor:
        return values.repeat_interleave(self.counts[start:stop], 0)
