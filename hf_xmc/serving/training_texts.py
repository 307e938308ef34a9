"""Texts of the data that a tagger was trained on, where its folder has them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_xmc.errors import XMCError
from hf_xmc.serving.vocabulary import Label

if TYPE_CHECKING:
    from datasets import Dataset

DATA = "fit/data"  # where `hf-xmc fit` leaves the data set that it prepared
LOOKED_AT = 200  # training texts among which examples are chosen
READABLE = range(40, 400)  # characters of an example
CUT_OFF = "..."  # ends a text that the record of a run has shortened


class TrainingTexts:
    """The training texts of a tagger.

    Args:
        folder: the trained folder, if it is on this machine. One that `hf-xmc fit` made has the data set beside it.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder

    @cached_property
    def queries(self) -> Dataset | None:
        """The training split (`uid`, `text`), None where it is not there."""
        data = None if self.folder is None else self.folder / DATA
        if data is None or not data.is_dir():
            return None
        from hf_xmc.data.dataset import load_xmc_dataset  # slow to import

        try:
            return load_xmc_dataset(data).queries["train"]
        except (XMCError, OSError, KeyError):  # examples are a kindness: a tagger works without
            return None

    def matching(self, number: int) -> Dataset | None:
        """The training split if it has this many texts, so that it is the one that a memory was built from."""
        return self.queries if self.queries is not None and len(self.queries) == number else None

    def examples(self, run: Mapping[str, Any], labels: Sequence[Label], number: int = 3) -> list[str]:
        """Texts to try a tagger with: from its training split, else the one in the record of its training, else made
        of what some labels mean.

        Args:
            run: the record of the training run.
            labels: some labels, the best known ones first.
        """
        found: list[str] = []
        if self.queries is not None:
            texts = self.queries[:LOOKED_AT]["text"]
            found = [text for text in texts if len(text) in READABLE] or [text[: READABLE.stop] for text in texts]
        elif isinstance(example := run.get("data", {}).get("example"), str) and not example.endswith(CUT_OFF):
            found = [example]
        meanings = [label.definition for label in labels if len(label.definition) in READABLE]
        names = [f"{one.name}, {other.name}" for one, other in zip(labels[::2], labels[1::2], strict=False)]
        return list(dict.fromkeys([*found, *meanings, *names, *(label.name for label in labels)]))[:number]
