"""How complete an annotation is: of the pairs that a model is surest of, how many are given."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest

LEAST = 200  # pairs that the share is of
SHARE = 0.01  # of the given pairs, where there are more


@dataclass(frozen=True)
class Completeness:
    """An estimate of the share of the right pairs that are given.

    If annotators leave out a right label by chance, whichever it is, then of pairs that are certainly right the same
    share is given as of all. The surest pairs of a model are right nearly always, so that the share of them that is
    given is about that. Where the model errs in them, the annotation is more complete than this says; where obvious
    labels are left out less often than others, it is less complete.

    Args:
        share: of the surest pairs, those that are given; 0 to 1.
        low, high: 95 % interval of the share, from the number of pairs alone.
        pairs: the surest pairs that it is the share of.
        given: given pairs in all.
    """

    share: float
    low: float
    high: float
    pairs: int
    given: int

    @classmethod
    def of(cls, is_given: np.ndarray, given: int) -> Completeness:
        """From which of the surest pairs are given, bool `[n]`.

        >>> found = Completeness.of(np.arange(200) < 150, given=3000)
        >>> found.share, round(found.low, 2), round(found.high, 2), round(found.missing)
        (0.75, 0.69, 0.8, 1000)
        """
        if not len(is_given):
            return cls(1.0, 0.0, 1.0, 0, given)
        count = int(is_given.sum())
        interval = binomtest(count, len(is_given)).proportion_ci(method="wilson")
        return cls(count / len(is_given), float(interval.low), float(interval.high), len(is_given), given)

    @property
    def missing(self) -> float:
        """About how many right pairs are not given."""
        return self.given / self.share - self.given if self.share else float("inf")


def surest(given: int) -> int:
    """How many of the surest pairs are looked at.

    >>> surest(1000), surest(100_000)
    (200, 1000)
    """
    return max(LEAST, int(SHARE * given))
