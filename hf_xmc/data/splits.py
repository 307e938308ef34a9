"""Cutting a validation split from the training split."""

from __future__ import annotations

from collections import Counter
from hashlib import blake2b

SHARE = 10  # one query in ten


def uid_hash(uid: str) -> int:
    """A hash of the uid that is the same on every machine and in every run."""
    return int.from_bytes(blake2b(uid.encode("utf-8"), digest_size=8).digest(), "big")


def validation_rows(uids: list[str], labels: list[list[int]]) -> list[int]:
    """Rows to move from training to validation: a tenth, chosen by the hash of the uid, so that a query falls on the
    same side wherever and in whatever order the set is cut.

    A query stays in training if a label would be left without a training example. Candidates are tried in the order
    of their hash, which keeps this rule independent of the order of the rows as well.

    >>> uids = [f"q{i}" for i in range(1000)]
    >>> 70 < len(validation_rows(uids, [[0]] * 1000)) < 130
    True
    >>> validation_rows(uids, [[i] for i in range(1000)])  # each holds the only example of its label
    []
    """
    left = Counter(label for row in labels for label in row)
    hashes = [uid_hash(uid) for uid in uids]
    candidates = sorted((h, uids[row], row) for row, h in enumerate(hashes) if h % SHARE == 0)
    chosen = []
    for _, _, row in candidates:
        if all(left[label] > 1 for label in labels[row]):
            chosen.append(row)
            left.subtract(labels[row])
    return sorted(chosen)
