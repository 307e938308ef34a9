"""A small world of queries near the mean of their labels."""

from __future__ import annotations

import numpy as np

from hf_xmc import Positives


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
