"""The first channel: the dot product of a query's embedding with those of the labels."""

from __future__ import annotations

import os
from collections.abc import Sequence
from hashlib import blake2b
from typing import Any, ClassVar

import numpy as np

from hf_xmc.retrieval.index import ABOUT, INDEX, LABELS, LabelIndex
from hf_xmc.types import TopK


class LabelVectors:
    """Ranks labels by a [`LabelIndex`].

    Args:
        index: the label index, with the label table that all channels refer to.
    """

    name: ClassVar[str] = "labels"
    files: ClassVar[tuple[str, ...]] = (ABOUT, INDEX, LABELS)

    def __init__(self, index: LabelIndex) -> None:
        self.index = index

    def rank(self, texts: Sequence[str] | None, embeddings: Any, k: int, allowed: np.ndarray | None = None) -> TopK:
        """The k labels of largest dot product; labels that were removed from the index are never among them."""
        return self.index.search(embeddings, k, allowed=allowed)

    def fingerprint(self) -> str:
        """A hash of how the index searches. It does not depend on the labels: they may come and go."""
        about = self.index.about
        settings = [about.get(name) for name in ("texts", "head_fingerprint", "centroids")]
        settings += [about["pooling"]] if self.index.pooling is not None else []
        parameters = sorted(self.index.parameters.items())
        return blake2b(repr([self.index.factory, parameters, settings]).encode(), digest_size=12).hexdigest()

    def save_pretrained(self, folder: str | os.PathLike[str], /) -> None:
        """Write the index and the label table into a trained folder."""
        self.index.save_pretrained(folder)

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike[str], /) -> LabelVectors:
        """Load from a trained folder."""
        return cls(LabelIndex.from_pretrained(folder))
