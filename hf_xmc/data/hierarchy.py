"""The hierarchy of labels: parents from the label table, or from a file of pairs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from datasets import Dataset

from hf_xmc.data.arrow import batches
from hf_xmc.data.dialect import encoding_of
from hf_xmc.data.files import lines
from hf_xmc.errors import DataError


def parents_of_table(labels: Dataset) -> np.ndarray | None:
    """Pairs (child id, parent id) `[E, 2]` of a label table whose column `parents` lists uids; None without that
    column.

    >>> parents_of_table(Dataset.from_dict({"uid": ["a", "b"], "parents": [[], ["a", "elsewhere"]]})).tolist()
    [[1, 0], [1, 2]]
    """
    if "parents" not in labels.column_names:
        return None
    return _as_ids(table_pairs(labels), labels["uid"][:])


def read_parents(path: str | Path, label_uids: list[str]) -> np.ndarray:
    """Pairs (child id, parent id) `[E, 2]` from a tab-separated file of uids with a header line.

    Uids that the label table does not have are nodes between labels: they get ids above those of the labels.

    Raises:
        DataError: the file is missing, a line does not have two uids, or none of the children is a label.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError("no such file", path, hint="expected lines of child uid, tab, parent uid, below a header line")
    pairs = list(file_pairs(path, encoding_of(path)[0]))
    if not {child for child, _ in pairs} & set(label_uids):
        raise DataError("none of its children is a label", path, hint="does it belong to another label table?")
    return _as_ids(pairs, label_uids)


def parent_uids(path: Path, encoding: str | None = None) -> dict[str, list[str]]:
    """The uids of the parents by uid of the child, from a file as in `read_parents`."""
    parents: dict[str, list[str]] = {}
    for child, parent in file_pairs(path, encoding):
        parents.setdefault(child, []).append(parent)
    return parents


def table_pairs(labels: Dataset) -> Iterator[tuple[str, str]]:
    """Uids of child and parent from the column `parents` of a label table."""
    for batch in batches(labels, ["uid", "parents"]):
        for uid, parents in zip(batch["uid"].to_pylist(), batch["parents"].to_pylist(), strict=True):
            yield from ((uid, parent) for parent in parents or [])


def file_pairs(path: Path, encoding: str | None = None) -> Iterator[tuple[str, str]]:
    """Uids of child and parent from a tab-separated file; blank lines are skipped."""
    for line, text in lines(path, encoding):
        child, tab, parent = text.strip().partition("\t")
        if not text.strip():
            continue
        if not tab or not parent or "\t" in parent:
            raise DataError(f"found {text!r:.60}", path, line, "expected child uid, tab, parent uid")
        if line > 1:
            yield child, parent


def _as_ids(pairs: Iterable[tuple[str, str]], label_uids: Iterable[str]) -> np.ndarray:
    ids = {uid: i for i, uid in enumerate(label_uids)}
    found = [[ids.setdefault(uid, len(ids)) for uid in pair] for pair in pairs]
    return np.asarray(found, dtype=np.int64).reshape(-1, 2)
