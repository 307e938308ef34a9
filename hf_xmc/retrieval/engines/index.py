"""The label index over a database."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from hf_xmc.errors import DataError, EngineError, SettingsError
from hf_xmc.retrieval.bags import Bags, search_bags
from hf_xmc.retrieval.catalogue import Catalogue, NotInIndex
from hf_xmc.retrieval.engines.engine import FACTORIES, Address, Engine, Within, as_text, from_text
from hf_xmc.retrieval.index import LabelIndex, by_label, reordered
from hf_xmc.retrieval.search import as_matrix, as_topk
from hf_xmc.types import TopK

if TYPE_CHECKING:
    from datasets import Dataset

KEPT = ("texts", "pooling", "encoder_fingerprint", "head_fingerprint")  # of the index that is copied


class CopiedTable(Catalogue):
    """The label table of an engine as it was last read. What is written here would not reach the engine."""

    def set_texts(self, label_ids: np.ndarray, texts: Sequence[str], kinds: Sequence[str] | None = None) -> None:
        raise SettingsError("this label table is a copy of an engine's", hint="call update of the index")

    def set_value(self, row: int, name: str, value: Any) -> None:
        raise SettingsError("this label table is a copy of an engine's", hint="call set_value of the index")


class EngineIndex(LabelIndex):
    """A [`LabelIndex`] whose vectors and label table are in a database, for many writers, SQL filters and replicas.

    Searches, filters and changes are those of the database. A copy of the label table without vectors stays in memory
    and is brought up to date before every search, by what other processes changed since.

    Args:
        engine: the database.
    """

    def __init__(self, engine: Engine) -> None:
        about = engine.about()
        self.engine, self.version, self.several = engine, 0, False
        self.lock = threading.RLock()
        self.schema = from_text(about.pop("schema"))
        held: Any = engine  # in the place of FAISS; all that uses it is overridden
        super().__init__(held, CopiedTable(self.schema.empty_table()), about)
        self.refresh()

    @classmethod
    def connect(cls, address: str) -> EngineIndex:
        """The index at an address: `postgresql://user@host/database`, `http://host:6333` or `qdrant:FOLDER`, each with
        an optional `#name`. Passwords are better in `PGPASSWORD`, `~/.pgpass` or `QDRANT_API_KEY` than in the address.

        Raises:
            SettingsError: not an address, no index there, or a client that is not installed.
            EngineError: it cannot be reached.
        """
        return cls(engine_class(where := Address.of(address))(where))

    @classmethod
    def copy(
        cls,
        index: LabelIndex,
        address: str,
        kind: str | None = None,
        factory: str = "flat",
        overwrite: bool = False,
    ) -> EngineIndex:
        """Write all labels of an index, with their vectors, to an engine.

        Args:
            index: any label index. The ids stay the same.
            address: as in `connect`.
            kind: `"postgresql"` or `"qdrant"`, for which an address may be a bare folder.
            factory: `"flat"` for exact search, or `"hnsw"` for the engine's graph, which is approximate.
            overwrite: replace an index of the same name.

        Raises:
            SettingsError: there is an index of this name, or an unknown factory.
            EngineError: the engine cannot be reached.
        """
        if factory not in FACTORIES:
            raise SettingsError(f"factory is {factory!r}; an engine has {' and '.join(FACTORIES)}")
        rows = index.catalogue.arrow
        if index.pooling is not None and index.pooling.pool == "logsumexp":
            raise SettingsError(
                "an engine cannot score labels by a soft maximum of their texts",
                hint='build the index with the pool "max" or "mean" first (hf-xmc index --pool)',
            )
        about = {
            **{name: index.about.get(name) for name in KEPT},
            "dimension": index.dimension,
            "factory": factory,
            "schema": as_text(rows.schema),
        }
        where = Address.of(address, kind)
        return cls(
            engine_class(where).create(where, about, rows, index.removed, index.all_vectors(), overwrite=overwrite)
        )

    @property
    def factory(self) -> str:
        return str(self.about["factory"])

    @property
    def dimension(self) -> int:
        return int(self.about["dimension"])

    @property
    def parameters(self) -> dict[str, int]:
        """None: those of a graph are the engine's."""
        return {}

    def state(self) -> str:
        """What identifies the labels as they are now: the index, and the version of its labels."""
        return f"{self.about['id']} {self.version}"

    @contextmanager
    def current(self) -> Iterator[None]:
        """A context in which the labels are up to date and stay as they are in memory; for one thread at a time."""
        with self.lock:
            self.refresh()
            yield

    def refresh(self) -> None:
        """Take over what other processes changed; inside `current` if several threads use the index."""
        found = self.engine.changes(self.version, self.schema)
        if found.id != self.about["id"]:
            raise EngineError(f"the index in {self.engine.address} was replaced", hint="load the tagger again")
        self.version, self.several = found.version, found.several
        if not len(found.ids):
            return
        known = int(np.searchsorted(found.ids, self.catalogue.num_rows))
        if known:
            self.catalogue.replace(found.ids[:known], found.rows.slice(0, known))
        if known < len(found.ids):
            self.catalogue.append(found.rows.slice(known))
        gone = found.ids[found.removed]
        self.catalogue.remove(gone)

    def search(
        self,
        queries: Any,
        k: int = 5,
        allowed: Any = None,
        forbidden: Any = None,
        where: Mapping[str, Any] | None = None,
        encoder_fingerprint: str | None = None,
    ) -> TopK:
        if isinstance(queries, Bags):
            return search_bags(self, queries, k, allowed=allowed, forbidden=forbidden, where=where)
        matrix = as_matrix(queries)
        self.check(matrix, encoder_fingerprint, "queries")
        if k < 1:
            raise SettingsError(f"k is {k}; it must be at least 1")
        with self.current():
            mask = self.mask(allowed, forbidden)
            found = min(k, len(self) if mask is None else int(mask.sum()))
            within = Within(self.catalogue.num_rows, mask, self.columns(where))
            if not found or not len(matrix):
                return as_topk(np.empty((len(matrix), 0), np.int64), np.empty((len(matrix), 0), np.float32), k)
            scores, ids = self.engine.search(matrix, found, within, self.several)
        return as_topk(ids, scores, k)

    def mask(self, allowed: Any, forbidden: Any) -> np.ndarray | None:
        """Which labels may be found, bool `[L]`. A mask from before another process added labels lacks these."""
        given: list[Any] = []
        for ids in (allowed, forbidden):
            known = None if ids is None else np.asarray(ids)
            if known is not None and known.dtype == bool and len(known) < self.catalogue.num_rows:
                known = np.pad(known, (0, self.catalogue.num_rows - len(known)))
            given.append(known)
        return self.catalogue.allowed_rows(given[0], given[1])

    def columns(self, where: Mapping[str, Any] | None) -> dict[str, list[Any]]:
        """Values of columns, each as a list.

        Raises:
            NotInIndex: a column that the label table does not have.
        """
        names = self.schema.names
        if missing := [name for name in where or {} if name not in names]:
            raise NotInIndex(f"The label table has no column {missing[0]!r}; it has {', '.join(names)}")
        several = (list, tuple, set, np.ndarray)
        return {name: [*value] if isinstance(value, several) else [value] for name, value in (where or {}).items()}

    def vectors(self, label_ids: Any = None) -> np.ndarray:
        if label_ids is None:
            label_ids = [row for row in range(self.catalogue.num_rows) if row not in self.removed]
        ids = self.catalogue.known(label_ids)
        return self.engine.vectors_of(ids) if len(ids) else np.empty((0, self.dimension), np.float32)

    def all_vectors(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        return self.engine.all_vectors()

    def add(
        self,
        embeddings: Any,
        labels: Dataset | Sequence[str],
        label_ids: Any = None,
        encoder_fingerprint: str | None = None,
    ) -> np.ndarray:
        matrix = as_matrix(embeddings)
        self.check(matrix, encoder_fingerprint, "embeddings")
        with self.current():
            rows = self.catalogue.rows_for(labels)
            matrix, owners = self.rows_to_add(matrix, rows, label_ids, np.arange(len(rows)))
            ids = self.engine.add(rows, owners, matrix)
            self.refresh()
        return ids

    def remove(self, label_ids: Sequence[int]) -> None:
        with self.current():
            self.engine.remove(np.unique(self.catalogue.known(label_ids)))
            self.refresh()

    def update(
        self,
        label_ids: Any,
        embeddings: Any,
        texts: Sequence[str] | None = None,
        encoder_fingerprint: str | None = None,
        kinds: Sequence[str] | None = None,
    ) -> None:
        matrix = as_matrix(embeddings)
        self.check(matrix, encoder_fingerprint, "embeddings")
        with self.current():
            ids, given, order = by_label(self.catalogue.known(label_ids), len(matrix))
            texts, kinds = reordered(texts, order), reordered(kinds, order)
            matrix, owners = self.rows_to_replace(matrix[order], ids, given, texts, kinds)
            rows = None
            if texts is not None:
                changed = Catalogue(self.catalogue.arrow.take(pa.array(ids)))
                changed.set_texts(given, texts, kinds)
                if changed.arrow.schema.names != self.schema.names:
                    raise SettingsError(
                        "the label table of an engine has no columns texts and kinds",
                        hint="give the labels several texts in the folder, and export it again (hf-xmc export)",
                    )
                rows = changed.arrow
            self.engine.update(ids, rows, owners, matrix)
            self.refresh()

    def set_value(self, label_id: int, column: str, value: Any) -> None:
        with self.current():
            ids = self.catalogue.known([label_id])
            changed = Catalogue(self.catalogue.arrow.take(pa.array(ids)))
            changed.set_value(0, column, value)
            self.engine.set_rows(ids, changed.arrow)
            self.refresh()

    @property
    def has_several_texts(self) -> bool:
        return self.several or self.about["texts"] != "best"

    def text_vectors(self, label_ids: Any) -> None:
        """None: to say which text of a label matched would take another request to the database."""

    def to(self, device: Any) -> LabelIndex:
        if str(device) != "cpu":
            raise SettingsError(f"an index in {self.engine.address} is searched there, not on {device}")
        return self

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write the labels as they are now into a folder, as a flat index."""
        self.refresh()
        batches = [*self.engine.all_vectors()]
        if not batches:
            raise DataError(f"{self.engine.address} has no labels")
        ids, matrix = (np.concatenate([batch[i] for batch in batches]) for i in (0, 1))
        LabelIndex.of_vectors(
            ids, matrix, self.catalogue, {name: self.about.get(name) for name in KEPT}
        ).save_pretrained(folder)


def engine_class(address: Address) -> Any:
    """The class of an engine, whose client is imported only if it is used."""
    if address.kind == "postgresql":
        from hf_xmc.retrieval.engines.postgresql import PostgreSQL

        return PostgreSQL
    from hf_xmc.retrieval.engines.qdrant import Qdrant

    return Qdrant
