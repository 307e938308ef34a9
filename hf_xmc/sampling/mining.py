"""Hard negatives from a search: labels that a query finds but that are not true for it."""

from __future__ import annotations

import numpy as np

from hf_xmc.metrics import drop_pairs
from hf_xmc.types import Positives, TopK


def mine_negatives(
    topk: TopK,
    positives: Positives,
    ignored: Positives | None = None,
    depth: int = 100,
    absolute_margin: float | None = None,
    relative_margin: float | None = None,
) -> np.ndarray:
    """The best-scoring labels of each query that are neither positive nor ignored: ids, int32 `[N, depth]`, best
    first, lower ids first among equal scores, padded with -1.

    With a margin, a negative must score below the best positive of its query by that margin, since labels with higher
    scores may be true but not annotated. The margins are those of `sentence_transformers.util.mine_hard_negatives`,
    except that it measures them from the worst positive of a query, of which there is usually only one. With many
    positives, the worst is often one that the model cannot find at all, so no negatives would be left; the best shows
    how high a true label scores.

    If none of the positives of a query is in `topk`, they score below everything that was found, so no label satisfies
    a margin. Margins do not apply to a query without positives.

    Args:
        topk: the result of a search, `[N, K]`, padding -1; K should be `depth` plus the largest number of positives.
        positives: the positives of each query.
        ignored: pairs whose truth is unknown; they are not used as a reference for margins either.
        depth: maximum number of negatives per query.
        absolute_margin: keep labels that score at most best - absolute_margin.
        relative_margin: keep labels that score at most best - relative_margin * |best|; 0.05 means 95 % of the best.

    Raises:
        ValueError: `topk` and the pairs have different numbers of rows.

    >>> topk = TopK(np.array([[4, 7, 1, 2]]), np.array([[0.9, 0.8, 0.7, 0.1]]))
    >>> mine_negatives(topk, Positives.from_lists([[7]]), depth=3).tolist()
    [[4, 1, 2]]
    >>> mine_negatives(topk, Positives.from_lists([[7]]), depth=3, absolute_margin=0.05).tolist()
    [[1, 2, -1]]
    """
    for name, pairs in (("positives", positives), ("ignored pairs", ignored)):
        if pairs is not None and len(pairs) != len(topk):
            raise ValueError(
                f"The search is of {len(topk):,} queries, but {name} have {len(pairs):,} rows; give one row per query."
            )
    topk = topk.sorted()
    kept = are_negative(topk, positives, ignored) & keep_margins(
        topk, positives, ignored, absolute_margin, relative_margin
    )
    order = np.argsort(~kept, axis=1, kind="stable")[:, :depth]  # the kept ones first
    found = np.full((len(topk), depth), -1, dtype=np.int32)
    found[:, : order.shape[1]] = np.where(
        np.take_along_axis(kept, order, 1), np.take_along_axis(topk.ids, order, 1), -1
    )
    return found


def are_negative(topk: TopK, positives: Positives, ignored: Positives | None = None) -> np.ndarray:
    """Which results are neither positive nor ignored (nor padding), bool `[N, K]`.

    >>> are_negative(TopK.from_lists([[4, 7, 1]]), Positives.from_lists([[7]]), Positives.from_lists([[1]])).tolist()
    [[True, False, False]]
    """
    return np.asarray(drop_pairs(drop_pairs(topk, ignored), positives).ids >= 0)


def keep_margins(
    topk: TopK,
    positives: Positives,
    ignored: Positives | None = None,
    absolute_margin: float | None = None,
    relative_margin: float | None = None,
) -> np.ndarray:
    """Which results keep the margins to the best positive of their query, bool `[N, K]`; see `mine_negatives`."""
    scores = np.asarray(topk.scores)
    if absolute_margin is None and relative_margin is None:
        return np.ones(scores.shape, dtype=bool)
    known = drop_pairs(topk, ignored)
    true = (known.ids >= 0) & (drop_pairs(known, positives).ids < 0)
    best = np.where(true, scores, -np.inf).max(axis=1, initial=-np.inf)  # [N]
    limit = best.copy()
    if absolute_margin is not None:
        limit = np.minimum(limit, best - absolute_margin)
    if relative_margin is not None:
        limit = np.minimum(limit, best - relative_margin * np.where(np.isfinite(best), np.abs(best), 0.0))
    limit[known_counts(positives, ignored) == 0] = np.inf
    return scores <= limit[:, None]


def known_counts(positives: Positives, ignored: Positives | None) -> np.ndarray:
    """How many positives of each query are not ignored, `[N]`.

    >>> known_counts(Positives.from_lists([[2, 5], [3]]), Positives.from_lists([[5], [2]])).tolist()
    [1, 1]
    """
    return positives.numpy().minus(None if ignored is None else ignored.numpy()).counts
