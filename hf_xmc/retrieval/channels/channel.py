"""What a ranking channel is: one source of label scores for a query."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self, runtime_checkable

import numpy as np

from hf_xmc.retrieval.catalogue import Catalogue
from hf_xmc.types import Positives, TopK

if TYPE_CHECKING:
    from datasets import Dataset


class Channel(Protocol):
    """A source of label scores, with files of its own in a trained folder.

    Label vectors are the first channel of every pipeline. Others are combined with them by `retrieval/fusion.py`; they
    follow [`FusedChannel`] and are registered in `hf_xmc/retrieval/channels/__init__.py`.
    """

    name: ClassVar[str]
    files: ClassVar[tuple[str, ...]]  # what it writes into a trained folder; a folder without the first one has none

    def rank(self, texts: Sequence[str] | None, embeddings: Any, k: int, allowed: np.ndarray | None = None) -> TopK:
        """The best labels of each query, with scores that can be compared across queries.

        Args:
            texts: of the queries, `[N]`; None where the caller has embeddings only.
            embeddings: of the queries, `[N, D]`.
            k: labels per query that are needed. A channel may return more, or fewer if it has no more.
            allowed: which rows of the label table may be predicted, bool `[L]`; None for all. Other labels may be
                returned as well: the fusion removes them.
        """
        ...

    def fingerprint(self) -> str:
        """A hash of everything that its scores depend on, weight included; the same after saving and loading."""
        ...

    def save_pretrained(self, folder: str | os.PathLike[str], /) -> None:
        """Write `files` into a trained folder."""
        ...

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike[str], /) -> Self:
        """Load from a trained folder."""
        ...


class FusedChannel(Channel, Protocol):
    """A channel whose scores are added to those of the label vectors.

    Scores should be of the order of a cosine, 0 to 1: the weights that are tried are the same for every channel.
    """

    # Whether labels that `rank` leaves out score 0 (True) or at most as much as the last label that it lists (False).
    complete: ClassVar[bool]
    weight: float  # its share of the fused score, 0 to 1; learned on validation queries and saved with the channel

    @classmethod
    def fit(cls, train: TrainQueries) -> Self:
        """Build the channel from the training split."""
        ...

    def versions(self, texts: Sequence[str] | None, embeddings: Any) -> Iterable[tuple[Self, TopK]]:
        """The channel with each of the settings that are worth trying, and what it then ranks for these queries.

        A channel without settings yields `(self, self.rank(texts, embeddings, k))`, with a large k.
        """
        ...

    def describe(self) -> dict[str, Any]:
        """Its settings as JSON values, `weight` included."""
        ...


@runtime_checkable
class FollowsLabels(Protocol):
    """A channel that reads the label table, and so has to know when labels are added or get new texts."""

    def follow(self, catalogue: Catalogue, /) -> None:
        """Take over what changed; called before every search, so it has to be quick if nothing did."""
        ...


@dataclass(frozen=True)
class TrainQueries:
    """What a channel can learn from.

    Args:
        texts: of the training queries, `[N]`.
        embeddings: of the training queries, `[N, D]`.
        positives: their labels, N rows.
        labels: the label table; row number = label id.
        language: of the texts, a code such as `"en"` or a name.
        search: finds the best k labels of embeddings `[B, D]` by the label vectors.
    """

    texts: Sequence[str]
    embeddings: np.ndarray
    positives: Positives
    labels: Dataset
    language: str = "en"
    search: Callable[[Any, int], TopK] | None = None
