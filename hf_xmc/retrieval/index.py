"""The label index: label embeddings that can be searched, with the label table that says what they are."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from datasets import Dataset
from huggingface_hub import HfApi

from hf_xmc.data.arrow import read_parquet, write_parquet
from hf_xmc.data.files import replacing
from hf_xmc.errors import DataError
from hf_xmc.retrieval.auto import build_measured
from hf_xmc.retrieval.catalogue import Catalogue, rows_of
from hf_xmc.retrieval.factories import FACTORIES
from hf_xmc.retrieval.fingerprint import same_encoder
from hf_xmc.retrieval.folder import fetch_folder
from hf_xmc.retrieval.search import as_matrix, as_topk
from hf_xmc.retrieval.vectors import VectorIndex
from hf_xmc.types import TopK

FORMAT = 2
LABELS, INDEX, ABOUT = "labels.parquet", "index/index.faiss", "index/index.json"
TEXTS = ("best", "mean")


class LabelIndex:
    """Label embeddings in FAISS under the ids of their label table.

    Ids are rows of `labels` and never change: a removed label keeps its row, a new one gets the next.

    >>> labels = Dataset.from_dict({"uid": ["a", "b"], "text": ["red", "blue"]})
    >>> index = LabelIndex.build(np.eye(2), labels)
    >>> index.search(np.array([[0.2, 0.9]]), k=3).ids.tolist()
    [[1, 0, -1]]
    """

    def __init__(self, index: VectorIndex, catalogue: Catalogue, about: Mapping[str, Any]) -> None:
        self.index = index
        self.catalogue = catalogue
        self.about = {"texts": "best", "encoder_fingerprint": None, "head_fingerprint": None, **about}

    @classmethod
    def build(
        cls,
        embeddings: Any,
        labels: Dataset | Sequence[str],
        factory: str = "flat",
        label_ids: Any = None,
        texts: str = "best",
        encoder_fingerprint: str | None = None,
        head_fingerprint: str | None = None,
        recall_target: float = 0.95,
        sample_queries: Any = None,
    ) -> LabelIndex:
        """Index a catalogue.

        Args:
            embeddings: one row a label, `[L, D]`, array or tensor; compared by dot product. With `label_ids`, one row
                a text, `[M, D]`.
            labels: the label table (`uid`, `text`, ...), or the texts alone; row number = label id.
            factory: `"flat"`, exact search; one of `hf_xmc.retrieval.factories.FACTORIES`; or `"auto"`, by the size of
                the catalogue.
            label_ids: the label of each row of `embeddings`, `[M]`, where labels have several texts
                ([`hf_xmc.retrieval.catalogue.all_texts`] lists them). Every label needs one at least.
            texts: what several texts of a label score: the `"best"` of them, or their `"mean"` (one vector is kept).
            encoder_fingerprint: of the model that made the embeddings ([`encoder_fingerprint`]); embeddings of another
                one are then refused.
            head_fingerprint: of its label head, if the embeddings are from texts and a vector a label.
            recall_target: what share of the true first ten an approximate index shall find. It searches as hard as
                that takes; what it reached stands in `index.about["recall_at_10"]`.
            sample_queries: embeddings `[n, D]` to measure that on; by default label embeddings with noise.

        Raises:
            ValueError: an unknown factory, or embeddings and labels that do not fit.
        """
        start = time.perf_counter()
        for name, given, known in (("factory", factory, (*FACTORIES, "auto")), ("texts", texts, TEXTS)):
            if given not in known:
                raise ValueError(f"{name} is {given!r}; expected one of {', '.join(known)}.")
        catalogue = Catalogue(labels)
        matrix, ids = rows_of(as_matrix(embeddings), label_ids, np.arange(len(catalogue)), texts)
        sample = None if sample_queries is None else as_matrix(sample_queries)
        index, measured = build_measured(factory, matrix, ids, recall_target, sample)
        seconds = time.perf_counter() - start
        made_by = {"encoder_fingerprint": encoder_fingerprint, "head_fingerprint": head_fingerprint}
        return cls(index, catalogue, {**measured, "build_seconds": seconds, "texts": texts, **made_by})

    @property
    def labels(self) -> Dataset:
        """The label table; row number = label id. Removed labels keep their row."""
        return self.catalogue.table

    @property
    def removed(self) -> set[int]:
        """Ids of removed labels."""
        return self.catalogue.removed

    @property
    def factory(self) -> str:
        """The kind of index; what `"auto"` chose."""
        return self.index.factory

    def __len__(self) -> int:
        """Number of labels that can be found."""
        return len(self.catalogue)

    def search(
        self,
        queries: Any,
        k: int = 5,
        allowed: Any = None,
        forbidden: Any = None,
        where: Mapping[str, Any] | None = None,
        encoder_fingerprint: str | None = None,
    ) -> TopK:
        """The k best labels of each query, best first; of equal scores the lower id comes first.

        Args:
            queries: embeddings `[N, D]`, array or tensor.
            k: where it is larger than the number of labels, the rest is padding (id -1, score -inf).
            allowed, forbidden: return these labels only, or none of these: ids, or a bool mask over all rows of the
                label table.
            where: column -> value, or a list of values: return only labels that have one of them in that column of
                the label table, or among its entries where it holds lists (`{"parents": "topic_0003"}`).
            encoder_fingerprint: of the model that made the queries.
        """
        matrix = as_matrix(queries)
        self.check(matrix, encoder_fingerprint, "queries")
        if k < 1:
            raise ValueError(f"k is {k}; it must be at least 1.")
        mask = self.catalogue.allowed_rows(allowed, forbidden, where)
        found = min(k, len(self) if mask is None else int(mask.sum()))
        if not found:
            return as_topk(np.empty((len(matrix), 0), np.int64), np.empty((len(matrix), 0), np.float32), k)
        if self.index.num_rows > len(self):
            scores, ids = self.index.search_labels(matrix, found, mask)
        else:
            scores, ids = self.index.search(matrix, found, mask)
        return as_topk(ids, scores, k)

    def ids_where(self, **columns: Any) -> np.ndarray:
        """Ids of the labels whose columns have these values, as `where` of `search` understands them."""
        return self.catalogue.ids_where(**columns)

    def add(
        self,
        embeddings: Any,
        labels: Dataset | Sequence[str],
        label_ids: Any = None,
        encoder_fingerprint: str | None = None,
    ) -> np.ndarray:
        """Add labels, which can be found at once; returns their new ids, int64 `[n]`.

        Columns that the label table has and the new labels lack are empty for these; others are left out. Bare texts
        get a free number as uid. Arguments as in `build`: `label_ids` are rows of the `labels` given.

        Raises:
            ValueError: a uid that is in the index or stands twice, not one embedding a label, columns of another type,
                another encoder. Nothing is added then.
        """
        matrix = as_matrix(embeddings)
        self.check(matrix, encoder_fingerprint, "embeddings")
        rows = self.catalogue.rows_for(labels)
        new = self.catalogue.num_rows + np.arange(len(rows))
        matrix, ids = rows_of(matrix, label_ids, new, self.about["texts"])
        self.index.add(matrix, ids)
        return self.catalogue.append(rows)

    def remove(self, label_ids: Sequence[int]) -> None:
        """Remove labels: they are found no more.

        Raises:
            KeyError: an id that is not in the index; nothing is removed then.
        """
        ids = np.unique(self.catalogue.known(label_ids))
        self.index.remove(ids)
        self.catalogue.remove(ids)

    def update(
        self,
        label_ids: Any,
        embeddings: Any,
        texts: Sequence[str] | None = None,
        encoder_fingerprint: str | None = None,
    ) -> None:
        """Give labels new embeddings under the ids that they have; those before are found no more.

        Args:
            label_ids: the label of each embedding, `[m]`; one that stands more than once has several texts.
            embeddings: `[m, D]`.
            texts: new texts, `[m]`. A label's first becomes its `text`, the others its `texts`, if the label table has
                that column. By default the label table stays as it is.

        Raises:
            KeyError: an id that is not in the index.
            ValueError: embeddings or texts that do not fit, another encoder. Nothing is changed in either case.
        """
        matrix = as_matrix(embeddings)
        self.check(matrix, encoder_fingerprint, "embeddings")
        ids, given = np.unique(self.catalogue.known(label_ids), return_inverse=True)
        matrix, rows = rows_of(matrix, given, ids, self.about["texts"])
        if texts is not None:
            self.catalogue.set_texts(ids[given], texts)
        self.index.remove(ids)
        self.index.add(matrix, rows)

    def to(self, device: Any) -> LabelIndex:
        """Search on a device of torch: exact, as matrix products. For `flat`, `"cpu"` goes back to FAISS.

        Raises:
            ValueError: another kind of index.
        """
        self.index.to(device)
        return self

    def check(self, matrix: np.ndarray, fingerprint: str | None, what: str) -> None:
        if matrix.shape[1] != self.index.d:
            raise ValueError(
                f"The {what} have {matrix.shape[1]} dimensions, the index {self.index.d}; "
                "was it built by another model?"
            )
        if not same_encoder(fingerprint, self.about["encoder_fingerprint"]):
            raise ValueError(
                f"The {what} come from another encoder (fingerprint {fingerprint}) than the index "
                f"({self.about['encoder_fingerprint']}); build the index again with this model (hf-xmc index)."
            )

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write `labels.parquet` and `index/` into a folder, beside the model if there is one."""
        folder = Path(folder)
        # All that can fill a disk is written before the first file takes its name.
        with replacing(folder / ABOUT) as description, replacing(folder / INDEX) as vectors:
            self.index.write(vectors)
            about = {
                **self.about,
                "format": FORMAT,
                "factory": self.factory,
                "parameters": self.index.parameters,
                "dimension": self.index.d,
                "num_labels": len(self),
                "num_rows": self.index.num_rows,
                "removed": sorted(self.removed),
                "size_bytes": vectors.stat().st_size,
                "faiss_version": faiss.__version__,
            }
            description.write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
            write_parquet(self.labels, folder / LABELS)

    @classmethod
    def from_pretrained(
        cls, name_or_folder: str | os.PathLike[str], memory_map: bool = False, **hub: Any
    ) -> LabelIndex:
        """Load from a folder or a Hub repository (`revision`, `token`, ... are passed on).

        Args:
            memory_map: leave the vectors in the file, which processes then share, until the first change.

        Raises:
            DataError: no index there, or files that do not fit together.
        """
        folder = fetch_folder(name_or_folder, [LABELS, "index/*"], **hub)
        for name in (LABELS, INDEX, ABOUT):
            if not (folder / name).is_file():
                raise DataError(f"no {name}", folder, hint="build the index with hf-xmc index")
        try:
            about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
            if about["format"] > FORMAT:
                raise ValueError(f"format {about['format']}, this version reads {FORMAT}")
            index = VectorIndex.read(folder / INDEX, about["factory"], about.get("parameters", {}), memory_map)
            made = cls(index, Catalogue(read_parquet(folder / LABELS), about["removed"]), about)
        except (RuntimeError, KeyError, ValueError) as error:
            raise DataError(f"the index cannot be read ({error!s:.200})", folder, hint="build it again") from error
        if index.num_rows != about.get("num_rows", len(made)) or index.num_rows < len(made):
            rows = f"{made.catalogue.num_rows:,} rows in {LABELS}"
            found = f"{index.num_rows:,} vectors and {len(made.removed):,} removed labels, but {rows}"
            raise DataError(found, folder, hint="build the index again")
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
