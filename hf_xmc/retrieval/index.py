"""The label index: label embeddings to search, with the label table that describes them."""

from __future__ import annotations

import logging
import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import faiss
import numpy as np

from hf_xmc.data.arrow import as_rows, read_table, write_parquet
from hf_xmc.data.checksums import MANIFEST, check_manifest, forget_checksums
from hf_xmc.data.documents import read_arrays, read_document, write_document
from hf_xmc.data.files import replacing
from hf_xmc.data.transaction import OURS, read_whole, transaction
from hf_xmc.data.writing import remove
from hf_xmc.errors import DataError, ModelFolderError, SettingsError
from hf_xmc.retrieval.auto import build_measured
from hf_xmc.retrieval.bags import Bags, search_bags
from hf_xmc.retrieval.catalogue import Catalogue, check_table, rows_of, table_fingerprint
from hf_xmc.retrieval.factories import FACTORIES, REPLACED
from hf_xmc.retrieval.faiss_file import DEAD, FaissFile, check_faiss_file
from hf_xmc.retrieval.fingerprint import same_encoder
from hf_xmc.retrieval.folder import fetch_folder
from hf_xmc.retrieval.label_kinds import NAME, SYNONYM, LabelTexts
from hf_xmc.retrieval.pooling import Pooling
from hf_xmc.retrieval.search import as_matrix, as_topk
from hf_xmc.retrieval.vectors import VectorIndex
from hf_xmc.types import TopK

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset

logger = logging.getLogger(__name__)
FORMAT = 2
LABELS, INDEX, ABOUT = "labels.parquet", "index/index.faiss", "index/index.json"
VECTORS = "index/vectors.safetensors"  # the same vectors, for those who do not trust a FAISS file
TEXTS = ("best", "mean", "rich")
DEPTH = 200  # candidates by their best text that a soft maximum is computed for, at least


