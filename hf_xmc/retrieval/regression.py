"""Logistic regression of few features over very many examples, for what is fitted on held-out queries."""

from __future__ import annotations

import numpy as np
from scipy.special import expit, logit

ITERATIONS, TOLERANCE = 30, 1e-7


def newton(x: np.ndarray, y: np.ndarray, importance: np.ndarray, decay: float) -> np.ndarray:
    """Logistic regression by Newton's method: the weights `[F]` that minimise the importance-weighted log loss plus
    decay / 2 times their squares, those of the last column (the bias) excepted.

    >>> x = np.array([[-1.0, 1.0], [1.0, 1.0], [2.0, 1.0]])
    >>> newton(x, np.array([False, True, True]), np.ones(3), 1.0).round(3).tolist()
    [0.848, 0.289]
    """
    weights, penalty = np.zeros(x.shape[1]), np.full(x.shape[1], decay)
    penalty[-1] = 1e-6  # of the bias: only so that the system can be solved
    share = np.average(y, weights=importance)
    weights[-1] = logit(share)
    loss = np.inf
    for _ in range(ITERATIONS):
        raw = x @ weights
        now = float(importance @ np.logaddexp(0, np.where(y, -raw, raw))) + 0.5 * float(penalty @ weights**2)
        if not now < loss - TOLERANCE * abs(now):
            break
        loss, chance = now, expit(raw)
        gradient = x.T @ (importance * (chance - y)) + penalty * weights
        curved = x * (importance * np.maximum(chance * (1 - chance), 1e-8))[:, None]
        weights = weights - np.linalg.solve(x.T @ curved + np.diag(penalty), gradient)
    return weights
