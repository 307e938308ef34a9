"""Results of two ways of computing one thing: equal up to rounding, which differs between processors and libraries.

Two runs of the same code in one process are compared bit for bit. Other code, another library, another process or a
memory-mapped file may round otherwise: scores then agree to `TOLERANCE`, and labels whose scores are closer than that
may change places.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from hf_xmc import TopK
from hf_xmc.inference.text_files import read_rows

TOLERANCE = 2e-6


def assert_same_ranking(found: TopK, expected: TopK, tolerance: float = TOLERANCE) -> None:
    """The same scores up to rounding, and the same ids wherever no neighbour in the list scores about the same."""
    found, expected = found.sorted(), expected.sorted()
    assert found.ids.shape == expected.ids.shape
    np.testing.assert_allclose(found.scores, expected.scores, rtol=tolerance, atol=tolerance)
    # The last column may be tied with a label that is not in the list.
    scores = np.pad(expected.scores.astype(np.float64), ((0, 0), (1, 1)), "edge")
    scores[:, 0] = np.inf
    with np.errstate(invalid="ignore"):  # -inf - -inf at padding, which is no tie
        apart = ~(-np.diff(scores, axis=1) <= 4 * tolerance * np.maximum(np.abs(scores[:, 1:]), 1))
    clear = apart[:, :-1] & apart[:, 1:] | (expected.ids < 0)
    assert np.array_equal(found.ids[clear], expected.ids[clear])
    for mine, theirs in zip(found.ids[:, :-1], expected.ids[:, :-1], strict=True):
        assert len(set(mine.tolist()) ^ set(theirs.tolist())) <= 2


def assert_same_predictions(found: Path, expected: Path) -> None:
    """Two files of predictions: the same rows and labels, with the same scores up to rounding."""
    mine, theirs = ([row for _, row in read_rows(path)] for path in (found, expected))
    assert len(mine) == len(theirs)
    for one, other in zip(mine, theirs, strict=True):
        labels, wanted = one.pop("labels"), other.pop("labels")
        assert one == other
        closest = closest_scores(wanted)
        scores = [[label.pop("score") for label in tags] for tags in (labels, wanted)]
        np.testing.assert_allclose(scores[0], scores[1], rtol=1e-5, atol=1e-5)
        assert labels == wanted or closest < 1e-5


def closest_scores(tags: list[dict[str, Any]]) -> float:
    """The smallest difference between the scores of two neighbours in a list of tags."""
    return float(np.abs(np.diff([tag["score"] for tag in tags])).min(initial=np.inf))
