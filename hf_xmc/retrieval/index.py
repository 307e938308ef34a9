"""The label index: label embeddings that can be searched, with the label table that says what they are."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from itertools import count, islice
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from datasets import Dataset, concatenate_datasets
from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import HFValidationError

from hf_xmc.data.errors import DataError
from hf_xmc.data.files import replacing
from hf_xmc.data.parquet import read_parquet, write_parquet
from hf_xmc.retrieval.search import as_matrix, as_topk, share_threads
from hf_xmc.types import TopK

FACTORIES = ("flat",)
FORMAT = 1
LABELS, INDEX, ABOUT = "labels.parquet", "index/index.faiss", "index/index.json"


class LabelIndex:
    """Label embeddings in FAISS under the ids of their label table.

    Ids are rows of `labels` and never change: a removed label keeps its row, a new one gets the next.

    >>> labels = Dataset.from_dict({"uid": ["a", "b"], "text": ["red", "blue"]})
    >>> index = LabelIndex.build(np.eye(2), labels)
    >>> index.search(np.array([[0.2, 0.9]]), k=3).ids.tolist()
    [[1, 0, -1]]
    """

    def __init__(self, index: faiss.Index, labels: Dataset, factory: str, removed: Sequence[int] = ()) -> None:
        self.index = index
        self.labels = labels
        self.factory = factory
        self.removed = set(removed)

    @classmethod
    def build(cls, embeddings: Any, labels: Dataset | Sequence[str], factory: str = "flat") -> LabelIndex:
        """Index a catalogue.

        Args:
            embeddings: one row a label, `[L, D]`, array or tensor; compared by dot product.
            labels: the label table (`uid`, `text`, ...), or the texts alone; row number = label id.
            factory: `"flat"`, exact search.

        Raises:
            ValueError: an unknown factory, or not one embedding a label.
        """
        if factory not in FACTORIES:
            raise ValueError(f"factory is {factory!r}; expected one of {', '.join(FACTORIES)}.")
        matrix = as_matrix(embeddings)
        made = cls(faiss.IndexIDMap2(faiss.IndexFlatIP(matrix.shape[1])), label_table(labels), factory)
        made.insert(matrix, np.arange(len(made.labels)))
        return made

    def __len__(self) -> int:
        """Number of labels that can be found."""
        return int(self.index.ntotal)

    def search(self, queries: Any, k: int = 5) -> TopK:
        """The k best labels of each query, best first; of equal scores the lower id comes first.

        Args:
            queries: embeddings `[N, D]`, array or tensor.
            k: where it is larger than the number of labels, the rest is padding (id -1, score -inf).
        """
        matrix = as_matrix(queries)
        if matrix.shape[1] != self.index.d:
            raise ValueError(
                f"The queries have {matrix.shape[1]} dimensions, the index {self.index.d}; "
                "was it built by another model?"
            )
        if k < 1:
            raise ValueError(f"k is {k}; it must be at least 1.")
        share_threads()
        found = max(1, min(k, len(self)))
        scores, ids = self.index.search(matrix, found)
        return as_topk(ids, scores, k)

    def add(self, embeddings: Any, labels: Dataset | Sequence[str]) -> np.ndarray:
        """Add labels, which can be found at once; returns their new ids, int64 `[n]`.

        Columns that the label table has and the new labels lack are empty for these; others are left out. Bare texts
        get a free number as uid.

        Raises:
            ValueError: a uid that is in the index or stands twice, not one embedding a label, columns of another type.
                Nothing is added then.
        """
        matrix = as_matrix(embeddings)
        taken = {uid for row, uid in enumerate(self.labels["uid"][:]) if row not in self.removed}
        new = label_table(labels, free_uids(taken, len(self.labels)))
        uids = new["uid"][:]
        repeated = [uid for i, uid in enumerate(uids) if uid in taken or uid in uids[:i]]
        if repeated:
            raise ValueError(f"Label {repeated[0]!r} is in the index already; remove it first, or give another uid.")
        columns = {
            name: new[name][:] if name in new.column_names else [None] * len(new) for name in self.labels.column_names
        }
        table = concatenate_datasets([self.labels, Dataset.from_dict(columns, features=self.labels.features)])
        ids = np.arange(len(self.labels), len(table))
        self.insert(matrix, ids)
        self.labels = table
        return ids

    def remove(self, label_ids: Sequence[int]) -> None:
        """Remove labels: they are found no more.

        Raises:
            KeyError: an id that is not in the index; nothing is removed then.
        """
        ids = np.unique(np.asarray(label_ids, dtype=np.int64))
        for id_ in ids.tolist():
            if not 0 <= id_ < len(self.labels) or id_ in self.removed:
                raise KeyError(f"Label id {id_} is not in the index.")
        self.index.remove_ids(faiss.IDSelectorBatch(ids))
        self.removed |= set(ids.tolist())

    def insert(self, matrix: np.ndarray, ids: np.ndarray) -> None:
        if len(matrix) != len(ids):
            raise ValueError(f"Found {len(matrix):,} embeddings for {len(ids):,} labels; give one row a label.")
        if matrix.shape[1] != self.index.d:
            raise ValueError(f"The embeddings have {matrix.shape[1]} dimensions, the index {self.index.d}.")
        self.index.add_with_ids(matrix, ids)

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write `labels.parquet` and `index/` into a folder, beside the model if there is one."""
        folder = Path(folder)
        about = {
            "format": FORMAT,
            "factory": self.factory,
            "dimension": self.index.d,
            "num_labels": len(self),
            "removed": sorted(self.removed),
            "faiss_version": faiss.__version__,
        }
        # All that can fill a disk is written before the first file takes its name.
        with replacing(folder / ABOUT) as description, replacing(folder / INDEX) as vectors:
            description.write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
            faiss.write_index(self.index, str(vectors))
            write_parquet(self.labels, folder / LABELS)

    @classmethod
    def from_pretrained(cls, name_or_folder: str | os.PathLike[str], **hub: Any) -> LabelIndex:
        """Load from a folder or a Hub repository (`revision`, `token`, ... are passed on).

        Raises:
            DataError: no index there, or files that do not fit together.
        """
        folder = fetch_folder(name_or_folder, [LABELS, "index/*"], **hub)
        for name in (LABELS, INDEX, ABOUT):
            if not (folder / name).is_file():
                raise DataError(f"no {name}", folder, cure="build the index with hf-xmc index")
        try:
            about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
            index = faiss.read_index(str(folder / INDEX))
            made = cls(index, read_parquet(folder / LABELS), about["factory"], about["removed"])
        except (RuntimeError, KeyError, ValueError) as error:
            raise DataError(f"the index cannot be read ({error!s:.200})", folder, cure="build it again") from error
        if len(made) + len(made.removed) != len(made.labels):
            raise DataError(
                f"{len(made):,} vectors and {len(made.removed):,} removed labels, but {len(made.labels):,} rows in "
                f"{LABELS}",
                folder,
                cure="build the index again",
            )
        return made

    def push_to_hub(self, repo_id: str, **kwargs: Any) -> str:
        """Upload the files of the index, and nothing else of its folder; returns the address of the commit.

        `private` and `token` are understood; others go to `HfApi.upload_folder`.
        """
        api = HfApi(token=kwargs.pop("token", None))
        repo_id = api.create_repo(repo_id, private=kwargs.pop("private", None), exist_ok=True).repo_id
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            kwargs.setdefault("commit_message", "Upload label index")
            return str(api.upload_folder(repo_id=repo_id, folder_path=folder, **kwargs))


