"""Which query goes where: as given, by chance, by time, by label, or stratified; and the cut of a validation split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

import numpy as np

from hf_xmc.errors import DataError
from hf_xmc.types import Positives

Strategy = Literal["given", "random", "time", "label", "stratified"]
STRATEGIES = ("given", "random", "time", "label", "stratified")
SHARE = 10  # one query in ten
NO_TIME = ("", "nan", "nat", "none", "null")
BLOCK = 1000  # queries that are stratified together


@dataclass(frozen=True)
class SplitOptions:
    """How to split. All but `given` pool what the source has, and cut a new test split of about `test_share` from it.

    Args:
        strategy: `given`: as the source has it; `random`: by a hash of the uid; `time`: the newest queries are the
            test; `label`: test queries have labels that no training query has (zero-shot); `stratified`: labels are
            shared out evenly (iterative stratification, Sechidis et al. 2011).
        test_share: queries in the test split.
    """

    strategy: Strategy = "given"
    test_share: float = 0.1

    def __post_init__(self) -> None:
        if self.strategy not in STRATEGIES:
            raise DataError(f"no split {self.strategy!r}", hint=f"expected one of {', '.join(STRATEGIES)}")
        if not 0 < self.test_share < 1:
            raise DataError(f"a test share of {self.test_share}", hint="give a number between 0 and 1")


def validation_rows(uid_hashes: np.ndarray, positives: Positives) -> np.ndarray:
    """Rows to move from training to validation: a tenth, chosen by the hash of the uid, so that a query falls on the
    same side wherever and in whatever order the set is cut.

    A query stays in training if a label, or training as a whole, would be left without an example. Candidates are
    tried in the order of their hash, which keeps this rule independent of the order of the rows as well.

    Args:
        uid_hashes: `hf_xmc.data.ingest.queries.uid_hash` of each uid, uint64 `[N]`.
        positives: of the training split, N rows.

    >>> hashes = np.arange(1000, dtype=np.uint64)
    >>> len(validation_rows(hashes, Positives.from_lists([[0]] * 1000)))
    100
    >>> len(validation_rows(hashes, Positives.from_lists([i] for i in range(1000))))  # each the only one of its label
    0
    """
    left = np.bincount(positives.indices, minlength=1).tolist()
    candidates = np.flatnonzero(uid_hashes % np.uint64(SHARE) == 0)
    candidates = candidates[np.argsort(uid_hashes[candidates], kind="stable")]
    chosen: list[int] = []
    for row in candidates.tolist():
        labels = positives.row(row).tolist()
        if len(chosen) < len(positives) - 1 and all(left[label] > 1 for label in labels):
            chosen.append(row)
            for label in labels:
                left[label] -= 1
    return np.sort(np.asarray(chosen, dtype=np.int64))


def held_out_rows(
    options: SplitOptions,
    uid_hashes: np.ndarray,
    label_hashes: np.ndarray,
    positives: Positives,
    times: Sequence[str | None] | None,
) -> np.ndarray:
    """Rows of the pooled queries that become the test split, bool `[N]`.

    Raises:
        DataError: a split by time without times; a split by label that leaves no training or no test queries.
    """
    if options.strategy == "random":
        return mixed(uid_hashes) < options.test_share
    if options.strategy == "time":
        return newest(times, options.test_share)
    if options.strategy == "label":
        return with_unseen_labels(label_hashes, positives, options.test_share)
    return stratified(uid_hashes, positives, options.test_share)


def mixed(hashes: np.ndarray) -> np.ndarray:
    """Hashes to numbers in [0, 1) that say nothing about their remainder by ten (the finaliser of splitmix64)."""
    x = hashes.astype(np.uint64)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (x ^ (x >> np.uint64(31))) / 2.0**64


def newest(times: Sequence[str | None] | None, share: float) -> np.ndarray:
    """The newest rows; queries of one moment stay together. Times are all numbers, else all dates as in ISO 8601.

    >>> newest(["5", "9", "10", "11"], 0.25).tolist()
    [False, False, False, True]
    """
    given = [(time or "").strip() for time in times or []]
    if times is None or any(time.lower() in NO_TIME for time in given):
        found = "no time column" if times is None else "a query without a time"
        raise DataError(found, hint="name the column with --time_column; each query needs a value")
    try:
        values = np.asarray([float(time) for time in given])
    except ValueError:
        values = np.asarray([moment(time) for time in given])
    cut = np.sort(values)[max(0, len(values) - max(1, round(share * len(values))))]
    rows = values >= cut
    return values > cut if rows.all() else rows


def moment(time: str) -> float:
    """Seconds since 1970 of a date or date and time; without a time zone it is UTC."""
    try:
        date = datetime.fromisoformat(time)
    except ValueError as error:
        found = f"time {time!r:.60} is no date, and not all times are numbers"
        raise DataError(
            found, hint="write all times as numbers, or all as in 2024-02-01 or 2024-02-01T09:30"
        ) from error
    return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()


def with_unseen_labels(label_hashes: np.ndarray, positives: Positives, share: float) -> np.ndarray:
    """All queries of some labels, which are chosen by the hash of their uid until `share` of the queries is taken.

    Labels with more than a tenth of that budget are never chosen: one alone would be the test split.
    """
    counts = np.bincount(positives.indices, minlength=len(label_hashes))
    budget = share * len(positives)
    order = np.argsort(label_hashes, kind="stable")
    order = order[(counts[order] > 0) & (counts[order] <= max(1, budget / 10))]
    unseen = np.zeros(len(counts), dtype=bool)
    unseen[order[np.cumsum(counts[order]) <= max(budget, 1)]] = True
    rows = np.zeros(len(positives), dtype=bool)
    rows[np.repeat(np.arange(len(positives)), positives.counts)[unseen[positives.indices]]] = True
    if not rows.any() or rows.all():
        raise DataError("no labels can be held back", hint="give another --test_share, or split otherwise")
    return rows


def stratified(uid_hashes: np.ndarray, positives: Positives, share: float) -> np.ndarray:
    """Iterative stratification by the library `iterative-stratification`.

    It takes a dense matrix, so it is run on blocks of queries and the labels in them. Queries are sorted by their
    rarest label first: the examples of a rare label meet in one block, and frequent labels are balanced in each. The
    library takes more queries than it is asked for where labels are rare; the next block makes up for it.
    """
    from iterstrat.ml_stratifiers import MultilabelStratifiedShuffleSplit

    counts = np.bincount(positives.indices, minlength=1)
    row_of_pair = np.repeat(np.arange(len(positives)), positives.counts)
    rarest = np.full(len(positives), np.iinfo(np.int64).max)
    by_rarity = counts[positives.indices] * (len(counts) + 1) + positives.indices
    np.minimum.at(rarest, row_of_pair, by_rarity)
    order = np.lexsort((uid_hashes, rarest))
    rows = np.zeros(len(positives), dtype=bool)
    for start in range(0, len(order), BLOCK):
        block = order[start : start + BLOCK]
        part = positives.take(block)
        labels, columns = np.unique(part.indices, return_inverse=True)
        dense = np.zeros((len(block), max(len(labels), 2)), dtype=np.int64)
        dense[np.repeat(np.arange(len(block)), part.counts), columns] = 1
        size = round(share * (start + len(block))) - int(rows.sum())
        if 0 < size < len(block):
            splitter = MultilabelStratifiedShuffleSplit(n_splits=1, test_size=size, random_state=0)
            _, test = next(splitter.split(dense, dense))
            rows[block[test]] = True
    return rows
