"""Labels of one session over a tagger that all sessions share, without a copy of its vectors or its names.

The added labels of a session are rows below those of the shared label table. A search looks through the shared index
and through the few added vectors, and merges the two; so does the channel of names.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from hf_xmc.inference.pipeline import XMCPipeline
from hf_xmc.retrieval.bags import Bags, search_bags
from hf_xmc.retrieval.catalogue import Catalogue
from hf_xmc.retrieval.channels import LabelNames
from hf_xmc.retrieval.channels.names import NameMatch
from hf_xmc.retrieval.index import LabelIndex
from hf_xmc.retrieval.label_kinds import LabelTexts
from hf_xmc.retrieval.name_table import Names, checksums, texts_of
from hf_xmc.retrieval.search import as_matrix, exact_search
from hf_xmc.types import TopK


def with_own_labels(shared: XMCPipeline, rows: pa.Table, vectors: np.ndarray) -> XMCPipeline:
    """A pipeline with further labels, over another one that does not see them. When labels of the shared pipeline
    change, make another one: that takes a millisecond.

    Args:
        rows: the added labels, in the columns of the label table, m rows.
        vectors: their embeddings, `[m, D]`.
    """
    made = copy.copy(shared)
    made.index = OverlayIndex(shared.index, rows, vectors)
    first = shared.index.catalogue.num_rows
    names: list[Any] = [OverlayNames(c, rows, first) if isinstance(c, LabelNames) else c for c in shared.channels]
    made.channels = names
    return made


class OverlayIndex(LabelIndex):
    """A label index with further labels, which is searched but not changed.

    Args:
        shared: the index below.
        rows: the added labels, in the columns of its label table, m rows.
        vectors: their embeddings, float32 `[m, D]`.
    """

    def __init__(self, shared: LabelIndex, rows: pa.Table, vectors: np.ndarray) -> None:
        table = pa.concat_tables([shared.catalogue.arrow, rows])  # without a copy
        super().__init__(shared.index, Catalogue(table, shared.removed), shared.about)
        self.shared, self.first, self.own = shared, shared.catalogue.num_rows, vectors

    def search(
        self,
        queries: Any,
        k: int = 5,
        allowed: Any = None,
        forbidden: Any = None,
        where: Mapping[str, Any] | None = None,
        encoder_fingerprint: str | None = None,
    ) -> TopK:
        """As `LabelIndex.search`; the added labels are compared one by one."""
        if isinstance(queries, Bags):
            return search_bags(self, queries, k, allowed=allowed, forbidden=forbidden, where=where)
        matrix = as_matrix(queries)
        mask = self.catalogue.allowed_rows(allowed, forbidden, where)
        below = None if mask is None else mask[: self.first]
        found = self.shared.search(matrix, k, below, encoder_fingerprint=encoder_fingerprint)
        live = np.arange(len(self.own)) if mask is None else np.flatnonzero(mask[self.first :])
        if not len(live):
            return found
        own = exact_search(matrix, self.own[live], len(live))
        ids = np.concatenate([found.ids, self.first + live[own.ids]], axis=1)
        return TopK(ids, np.concatenate([found.scores, own.scores], axis=1)).sorted().first(k)

    @property
    def has_several_texts(self) -> bool:
        """As in the index below; an added label has one text."""
        return self.shared.has_several_texts

    def text_vectors(self, label_ids: Any) -> tuple[LabelTexts, np.ndarray] | None:
        """As `LabelIndex.text_vectors`; added labels are left out, since each has one text."""
        ids = np.asarray(label_ids, np.int64)
        return self.shared.text_vectors(ids[ids < self.first])

    def vectors(self, label_ids: Any = None) -> np.ndarray:
        """As `LabelIndex.vectors`."""
        if label_ids is None:
            return np.concatenate([self.shared.vectors(), self.own])
        ids = self.catalogue.known(label_ids)
        found, added = np.empty((len(ids), self.dimension), np.float32), ids >= self.first
        found[added] = self.own[ids[added] - self.first]
        found[~added] = self.shared.vectors(ids[~added])
        return found


class OverlayNames(LabelNames):
    """The names of added labels, beside those of the shared labels. A name of an added label inside a longer one of a
    shared label counts as well.

    Args:
        shared: the channel below.
        rows: the added labels.
        first: the id of the first of them.
    """

    def __init__(self, shared: LabelNames, rows: pa.Table, first: int) -> None:
        texts = texts_of(rows)
        names = Names.of(range(first, first + len(texts)), texts, shared.stems)
        none = np.zeros(len(names), np.int64)
        learned = (shared.priors, shared.coefficients)
        super().__init__(
            *(shared.stems, names, none, none, *learned, checksums(texts)),
            weight=shared.weight,
            learned_from=shared.learned_from,
            ranges=shared.ranges,
        )
        self.shared = shared

    def rank(self, texts: Sequence[str] | None, embeddings: Any, k: int, allowed: np.ndarray | None = None) -> TopK:
        """All labels whose name stands in the text, shared and added."""
        below, own = self.shared.rank(texts, embeddings, k, allowed), super().rank(texts, embeddings, k, allowed)
        ids = np.concatenate([below.ids, own.ids], axis=1)
        return TopK(ids, np.concatenate([below.scores, own.scores], axis=1)).sorted()

    def matches(self, text: str) -> list[NameMatch]:
        """The names that stand in a text, in their order."""
        return sorted([*self.shared.matches(text), *super().matches(text)], key=lambda match: match.start)

    def follow(self, catalogue: Catalogue) -> None:
        """The shared channel follows the shared label table, and added labels never change."""
