"""Splits: as given, random, by time, by label or stratified; and the validation split that is cut from training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

import numpy as np

from hf_xmc.errors import DataError, SettingsError
from hf_xmc.types import Positives

SPLITS = ("train", "validation", "test")
Strategy = Literal["given", "random", "time", "label", "stratified"]
STRATEGIES = ("given", "random", "time", "label", "stratified")
SHARE = 10  # one query in ten
SUITED_SHARE, SUITED_QUERIES = 0.15, 1000  # of the training queries, or this many where that is fewer
MOST_SUITED = 4000  # validation queries that are enough for any choice; the rest trains
CALIBRATION = 40  # validation queries without which nothing can be calibrated
NO_TIME = ("", "nan", "nat", "none", "null")
BLOCK = 1000  # queries that are stratified together


@dataclass(frozen=True)
class SplitOptions:
    """How to split. Every strategy but `given` pools all splits of the source and takes a new test split from them.

    Args:
        strategy: `given`: the splits of the source; `random`: by a hash of the uid; `time`: the newest queries become
            the test split; `label`: test queries have labels that no training query has (zero-shot); `stratified`:
            each label has the same share of its queries in the test split (iterative stratification, Sechidis et al.
            2011).
        test_share: approximate share of the queries in the test split.
        validation: how many training queries are cut for validation where the source has none. `tenth`: one in ten,
            less those that are the last example of a label; `suited`: a tenth, or 1,000 or 15 % where that is more,
            after leaving out last examples, at most 4,000, and at least the 40 that a calibration needs.
    """

    strategy: Strategy = "given"
    test_share: float = 0.1
    validation: Literal["tenth", "suited"] = "tenth"

    def __post_init__(self) -> None:
        if self.validation not in ("tenth", "suited"):
            raise SettingsError(f"invalid validation {self.validation!r}", hint="expected tenth or suited")
        if self.strategy not in STRATEGIES:
            raise SettingsError(f"invalid --split {self.strategy!r}", hint=f"expected one of {', '.join(STRATEGIES)}")
        if not 0 < self.test_share < 1:
            raise SettingsError(f"invalid --test_share {self.test_share}", hint="give a number between 0 and 1")


def suited_to(source: str, builder: str | None = None) -> Literal["tenth", "suited"]:
    """How a command cuts the validation split of what a user gives it: so that it suits its number of queries. The
    sample and public sets keep the tenth that published figures were measured on."""
    return "tenth" if source == "sample" or builder is not None else "suited"


def validation_rows(uid_hashes: np.ndarray, positives: Positives) -> np.ndarray:
    """Rows to move from training to validation: a tenth, chosen by the hash of the uid, so that the same queries are
    chosen on every machine and in every order of the rows.

    A query stays in training if it is the last example of a label, or the last one in training. Candidates are tried
    in the order of their hash, so that this rule does not depend on the order of the rows either.

    Args:
        uid_hashes: `hf_xmc.data.ingest.queries.uid_hash` of each uid, uint64 `[N]`.
        positives: of the training split, N rows.

    >>> hashes = np.arange(1000, dtype=np.uint64)
    >>> len(validation_rows(hashes, Positives.from_lists([[0]] * 1000)))
    100
    >>> len(validation_rows(hashes, Positives.from_lists([i] for i in range(1000))))  # the only example each
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


def suited_size(count: int) -> int:
    """How many of some training queries are cut for validation where that is to suit their number.

    >>> [suited_size(count) for count in (12, 100, 400, 2_500, 7_000, 50_000)]
    [1, 40, 60, 375, 1000, 4000]
    """
    size = max(min(count // SHARE, MOST_SUITED), min(SUITED_QUERIES, int(SUITED_SHARE * count)))
    return max(size, CALIBRATION) if count >= 2 * CALIBRATION else size


def suited_rows(uid_hashes: np.ndarray, positives: Positives) -> np.ndarray:
    """Rows to move from training to validation, `suited_size` of them if there are as many, sorted.

    The tenth that `validation_rows` takes comes first, then further queries in the order of their hash. A query stays
    in training if it is the last example of a label, unless fewer than 40 would be left, without which nothing can be
    calibrated: then those whose labels lose least are taken as well.

    Args:
        uid_hashes: uint64 `[N]`.
        positives: of the training split, N rows.

    >>> len(suited_rows(np.arange(400, dtype=np.uint64), Positives.from_lists([[0]] * 400)))
    60
    >>> len(suited_rows(np.arange(400, dtype=np.uint64), Positives.from_lists([i] for i in range(400))))
    40
    """
    size, source = suited_size(len(positives)), positives.numpy()
    left = np.bincount(source.indices, minlength=1).tolist()
    order = np.lexsort((uid_hashes, uid_hashes % np.uint64(SHARE)))
    chosen: list[int] = []
    waiting: list[tuple[int, int]] = []  # labels that would lose their last example, and row
    for row in order.tolist():
        if len(chosen) >= size:
            break
        labels = source.row(row).tolist()
        if all(left[label] > 1 for label in labels):
            chosen.append(row)
            for label in labels:
                left[label] -= 1
        else:
            waiting.append((sum(left[label] <= 1 for label in labels), row))
    missing = min(size, CALIBRATION) - len(chosen)
    if missing > 0 and len(positives) >= 2 * CALIBRATION:
        chosen += [row for _, row in sorted(waiting, key=lambda pair: pair[0])[:missing]]
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
        DataError: a split by time if a query has no time; a split by label that leaves no training or no test queries.
    """
    if options.strategy == "random":
        return mixed(uid_hashes) < options.test_share
    if options.strategy == "time":
        return newest(times, options.test_share)
    if options.strategy == "label":
        return with_unseen_labels(label_hashes, positives, options.test_share)
    return stratified(uid_hashes, positives, options.test_share)


def mixed(hashes: np.ndarray) -> np.ndarray:
    """Hashes mapped to numbers in [0, 1) that are independent of the hash modulo ten (the finaliser of splitmix64)."""
    x = hashes.astype(np.uint64)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (x ^ (x >> np.uint64(31))) / 2.0**64


def newest(times: Sequence[str | None] | None, share: float) -> np.ndarray:
    """The newest rows; queries with the same time stay together. Times are all numbers, or all ISO 8601 dates.

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
    """Seconds since 1970 of a date, or date and time, in UTC if it has no time zone."""
    try:
        date = datetime.fromisoformat(time)
    except ValueError as error:
        found = f"time {time!r:.60} is not a date, and not all times are numbers"
        raise DataError(
            found, hint="write all times as numbers, or all as in 2024-02-01 or 2024-02-01T09:30"
        ) from error
    return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()


def with_unseen_labels(label_hashes: np.ndarray, positives: Positives, share: float) -> np.ndarray:
    """All queries of some labels, which are chosen by the hash of their uid until `share` of the queries is reached.

    Labels with more than a tenth of that number are never chosen, since a few of them would be the whole test split.
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
        raise DataError("no labels can be held out", hint="give another --test_share or another --split")
    return rows


def stratified(uid_hashes: np.ndarray, positives: Positives, share: float) -> np.ndarray:
    """Iterative stratification with the library `iterative-stratification`.

    The library needs a dense matrix, so it is run on blocks of queries and the labels in them. Queries are sorted by
    their rarest label first: the examples of a rare label are in one block, and frequent labels are balanced in each
    block. If labels are rare the library takes more queries than requested; the next block compensates for it.
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
