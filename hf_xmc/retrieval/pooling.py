"""How a label with many texts scores: weights by kind, and the maximum, the mean or a soft maximum over its texts.

A text has a share p_t of its label: the weight of its kind, divided among the label's texts of this kind, and scaled
so that the shares of a label sum to 1 whichever kinds it has. With the scores s_t of its texts a label scores

    mean:       sum_t p_t s_t
    max:        max of s_t over the texts with p_t > 0
    logsumexp:  T log sum_t p_t exp(s_t / T), which lies between the two
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hf_xmc.errors import SettingsError
from hf_xmc.retrieval.label_kinds import KINDS, NAME

POOLS = ("max", "mean", "logsumexp")
TEMPERATURE = 0.05  # of the soft maximum; scores are cosines


@dataclass(frozen=True)
class Pooling:
    """Weights by kind, and how the scores of texts become that of their label.

    Args:
        pool: one of `POOLS`.
        weights: kind -> weight, 0 or more; kinds that are not named have weight 0.
        temperature: of the soft maximum.

    Raises:
        SettingsError: an unknown pool or kind, a negative weight, or a temperature that is not above 0.

    >>> pooling = Pooling("mean", {"name": 1.0, "synonym": 1.0})
    >>> pooling.shares(np.array([0, 0, 0, 1]), ["name", "synonym", "synonym", "name"]).tolist()
    [0.5, 0.25, 0.25, 1.0]
    """

    pool: str = "mean"
    weights: Mapping[str, float] = field(default_factory=lambda: dict.fromkeys(KINDS, 1.0))
    temperature: float = TEMPERATURE

    def __post_init__(self) -> None:
        if self.pool not in POOLS:
            raise SettingsError(f"pool is {self.pool!r}; expected one of {', '.join(POOLS)}")
        if unknown := [kind for kind in self.weights if kind not in KINDS]:
            raise SettingsError(f"there is no kind {unknown[0]!r}; expected one of {', '.join(KINDS)}")
        if bad := [kind for kind, weight in self.weights.items() if not 0 <= weight < float("inf")]:
            raise SettingsError(f"the weight of {bad[0]} is {self.weights[bad[0]]}; it must be 0 or more")
        if not 0 < self.temperature < float("inf"):
            raise SettingsError(f"temperature is {self.temperature}; it must be above 0")

    def shares(self, labels: np.ndarray, kinds: Sequence[str]) -> np.ndarray:
        """The share of each text, float32 `[M]`. A label of whose kinds none has a weight scores by its name.

        Args:
            labels: of each text, int64 `[M]`; the texts of a label stand together.
            kinds: of each text, `[M]`.
        """
        code = np.array([KINDS.index(kind) for kind in kinds], np.int64)
        _, place = np.unique(labels, return_inverse=True)
        groups = place * len(KINDS) + code
        found = np.array([self.weights.get(kind, 0.0) for kind in KINDS])[code] / np.bincount(groups)[groups]
        total = np.bincount(place, found)
        return np.where(
            total[place] > 0,
            found / np.where(total > 0, total, 1)[place],
            code == KINDS.index(NAME),
        ).astype(np.float32)

    def of_texts(self, scores: np.ndarray, starts: np.ndarray, shares: np.ndarray) -> np.ndarray:
        """The scores of labels `[..., n]` from those of their texts.

        Args:
            scores: of texts, `[..., m]`, those of a label together.
            starts: where the texts of each label start, int64 `[n]`.
            shares: `[..., m]`.

        >>> Pooling("max").of_texts(np.array([0.1, 0.7, 0.4]), np.array([0, 2]), np.array([0.5, 0.5, 1.0])).tolist()
        [0.7, 0.4]
        """
        if self.pool == "mean":
            return np.add.reduceat(shares * scores, starts, axis=-1)
        used = np.where(shares > 0, scores, -np.inf)
        best = np.maximum.reduceat(used, starts, axis=-1)
        if self.pool == "max":
            return best
        counts = np.diff(np.append(starts, scores.shape[-1]))
        above = np.exp((used - np.repeat(best, counts, axis=-1)) / self.temperature)
        return best + self.temperature * np.log(np.add.reduceat(shares * above, starts, axis=-1))

    def to_dict(self) -> dict[str, Any]:
        """As in the description of an index."""
        weights = {kind: round(float(weight), 6) for kind, weight in self.weights.items()}
        return {"pool": self.pool, "weights": weights, "temperature": self.temperature}

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> Pooling:
        """What `to_dict` returned.

        Raises:
            ValueError: fields that are missing or of another kind.
        """
        try:
            weights = {str(kind): float(weight) for kind, weight in dict(found["weights"]).items()}
            return cls(str(found["pool"]), weights, float(found["temperature"]))
        except (KeyError, TypeError) as error:
            raise ValueError(f"pooling is {found!r:.80}; expected pool, weights and temperature") from error
