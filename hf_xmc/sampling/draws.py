"""Stateless draws: which pairs a step uses depends only on seed, step, query and label."""

from __future__ import annotations

import torch
from torch import Tensor

from hf_xmc.types import Positives

GOLDEN = 0x9E3779B97F4A7C15 - 2**64  # 2^64 over the golden ratio; torch has no unsigned arithmetic
MIXERS = ((30, 0xBF58476D1CE4E5B9 - 2**64), (27, 0x94D049BB133111EB - 2**64))
LAST = 2**63 - 1  # no key is larger


def draw_pairs(
    pairs: Positives, rows: Tensor, count: int, seed: int, step: int, excluded: Positives | None = None
) -> Positives:
    """At most `count` pairs per query, drawn uniformly without replacement.

    The draw is a hash of (seed, step, row, label), so it does not depend on how a batch is divided into micro-batches
    or processes, and is the same after a restart.

    Args:
        pairs: label ids of each query, tensors. Weights are kept; a pair with weight 0 is not drawn.
        rows: the query of each row of `pairs`, int64 `[B]`, as its row in the training split, not in the batch.
        count: maximum number of pairs per query.
        seed, step: each step has its own draw.
        excluded: pairs that are not drawn, one row per query.

    >>> pairs = Positives.from_lists([[2, 5, 9], [4]]).torch()
    >>> drawn = [draw_pairs(pairs, torch.tensor([7, 3]), 1, seed=0, step=step) for step in range(4)]
    >>> [x.indices.tolist() for x in drawn]
    [[5, 4], [2, 4], [9, 4], [2, 4]]
    """
    row_of_pair = pairs.rows  # [nnz]
    keys = random_keys(rows[row_of_pair], pairs.indices, seed, step)
    if excluded is not None:
        keys[excluded.contains_pairs(pairs)] = LAST
    if pairs.weights is not None:
        keys[pairs.weights == 0] = LAST
    order = keys.argsort(stable=True)
    order = order[row_of_pair[order].argsort(stable=True)]  # by row, then key
    place = torch.arange(len(order), device=order.device) - pairs.indptr[row_of_pair]  # in its row
    kept = torch.zeros_like(keys, dtype=torch.bool)
    kept[order] = place < count
    return pairs.keep(kept & (keys < LAST))


def random_keys(rows: Tensor, labels: Tensor, seed: int, step: int) -> Tensor:
    """A pseudorandom number per pair, from 0 to below 2^63 - 1, int64, in the shape of both.

    >>> rows, labels = torch.tensor([0, 0, 1]), torch.tensor([4, 5, 4])
    >>> len(set(torch.cat([random_keys(rows, labels, 1, step) for step in range(9)]).tolist()))
    27
    """
    start = mix(mix(torch.tensor(seed)) + step)  # a number
    keys = mix(mix(rows.long() + start.to(rows.device)) + labels)
    return (keys & LAST).clamp(max=LAST - 1)


def mix(x: Tensor) -> Tensor:
    """The generator splitmix64 (Steele, Lea and Flood, OOPSLA 2014): neighbours become numbers without relation."""
    x = x + GOLDEN
    for shift, factor in MIXERS:
        x = (x ^ logical_shift(x, shift)) * factor
    return x ^ logical_shift(x, 31)


def logical_shift(x: Tensor, bits: int) -> Tensor:
    """To the right, with zeros from the left."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)
