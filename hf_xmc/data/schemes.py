"""Several catalogues in one set: what a query was never asked for is unknown, which is neither true nor false."""

from __future__ import annotations

import numpy as np
from datasets import Dataset

from hf_xmc.errors import DataError
from hf_xmc.types import Positives

SCHEME, SCHEMES = "scheme", "schemes"  # columns of the label table and of the queries
MOST = 5 * 10**8  # unknown pairs that are held in memory


def unknown_pairs(queries: Dataset, labels: Dataset, positives: Positives) -> Positives | None:
    """The labels of the schemes that each query was not annotated with; None where no query says with which it was.

    A query without `schemes` was annotated with all of them. A scheme of which it has a label counts as one that it
    was annotated with; a label without `scheme` is never unknown.

    Args:
        queries: a table with `schemes`, a list of names or nothing, N rows.
        labels: a table with `scheme`, L rows.
        positives: of the queries.

    Raises:
        DataError: a scheme that no label has, or too many pairs to hold.
    """
    if SCHEMES not in queries.column_names or SCHEME not in labels.column_names:
        return None
    names = [name or "" for name in labels[SCHEME][:]]
    known = sorted({*names} - {""})
    number = {name: i for i, name in enumerate(known)}
    of_label = np.array([number.get(name, -1) for name in names], dtype=np.int64)  # [L]
    asked = np.zeros((len(queries), len(known)), dtype=bool)  # [N, schemes]
    for row, given in enumerate(queries[SCHEMES][:]):
        if given is None:
            asked[row] = True
            continue
        if missing := [name for name in given if name not in number]:
            uid, hint = queries[row]["uid"], f"the label table has {', '.join(known) or 'none'}"
            raise DataError(f"query {uid!r} has the scheme {missing[0]!r}, which no label has", hint=hint)
        asked[row, [number[name] for name in given]] = True
    scheme_of_pair = of_label[positives.indices]
    named = scheme_of_pair >= 0
    asked[positives.rows[named], scheme_of_pair[named]] = True
    return labels_outside(asked, of_label)


def labels_outside(asked: np.ndarray, of_label: np.ndarray) -> Positives | None:
    """The labels of the schemes that are not asked for: bool `[N, S]`, and the scheme of each label, `[L]`, -1 for
    none."""
    kinds, place = np.unique(asked, axis=0, return_inverse=True)  # few kinds of queries
    place = place.ravel()
    lists = [np.flatnonzero((of_label >= 0) & ~kind[of_label]) for kind in kinds]
    counts = np.array([len(ids) for ids in lists], dtype=np.int64)[place]
    if counts.sum() > MOST:
        found = f"{counts.sum():,} pairs of a query and a label of a scheme that it was not annotated with"
        raise DataError(found, hint="train a tagger for each scheme")
    if not counts.sum():
        return None
    return Positives(np.concatenate([[0], counts.cumsum()]), np.concatenate([lists[kind] for kind in place]))


def union(one: Positives | None, other: Positives | None) -> Positives | None:
    """The pairs that are in either, without weights.

    >>> found = union(Positives.from_lists([[1], [2]]), Positives.from_lists([[1, 3], []]))
    >>> found.indptr.tolist(), found.indices.tolist()
    ([0, 2, 3], [1, 3, 2])
    """
    if one is None or other is None:
        return other if one is None else one
    size = 1 + int(max(one.indices.max(initial=0), other.indices.max(initial=0)))
    keys = np.union1d(one.numpy().keys(size), other.numpy().keys(size))
    rows, indices = np.divmod(keys, size)
    return Positives(np.concatenate([[0], np.bincount(rows, minlength=len(one)).cumsum()]), indices)