class LabelIndex:
    """Label embeddings in FAISS under the ids of their label table.

    Ids are rows of `labels` and never change: a removed label keeps its row, and a new label gets the next one.

    >>> from datasets import Dataset
    >>> labels = Dataset.from_dict({"uid": ["a", "b"], "text": ["red", "blue"]})
    >>> index = LabelIndex.build(np.eye(2), labels)
    >>> index.search(np.array([[0.2, 0.9]]), k=3).ids.tolist()
    [[1, 0, -1]]
    """

    def __init__(self, index: VectorIndex, catalogue: Catalogue, about: Mapping[str, Any]) -> None:
        self.index = index
        self.catalogue = catalogue
        self.about = {"texts": "best", "encoder_fingerprint": None, "head_fingerprint": None, **about}
        given = self.about.get("pooling")
        self.pooling = Pooling.from_dict(given) if self.about["texts"] == "rich" and given else None
        check_pooling(self.pooling, self.about.get("factory", ""))

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
        pooling: Pooling | None = None,
    ) -> LabelIndex:
        """Index a catalogue.

        Args:
            embeddings: one row per label, `[L, D]`, array or tensor, compared by dot product. With `label_ids`, one
                row per text, `[M, D]`.
            labels: the label table (`uid`, `text`, ...), or the texts alone; row number = label id.
            factory: `"flat"` for exact search, another one of `hf_xmc.retrieval.factories.FACTORIES`, or `"auto"` to
                choose by the size of the catalogue.
            label_ids: the label of each row of `embeddings`, `[M]`, if labels have several texts
                ([`hf_xmc.retrieval.catalogue.all_texts`] lists them). Every label needs at least one.
            texts: how a label with several texts scores: as the `"best"` of them; as their `"mean"`, for which one
                vector is kept; or `"rich"`, by `pooling`, for which the embeddings are those of all texts of the label
                table in the order of [`hf_xmc.retrieval.label_kinds.LabelTexts`].
            encoder_fingerprint: fingerprint of the model that made the embeddings ([`encoder_fingerprint`]);
                embeddings of another model are then rejected.
            head_fingerprint: fingerprint of its label head, if the embeddings include per-label vectors.
            recall_target: share of the true first ten labels that an approximate index should find. The search effort
                is raised to reach it; the measured recall is in `index.about["recall_at_10"]`.
            sample_queries: embeddings `[n, D]` to measure recall on; by default label embeddings with noise.
            pooling: weights by kind of text, and how the scores of texts become that of a label.

        Raises:
            SettingsError: an unknown factory.
            DataError: embeddings and labels that do not fit.
        """
        start = time.perf_counter()
        if factory in REPLACED:
            logger.warning(f"{factory} indexes are no longer built; building {REPLACED[factory]} instead.")
            factory = REPLACED[factory]
        for name, given, known in (("factory", factory, (*FACTORIES, "auto")), ("texts", texts, TEXTS)):
            if given not in known:
                raise SettingsError(f"{name} is {given!r}; expected one of {', '.join(known)}")
        catalogue = Catalogue(labels)
        pooling = (pooling or Pooling()) if texts == "rich" else None
        check_pooling(pooling, factory)
        shares = shares_of(pooling, catalogue.arrow, label_ids)
        all_ids = np.arange(len(catalogue))
        matrix, ids = rows_of(as_matrix(embeddings), label_ids, all_ids, kept(texts, pooling), shares)
        sample = None if sample_queries is None else as_matrix(sample_queries)
        index, measured = build_measured(factory, matrix, ids, recall_target, sample)
        seconds = time.perf_counter() - start
        made_by = {"encoder_fingerprint": encoder_fingerprint, "head_fingerprint": head_fingerprint}
        how = {"texts": texts, **({} if pooling is None else {"pooling": pooling.to_dict()})}
        return cls(index, catalogue, {**measured, "build_seconds": seconds, **how, **made_by})

    @classmethod
    def of_vectors(
        cls, label_ids: np.ndarray, matrix: np.ndarray, catalogue: Catalogue, about: Mapping[str, Any]
    ) -> LabelIndex:
        """A flat index of vectors `[M, D]` under the ids `[M]` of a label table, without removed labels."""
        return cls(VectorIndex.build("flat", matrix, label_ids), catalogue, about)

    @property
    def labels(self) -> Dataset:
        """The label table; row number = label id, including removed labels."""
        return self.catalogue.table

    @property
    def has_several_texts(self) -> bool:
        """Whether labels are scored by more than their names."""
        return self.about["texts"] != "best" or self.index.num_rows > len(self)

    @property
    def removed(self) -> set[int]:
        """Ids of removed labels."""
        return self.catalogue.removed

    @property
    def factory(self) -> str:
        """The kind of index, chosen by `"auto"` if that was asked for."""
        return self.index.factory

    @property
    def dimension(self) -> int:
        """Dimension of the vectors."""
        return self.index.d

    @property
    def parameters(self) -> dict[str, int]:
        """Parameters of the kind of index, such as `efSearch`."""
        return self.index.parameters

    def __len__(self) -> int:
        """Number of labels that can be found, without removed ones."""
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
            queries: embeddings `[N, D]`, array or tensor, or [`Bags`] of passages.
            k: if it is larger than the number of labels, the remaining columns are padding (id -1, score -inf).
            allowed, forbidden: return only these labels, or none of them: ids, or a bool mask over all rows of the
                label table.
            where: a value, or a list of values, for columns of the label table; only labels with one of them are
                returned. A column of lists (`{"parents": "topic_0003"}`) matches if its list contains the value.
            encoder_fingerprint: fingerprint of the model that made the queries.
        """
        if isinstance(queries, Bags):
            return search_bags(self, queries, k, allowed=allowed, forbidden=forbidden, where=where)
        matrix = as_matrix(queries)
        self.check(matrix, encoder_fingerprint, "queries")
        if k < 1:
            raise SettingsError(f"k is {k}; it must be at least 1")
        mask = self.catalogue.allowed_rows(allowed, forbidden, where)
        found = min(k, len(self) if mask is None else int(mask.sum()))
        if not found:
            return as_topk(np.empty((len(matrix), 0), np.int64), np.empty((len(matrix), 0), np.float32), k)
        if self.pooling is not None and self.pooling.pool == "logsumexp":
            scores, ids = self.pooled(matrix, found, mask)
        elif self.index.num_rows > len(self):
            scores, ids = self.index.search_labels(matrix, found, mask)
        else:
            scores, ids = self.index.search(matrix, found, mask)
        return as_topk(ids, scores, k)

    def pooled(self, queries: np.ndarray, k: int, mask: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """Scores and ids of the k labels of the largest soft maximum, `[N, k]`: exact for the candidates, which are
        the labels of the best single texts."""
        assert self.pooling is not None
        width = min(max(2 * k, DEPTH), len(self) if mask is None else int(mask.sum()))
        _, candidates = self.index.search_labels(queries, width, mask)
        wanted = np.unique(candidates[candidates >= 0])
        starts, vectors = self.index.rows_of_labels(wanted)
        texts = LabelTexts.of(self.catalogue.arrow.take(as_rows(wanted)))
        shares = self.pooling.shares(texts.labels, texts.kinds)
        used = shares > 0
        counts = np.bincount(texts.labels[used], minlength=len(wanted))
        if not np.array_equal(counts, np.diff(np.append(starts, len(vectors)))):
            raise ModelFolderError(
                "the index and the label table disagree on the texts of a label", hint="build it again (hf-xmc index)"
            )
        scores = np.full(candidates.shape, -np.inf, np.float32)
        for row, (query, ids) in enumerate(zip(queries, candidates, strict=True)):
            found = ids >= 0
            places = np.searchsorted(wanted, ids[found])
            own, first = spans(starts[places], counts[places])
            scores[row, found] = self.pooling.of_texts(vectors[own] @ query, first, shares[used][own])
        order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        return np.take_along_axis(scores, order, 1), np.take_along_axis(candidates, order, 1)

    def vectors(self, label_ids: Any = None) -> np.ndarray:
        """The stored vectors of labels, float32 `[n, D]`; of a label with several texts one of them. An index by codes
        returns what it keeps, which is rounded.

        Args:
            label_ids: ids `[n]`; by default those of all labels that are not removed, in ascending order.

        Raises:
            NotInIndex: an id that is not in the index (also a KeyError).

        >>> from datasets import Dataset
        >>> labels = Dataset.from_dict({"uid": ["a", "b"], "text": ["red", "blue"]})
        >>> LabelIndex.build(np.eye(2), labels).vectors([1]).tolist()
        [[0.0, 1.0]]
        """
        if label_ids is None:
            label_ids = [row for row in range(self.catalogue.num_rows) if row not in self.removed]
        ids = self.catalogue.known(label_ids)
        return self.index.vectors_of(ids) if len(ids) else np.empty((0, self.dimension), np.float32)

    def text_vectors(self, label_ids: Any) -> tuple[LabelTexts, np.ndarray] | None:
        """The texts that some labels are searched by, numbered by their label's place among the rising ids, and their
        vectors, `[m, D]`; None if the index does not keep the texts of a label apart.

        Args:
            label_ids: rising, `[n]`.
        """
        if kept(self.about["texts"], self.pooling) == "mean" or self.index.kind == "ivf":
            return None
        ids = np.asarray(label_ids, np.int64)
        texts = LabelTexts.of(self.catalogue.arrow.take(as_rows(ids)))
        if self.pooling is not None:
            texts = texts.take(self.pooling.shares(texts.labels, texts.kinds) > 0)
        starts, vectors = self.index.rows_of_labels(ids)
        counts = np.bincount(texts.labels, minlength=len(ids))
        same = np.array_equal(counts, np.diff(np.append(starts, len(vectors))))
        return (texts, vectors) if same else None

    def all_vectors(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Label ids `[m]` and vectors `[m, D]` of all labels that are not removed, in batches; a label with several
        texts is repeated."""
        return self.index.all_rows()

    def current(self) -> AbstractContextManager[None]:
        """A context in which the labels are up to date and stay as they are. An index in FAISS changes only if this
        process changes it, so there is nothing to do."""
        return nullcontext()

    def ids_where(self, **columns: Any) -> np.ndarray:
        """Ids of the labels whose columns have these values; see `where` of `search`."""
        return self.catalogue.ids_where(**columns)

    def add(
        self,
        embeddings: Any,
        labels: Dataset | Sequence[str],
        label_ids: Any = None,
        encoder_fingerprint: str | None = None,
    ) -> np.ndarray:
        """Add labels, which can be found immediately; returns their new ids, int64 `[n]`.

        Columns that the new labels lack are empty, and columns that the label table lacks are dropped. Bare texts get
        an unused number as uid. Arguments are as in `build`; `label_ids` are rows of the new `labels`.

        Raises:
            ValueError: a uid that is in the index or is repeated, a number of embeddings that does not fit, columns
                of another type, another encoder. Nothing is added then.
        """
        matrix = as_matrix(embeddings)
        self.check(matrix, encoder_fingerprint, "embeddings")
        rows = self.catalogue.rows_for(labels)
        new = self.catalogue.num_rows + np.arange(len(rows))
        matrix, ids = self.rows_to_add(matrix, rows, label_ids, new)
        self.index.add(matrix, ids)
        return self.catalogue.append(rows)

    def remove(self, label_ids: Sequence[int]) -> None:
        """Remove labels.

        Raises:
            KeyError: an id that is not in the index. Nothing is removed then.
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
        kinds: Sequence[str] | None = None,
    ) -> None:
        """Replace the embeddings of labels, which keep their ids.

        Args:
            label_ids: the label of each embedding, `[m]`; a label with several texts is repeated.
            embeddings: the new embeddings, `[m, D]`.
            texts: new texts, `[m]`. The first of a label becomes its `text`, the others its `texts`, if the label
                table has that column. By default the label table stays as it is.
            kinds: of the texts, `[m]`, the first of each label being its name; by default the others are synonyms.

        Raises:
            KeyError: an id that is not in the index.
            ValueError: embeddings or texts that do not fit, or another encoder. Nothing is changed in either case.
        """
        matrix = as_matrix(embeddings)
        self.check(matrix, encoder_fingerprint, "embeddings")
        ids, given, order = by_label(self.catalogue.known(label_ids), len(matrix))
        texts, kinds = reordered(texts, order), reordered(kinds, order)
        matrix, rows = self.rows_to_replace(matrix[order], ids, given, texts, kinds)
        if texts is not None:
            self.catalogue.set_texts(ids[given], texts, kinds)
        self.index.remove(ids)
        self.index.add(matrix, rows)

    def rows_to_replace(
        self,
        matrix: np.ndarray,
        ids: np.ndarray,
        given: np.ndarray,
        texts: Sequence[str] | None,
        kinds: Sequence[str] | None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """New rows of labels and the label id of each.

        Args:
            matrix: embeddings of the texts, `[m, D]`.
            ids, given: the labels, rising, and which of them each embedding belongs to, `[m]`, rising.
            texts, kinds: as in `update`.
        """
        shares = None
        if self.pooling is not None:
            said = self.catalogue.kinds_of(ids) if texts is None else kinds or named_first(given)
            if len(said) != len(given):
                raise DataError(f"{len(given):,} embeddings for labels with {len(said):,} texts; give all of them")
            shares = self.pooling.shares(given, said)
        return rows_of(matrix, given, ids, kept(self.about["texts"], self.pooling), shares)

    def rows_to_add(self, matrix: np.ndarray, rows: pa.Table, label_ids: Any, new: np.ndarray) -> Any:
        """Rows of new labels with these ids, and the label id of each."""
        shares = shares_of(self.pooling, rows, label_ids)
        owners = np.arange(len(rows)) if shares is not None and label_ids is None else label_ids
        return rows_of(matrix, owners, new, kept(self.about["texts"], self.pooling), shares)

    def set_value(self, label_id: int, column: str, value: Any) -> None:
        """Give a label another value in a column that the embeddings do not depend on, such as a definition.

        Raises:
            NotInIndex: an id or a column that is not in the index (also a KeyError).
            SettingsError: the column of uids.

        >>> from datasets import Dataset
        >>> index = LabelIndex.build(np.eye(1), Dataset.from_dict({"uid": ["a"], "text": ["red"], "note": ["old"]}))
        >>> index.set_value(0, "note", "new")
        >>> index.labels[0]["note"]
        'new'
        """
        [row] = self.catalogue.known([label_id]).tolist()
        self.catalogue.set_value(row, column, value)

    def to(self, device: Any) -> LabelIndex:
        """Search a flat index on a torch device, by matrix products; `"cpu"` means FAISS again.

        Raises:
            SettingsError: another kind of index.
        """
        self.index.to(device)
        return self

    def check(self, matrix: np.ndarray, fingerprint: str | None, what: str) -> None:
        """Reject embeddings `[n, D]` of another model; `what` names them in the message.

        Raises:
            ModelFolderError: another dimension or fingerprint than those of the index.
        """
        if matrix.shape[1] != self.dimension:
            raise ModelFolderError(
                f"The {what} have {matrix.shape[1]} dimensions, the index {self.dimension}; "
                "was it built by another model?"
            )
        if not same_encoder(fingerprint, self.about["encoder_fingerprint"]):
            raise ModelFolderError(
                f"The {what} come from another encoder (fingerprint {fingerprint}) than the index "
                f"({self.about['encoder_fingerprint']})",
                hint="rebuild the index with this model (hf-xmc index)",
            )

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write `labels.parquet` and `index/` into a folder, such as that of a model."""
        with (
            transaction(folder) as staging,
            replacing(staging / ABOUT) as description,
            replacing(staging / INDEX) as vectors,
        ):
            forget_checksums(staging)
            remove(staging / VECTORS)  # of the index before
            self.index.write(vectors)
            about = {
                **self.about,
                "format": FORMAT,
                "factory": self.factory,
                "parameters": self.parameters,
                "dimension": self.dimension,
                "num_labels": len(self),
                "num_rows": self.index.num_rows,
                "removed": sorted(self.removed),
                "labels_fingerprint": table_fingerprint(self.catalogue.arrow),
                "size_bytes": vectors.stat().st_size,
                "faiss_version": faiss.__version__,
            }
            write_document(about, description, ABOUT)
            write_parquet(self.labels, staging / LABELS)

    @classmethod
    def from_pretrained(
        cls,
        name_or_folder: str | os.PathLike[str],
        memory_map: bool = False,
        trust_index: bool = True,
        **hub: Any,
    ) -> LabelIndex:
        """Load from a folder or a Hub repository (`revision`, `token`, ... are passed to the Hub).

        Args:
            memory_map: keep the vectors in the file, which processes then share, until the first change.
            trust_index: False reads the vectors from `index/vectors.safetensors` and builds the index here, so that
                FAISS parses no file; [`XMCPipeline.from_pretrained`] can also do without that file.

        Raises:
            ModelFolderError: there is no index, its files do not fit together, or one is not as it was saved.
        """
        ignored = [] if trust_index else [INDEX]
        folder = fetch_folder(name_or_folder, [LABELS, "index/*", MANIFEST], ignored, **hub)
        names = (LABELS, ABOUT, INDEX if trust_index else VECTORS)

        def read() -> LabelIndex:
            check_manifest(folder, names)
            return cls.read(folder, memory_map) if trust_index else cls.read_vectors(folder)

        return read_whole(folder, read, lambda: names)

    @classmethod
    def read(cls, folder: Path, memory_map: bool = False) -> LabelIndex:
        """Load from a folder of which the checksums have been compared; see `from_pretrained`."""
        rebuild = f"build the index with hf-xmc index {folder} --dataset NAME"
        for name in (LABELS, INDEX, ABOUT):
            if not (folder / name).is_file():
                raise ModelFolderError(f"no {name}", folder, hint=rebuild)
        about = read_about(folder, rebuild)
        catalogue = read_catalogue(folder, about, rebuild)
        file = check_faiss_file(folder / INDEX, about["factory"], catalogue.num_rows)
        check_rows(folder, file, catalogue, about, rebuild)
        try:
            index = VectorIndex.read(folder / INDEX, about["factory"], about.get("parameters", {}), memory_map)
        except (RuntimeError, KeyError, ValueError, MemoryError) as error:
            raise ModelFolderError(f"the index cannot be read ({error!s:.200})", folder, hint=rebuild) from error
        return cls(index, catalogue, about)

    @classmethod
    def read_vectors(cls, folder: Path) -> LabelIndex:
        """Build the index of a folder from its `index/vectors.safetensors`, without its FAISS file."""
        rebuild = f"write it with hf-xmc export {folder} --to vectors --output {folder / VECTORS}"
        for name in (LABELS, ABOUT, VECTORS):
            if not (folder / name).is_file():
                raise ModelFolderError(f"no {name}", folder, hint=rebuild)
        about = read_about(folder, rebuild)
        catalogue = read_catalogue(folder, about, rebuild)
        arrays = read_arrays(folder / VECTORS, {"vectors": ("f", 2), "ids": ("i", 1)}, hint=rebuild)
        ids, matrix = arrays["ids"].astype(np.int64), arrays["vectors"]
        if len(ids) != len(matrix) or (len(ids) and not 0 <= ids.min() <= ids.max() < catalogue.num_rows):
            raise ModelFolderError("ids and vectors do not fit the label table", folder / VECTORS, hint=rebuild)
        check_rows(folder, FaissFile(matrix.shape[1], len(ids), ids), catalogue, about, rebuild)
        return cls.of_rows(ids, matrix, catalogue, about)

    @classmethod
    def of_rows(
        cls, label_ids: np.ndarray, matrix: np.ndarray, catalogue: Catalogue, about: Mapping[str, Any]
    ) -> LabelIndex:
        """An index of the kind and with the parameters that a description names, of vectors `[M, D]` under the ids
        `[M]`."""
        factory = REPLACED.get(about["factory"], about["factory"])
        parameters = about.get("parameters", {}) if factory == about["factory"] else {}
        made = VectorIndex.build(factory, np.ascontiguousarray(matrix, np.float32), label_ids, **parameters)
        return cls(made, catalogue, about)

    def push_to_hub(self, repo_id: str, **kwargs: Any) -> str:
        """Upload the files of the index, and nothing else of its folder; returns the address of the commit.

        `private` and `token` are used to create the repository; other arguments go to `HfApi.upload_folder`.
        """
        from huggingface_hub import HfApi

        api = HfApi(token=kwargs.pop("token", None))
        repo_id = api.create_repo(repo_id, private=kwargs.pop("private", None), exist_ok=True).repo_id
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            kwargs.setdefault("commit_message", "Upload label index")
            kwargs.setdefault("delete_patterns", MANIFEST)  # of a tagger that had another index
            kwargs.setdefault("ignore_patterns", f"{OURS}*")
            return str(api.upload_folder(repo_id=repo_id, folder_path=folder, **kwargs))


