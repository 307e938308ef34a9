"""What a choice on held-out queries is to be good for: the first label, the rare labels, or both."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hf_xmc.errors import SettingsError
from hf_xmc.metrics.hits import search_depth
from hf_xmc.metrics.ranking import ranking_metrics
from hf_xmc.types import Positives, TopK

PREFER = ("balanced", "head", "tail")


@dataclass(frozen=True)
class Preference:
    """How rankings are compared.

    Args:
        prefer: `"balanced"`: the sum of P@1 and nDCG@k. P@1 is the quality of the first label, but noisy on few
            queries; nDCG is steadier. `"head"`: P@1. `"tail"`: the sum of PSP@1 and PSP@k, in which rare labels count
            for more.
        inverse_propensity: one weight per label, `[L]`; needed for `"tail"`.
        k: labels per query that count.

    Raises:
        SettingsError: an unknown preference, or `"tail"` without propensities.
    """

    prefer: str = "balanced"
    inverse_propensity: np.ndarray | None = None
    k: int = 5

    def __post_init__(self) -> None:
        if self.prefer not in PREFER:
            raise SettingsError(f"prefer is {self.prefer!r}; expected one of {', '.join(PREFER)}")
        if self.prefer == "tail" and self.inverse_propensity is None:
            raise SettingsError("prefer='tail' needs the inverse propensity of each label")

    def depth(self, filters: Positives | None) -> int:
        """Labels per query that a ranking needs to be measured."""
        return search_depth(self.k, filters)

    def measure(self, topk: TopK, positives: Positives, filters: Positives | None) -> dict[str, float]:
        """The metrics that count, and their `"total"`, of which more is better."""
        weights = None if self.prefer != "tail" else padded(self.inverse_propensity, topk)
        found = ranking_metrics(topk, positives, (1, self.k), weights, filters)
        return {name: found[name] for name in self.names} | {"total": sum(found[name] for name in self.counted)}

    @property
    def counted(self) -> tuple[str, ...]:
        """The metrics whose sum is compared."""
        both = {"balanced": ("P@1", f"nDCG@{self.k}"), "head": ("P@1",), "tail": ("PSP@1", f"PSP@{self.k}")}
        return both[self.prefer]

    @property
    def names(self) -> tuple[str, ...]:
        """The metrics that are reported."""
        return tuple(dict.fromkeys(("P@1", f"nDCG@{self.k}", *self.counted)))


def padded(weights: np.ndarray | None, topk: TopK) -> np.ndarray | None:
    """Weights of labels, with the largest one for labels that were added later."""
    largest = int(np.asarray(topk.ids).max(initial=-1))
    if weights is None or largest < len(weights):
        return weights
    return np.append(weights, np.full(largest + 1 - len(weights), weights.max()))
