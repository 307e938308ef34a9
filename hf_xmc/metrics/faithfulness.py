"""Faithfulness of explanations: how the score changes when the words that an explanation names are removed."""

from __future__ import annotations

from typing import Any

import numpy as np


def deletion_area(scores: Any) -> float:
    """Area under score / whole score while units are removed, the most relevant first (AUC-MoRF). Lower is better.

    Args:
        scores: scores of the whole text, without the best unit, without the best two, ..., and of the empty text,
            `[n + 1]`. They must be positive, as probabilities are.

    >>> round(deletion_area([0.8, 0.4, 0.2, 0.16]), 2)
    0.45
    """
    return area(scores, whole=0)


def insertion_area(scores: Any) -> float:
    """Area under score / whole score while units are added, the most relevant first. Higher is better.

    Args:
        scores: scores of the empty text, with the best unit, with the best two, ..., and of the whole text, `[n + 1]`.

    >>> round(insertion_area([0.16, 0.56, 0.72, 0.8]), 4)
    0.7333
    """
    return area(scores, whole=-1)


def area(scores: Any, whole: int) -> float:
    """Area under scores divided by the score at position `whole`."""
    values = np.asarray(scores, dtype=np.float64)
    if values.ndim != 1 or len(values) < 2:
        raise ValueError(f"Found scores of shape {values.shape}; expected one per step, and at least two.")
    if not values[whole] > 0:
        raise ValueError(f"The whole text scores {values[whole]}; give scores above 0, such as probabilities.")
    return float(np.trapezoid(values / values[whole]) / (len(values) - 1))


def max_sensitivity(attributions: Any, perturbed: Any) -> float:
    """The largest ||e(x') - e(x)|| / ||e(x)||: how much an explanation changes if its input hardly does (Yeh et al.
    2019, "On the (In)fidelity and Sensitivity of Explanations"). Lower is better.

    Args:
        attributions: e(x), `[n]`.
        perturbed: e(x') of similar inputs, `[m, n]`.

    >>> max_sensitivity([3, 4], [[3, 3], [3, 4]])
    0.2
    """
    own, others = np.asarray(attributions, dtype=np.float64), np.asarray(perturbed, dtype=np.float64)
    length = np.linalg.norm(own)
    if not length:
        return 0.0 if not np.any(others) else float("inf")
    return float(np.linalg.norm(others - own, axis=-1).max() / length)