def read_about(folder: Path, hint: str) -> dict[str, Any]:
    """`index.json` of a folder, its values checked."""
    from hf_xmc.retrieval.schemas import IndexDocument

    return read_document(folder / ABOUT, IndexDocument, FORMAT, hint)


def read_catalogue(folder: Path, about: Mapping[str, Any], hint: str) -> Catalogue:
    """The label table of a folder.

    Raises:
        ModelFolderError: it is damaged, or not the one that the index was built with.
    """
    try:
        table = read_table(folder / LABELS)
        check_table(table, about["removed"])
    except DataError as error:
        raise ModelFolderError(str(error).removeprefix(f"{folder / LABELS}: "), folder / LABELS, hint=hint) from error
    expected = about.get("labels_fingerprint")
    if expected is not None and expected != table_fingerprint(table):
        raise ModelFolderError(
            f"not the label table that {ABOUT} belongs to: other labels, other texts, or another order",
            folder / LABELS,
            hint=hint,
        )
    return Catalogue(table, about["removed"])


def check_rows(folder: Path, file: FaissFile, catalogue: Catalogue, about: Mapping[str, Any], hint: str) -> None:
    """Compare the vectors of an index with its description and its label table: every label that was not removed has
    a vector, and no other one.

    Raises:
        ModelFolderError: vectors of other labels, or of another dimension.
    """
    found = {"dimension": file.dimension, "num_rows": int((file.ids != DEAD).sum()), "num_labels": len(catalogue)}
    if other := [name for name in found if about.get(name) not in (None, found[name])]:
        name = other[0]
        raise ModelFolderError(f"{ABOUT} says {name} {about[name]:,}, found {found[name]:,}", folder, hint=hint)
    held = np.bincount(file.ids[file.ids != DEAD], minlength=catalogue.num_rows) > 0
    live = np.ones(catalogue.num_rows, bool)
    live[list(catalogue.removed)] = False
    if not np.array_equal(held, live):
        row = int((held != live).argmax())
        what = "has no vector" if live[row] else "was removed and has a vector"
        raise ModelFolderError(f"the label in row {row:,} of {LABELS} {what}", folder / INDEX, hint=hint)