def label_table(labels: Dataset | Sequence[str], uids: Iterable[str] | None = None) -> Dataset:
    """A label table; for bare texts it is made, with the first of `uids` (by default 0, 1, 2, ...)."""
    if isinstance(labels, Dataset):
        if missing := {"uid", "text"} - set(labels.column_names):
            raise ValueError(f"The label table has columns {labels.column_names}; it needs {sorted(missing)} as well.")
        return labels
    texts = list(labels)
    uids = islice(map(str, count()) if uids is None else uids, len(texts))
    return Dataset.from_dict({"uid": list(uids), "text": texts})


def free_uids(taken: set[str], first: int) -> Iterator[str]:
    """Numbers from `first` on that are no uid yet."""
    return (uid for uid in map(str, count(first)) if uid not in taken)


def fetch_folder(
    name_or_folder: str | os.PathLike[str], allow_patterns: Sequence[str] | None = None, **hub: Any
) -> Path:
    """A trained folder as it is, or that of a Hub repository, downloaded if need be (`only` these patterns).

    Raises:
        DataError: neither a folder nor a name that a repository can have.
    """
    folder = Path(name_or_folder)
    if folder.is_dir():
        return folder
    try:
        patterns = None if allow_patterns is None else list(allow_patterns)
        return Path(snapshot_download(str(name_or_folder), allow_patterns=patterns, **hub))
    except HFValidationError as error:
        raise DataError(
            "no such folder", folder, cure="give a trained folder, or a repository as name/model"
        ) from error
