"""From scores of all pairs, which are never held at once, to the lists of an audit."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from hf_xmc.audit.completeness import Completeness, surest
from hf_xmc.audit.findings import Findings
from hf_xmc.audit.leave_one_out import LeaveOneOut
from hf_xmc.audit.pool import Pool

Block = tuple[slice, np.ndarray]  # rows of the pool, and their scores with all labels, `[n, L]`


class Best:
    """The pairs of highest score among those seen so far.

    Args:
        most: how many to keep.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.rows, self.labels = np.zeros(0, np.int64), np.zeros(0, np.int64)
        self.scores = np.zeros(0, np.float32)

    def add(self, rows: np.ndarray, labels: np.ndarray, scores: np.ndarray) -> None:
        """See some pairs."""
        if len(self.scores) >= self.most:
            above = scores > self.scores.min()
            rows, labels, scores = rows[above], labels[above], scores[above]
        self.rows, self.labels = np.concatenate([self.rows, rows]), np.concatenate([self.labels, labels])
        self.scores = np.concatenate([self.scores, scores])
        if len(self.scores) > self.most:
            kept = np.argpartition(-self.scores, self.most)[: self.most]
            self.rows, self.labels, self.scores = self.rows[kept], self.labels[kept], self.scores[kept]

    def findings(self) -> Findings:
        """Those that were kept, in order."""
        return Findings.best(self.rows, self.labels, self.scores, self.most)


def score_pairs(
    pool: Pool, features: np.ndarray, most_missing: int, most_wrong: int
) -> tuple[Findings, Findings, Completeness]:
    """The pairs that are probably missing, the given ones that are probably wrong, and how complete the annotation is.

    The score of a missing pair is about the probability that it would be given, which a regression may put above 1. A
    given pair is doubtful if neither its text nor its text and the other labels speak for it: its score is one minus
    the larger of the two.
    """
    sizes = features, pool.positives, pool.num_labels
    return sort_out(LeaveOneOut(*sizes).blocks(), LeaveOneOut(*sizes, 0).blocks(), pool, most_missing, most_wrong)


def sort_out(
    blocks: Iterable[Block], by_text: Iterable[Block], pool: Pool, most_missing: int, most_wrong: int
) -> tuple[Findings, Findings, Completeness]:
    """See `score_pairs`, for scores from anywhere, in blocks of the same rows."""
    given = pool.positives
    missing, sure = Best(most_missing), Best(surest(len(given.indices)))
    own = np.zeros(len(given.indices), np.float32)  # score of each given pair
    for (rows, scores), (_, alone) in zip(blocks, by_text, strict=True):
        pairs = slice(given.indptr[rows.start], given.indptr[rows.stop])
        place = given.rows[pairs] - rows.start, given.indices[pairs]
        own[pairs] = np.maximum(scores[place], alone[place])
        if pool.ignored is not None:
            unknown = pool.ignored.take(np.arange(rows.start, rows.stop))
            scores[unknown.rows, unknown.indices] = -np.inf
        add_best(sure, scores, rows.start)
        scores[place] = -np.inf
        add_best(missing, scores, rows.start)
    wrong = Findings.best(given.rows, given.indices, 1 - own, most_wrong)
    found = sure.findings()
    keys = given.keys(pool.num_labels)
    is_given = np.isin(found.rows * pool.num_labels + found.labels, keys)
    return missing.findings(), wrong, Completeness.of(is_given, len(keys))


def add_best(best: Best, scores: np.ndarray, first_row: int) -> None:
    """Show the pairs of a block to `best`, without listing all of them."""
    flat = scores.ravel()
    wanted = min(best.most, len(flat))
    kept = np.argpartition(-flat, wanted - 1)[:wanted] if wanted < len(flat) else np.arange(len(flat))
    kept = kept[np.isfinite(flat[kept])]
    rows, labels = np.divmod(kept, scores.shape[1])
    best.add(rows + first_row, labels, flat[kept])