def check_pooling(pooling: Pooling | None, factory: str) -> None:
    """Raise a SettingsError if an index of this kind cannot score by this pooling."""
    if pooling is not None and pooling.pool == "logsumexp" and factory.startswith("ivf"):
        raise SettingsError(
            f"a {factory} index cannot score labels by a soft maximum of their texts",
            hint='use the pool "max" or "mean"',
        )


def kept(texts: str, pooling: Pooling | None) -> str:
    """What an index keeps of labels with several texts: a row for each of them (`"best"`), or their `"mean"`."""
    return texts if pooling is None else "mean" if pooling.pool == "mean" else "best"


def shares_of(pooling: Pooling | None, labels: pa.Table, label_ids: Any) -> np.ndarray | None:
    """The share of each embedding of some labels; None if the index does not tell kinds apart.

    Raises:
        DataError: the embeddings are not those of all texts.
    """
    if pooling is None:
        return None
    texts = LabelTexts.of(labels)
    given = np.arange(len(labels)) if label_ids is None else np.asarray(label_ids)
    if not np.array_equal(given, texts.labels):
        raise DataError(
            f"Found {len(given):,} embeddings for {len(texts):,} texts of {len(labels):,} labels",
            hint="encode all texts of the label table, in the order of LabelTexts.of(labels)",
        )
    return pooling.shares(texts.labels, texts.kinds)


