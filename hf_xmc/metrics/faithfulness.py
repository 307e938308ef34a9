"""How far an explanation can be trusted: what happens to the score when the words it names are taken away."""

from __future__ import annotations

from typing import Any

import numpy as np


def deletion_area(scores: Any) -> float:
    """Area under score / whole score while units are removed, the most relevant first (AUC-MoRF): low is good.

    Args:
        scores: of the whole text, without the best unit, without the best two, ..., of the empty text, `[n + 1]`. They
            must be positive, as probabilities are.

    >>> round(deletion_area([0.8, 0.4, 0.2, 0.16]), 2)
    0.45
    """
    return area(scores, whole=0)


def insertion_area(scores: Any) -> float:
    """Area under score / whole score while units are added to an empty text, the most relevant first: high is good.

    Args:
        scores: of the empty text, with the best unit, with the best two, ..., of the whole text, `[n + 1]`.

    >>> round(insertion_area([0.16, 0.56, 0.72, 0.8]), 4)
    0.7333
    """
    return area(scores, whole=-1)


def area(scores: Any, whole: int) -> float:
    values = np.asarray(scores, dtype=np.float64)
    if values.ndim != 1 or len(values) < 2:
        raise ValueError(f"Found scores of shape {values.shape}; expected one a step, two at least.")
    if not values[whole] > 0:
        raise ValueError(f"The whole text scores {values[whole]}; give scores above 0, such as probabilities.")
    return float(np.trapezoid(values / values[whole]) / (len(values) - 1))


def max_sensitivity(attributions: Any, perturbed: Any) -> float:
    """The largest ||e(x') - e(x)|| / ||e(x)||: how much an explanation changes where its input hardly does (Yeh et al.
    2019, "On the (In)fidelity and Sensitivity of Explanations"). Low is good.

    Args:
        attributions: e(x), `[n]`.
        perturbed: e(x') of inputs close by, `[m, n]`.

    >>> max_sensitivity([3, 4], [[3, 3], [3, 4]])
    0.2
    """
    own, others = np.asarray(attributions, dtype=np.float64), np.asarray(perturbed, dtype=np.float64)
    length = np.linalg.norm(own)
    if not length:
        return 0.0 if not np.any(others) else float("inf")
    return float(np.linalg.norm(others - own, axis=-1).max() / length)
