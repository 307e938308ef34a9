"""A small world of queries near the mean of their labels."""

from __future__ import annotations

import numpy as np

from hf_xmc import Positives, TopK
from hf_xmc.retrieval.fusion import Ranked, weighted_sum


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def world(num_queries: int = 300, num_labels: int = 25, seed: int = 0) -> tuple[np.ndarray, Positives]:
    """Unit vectors near the mean of their labels' directions."""
    rng = np.random.default_rng(seed)
    centres = unit(np.random.default_rng(99).normal(size=(num_labels, 16)))
    truth = Positives.from_lists(
        rng.choice(num_labels, size=n, replace=False) for n in rng.integers(1, 4, num_queries)
    )
    mean = np.stack([centres[truth.row(i)].mean(axis=0) for i in range(num_queries)])
    return unit(mean + 0.15 * rng.normal(size=mean.shape)).astype(np.float32), truth


def fuse(labels: TopK, votes: TopK, weight: float, k: int) -> TopK:
    """The k labels of largest (1 - weight) label score + weight votes."""
    others = [Ranked(votes, weight, complete=True)] if weight else []
    return weighted_sum([Ranked(labels, 1 - weight, complete=False), *others], k)