def by_label(label_ids: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The labels of `count` embeddings, rising; for each embedding its place among these, rising; and the order of the
    embeddings that makes it rise."""
    if len(label_ids) != count:
        raise DataError(f"Found {count:,} embeddings and {len(label_ids):,} label_ids; give one id per row")
    order = np.argsort(label_ids, kind="stable")
    ids, given = np.unique(label_ids[order], return_inverse=True)
    return ids, given, order


def reordered(texts: Sequence[str] | None, order: np.ndarray) -> list[str] | None:
    """Texts in another order."""
    if texts is not None and len(texts) != len(order):
        raise DataError(f"Found {len(texts):,} texts for {len(order):,} embeddings; give one text per row")
    return None if texts is None else [texts[place] for place in order]


def named_first(labels: np.ndarray) -> list[str]:
    """Kinds of texts of labels `[m]`, those of a label together: a name and synonyms."""
    return [NAME if not place or labels[place] != labels[place - 1] else SYNONYM for place in range(len(labels))]


def spans(starts: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The numbers from each start on, `counts` of them, one after another; and where those of each start.

    >>> [its.tolist() for its in spans(np.array([5, 0]), np.array([2, 3]))]
    [[5, 6, 0, 1, 2], [0, 2]]
    """
    first = np.cumsum(counts) - counts
    return np.repeat(starts - first, counts) + np.arange(int(counts.sum())), first
