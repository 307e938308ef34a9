"""The parents of labels, from the label table or from a file of pairs, as ids."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from datasets import Dataset

from hf_xmc.data.files import lines
from hf_xmc.errors import DataError


def parents_of_table(labels: Dataset) -> np.ndarray | None:
    """Pairs (child id, parent id) `[E, 2]` of a label table whose column `parents` lists uids; None without one.

    >>> parents_of_table(Dataset.from_dict({"uid": ["a", "b"], "parents": [[], ["a", "elsewhere"]]})).tolist()
    [[1, 0], [1, 2]]
    """
    if "parents" not in labels.column_names:
        return None
    rows = zip(labels["uid"][:], labels["parents"][:], strict=True)
    return _as_ids(((uid, parent) for uid, parents in rows for parent in parents or []), labels["uid"][:])


def read_parents(path: str | Path, label_uids: list[str]) -> np.ndarray:
    """Pairs (child id, parent id) `[E, 2]` from a tab-separated file of uids with a header line.

    Uids that the label table does not have are nodes between labels: they get ids above those of the labels.

    Raises:
        DataError: no such file, a line without two uids, or not one label among the children.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError("no such file", path, hint="give lines of child uid, tab, parent uid, below a header line")
    pairs = []
    for line, text in lines(path):
        child, tab, parent = text.strip().partition("\t")
        if not text.strip():
            continue
        if not tab or not parent or "\t" in parent:
            raise DataError(f"found {text!r:.60}", path, line, "expected child uid, tab, parent uid")
        if line > 1:
            pairs.append((child, parent))
    if not {child for child, _ in pairs} & set(label_uids):
        raise DataError("none of its children is a label", path, hint="is it the hierarchy of another label table?")
    return _as_ids(pairs, label_uids)


def _as_ids(pairs: Iterable[tuple[str, str]], label_uids: Iterable[str]) -> np.ndarray:
    ids = {uid: i for i, uid in enumerate(label_uids)}
    found = [[ids.setdefault(uid, len(ids)) for uid in pair] for pair in pairs]
    return np.asarray(found, dtype=np.int64).reshape(-1, 2)
