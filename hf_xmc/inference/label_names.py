"""`id2label` and `label2id`: the label table behind the two dictionaries that users of transformers look for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from numbers import Integral

from hf_xmc.retrieval.catalogue import Catalogue


class IdToLabel(Mapping[int, str]):
    """Label id -> text of the labels that are not removed; each look-up reads one row of the label table.

    >>> names = IdToLabel(Catalogue(["red", "blue"], removed=[0]))
    >>> dict(names), 0 in names
    ({1: 'blue'}, False)
    """

    def __init__(self, catalogue: Catalogue) -> None:
        self.catalogue = catalogue

    def __getitem__(self, label_id: int) -> str:
        if not isinstance(label_id, Integral):
            raise KeyError(label_id)
        if not 0 <= label_id < self.catalogue.num_rows or label_id in self.catalogue.removed:
            raise KeyError(label_id)
        return str(self.catalogue.arrow["text"][int(label_id)].as_py())

    def __iter__(self) -> Iterator[int]:
        return (row for row in range(self.catalogue.num_rows) if row not in self.catalogue.removed)

    def __len__(self) -> int:
        return len(self.catalogue)

    def __repr__(self) -> str:
        return f"IdToLabel({len(self):,} labels)"


class LabelToId(Mapping[str, int]):
    """Text -> id of the labels that are not removed; of labels with the same text the lowest id. Made at the first
    look-up, and again when the labels have changed.

    >>> LabelToId(Catalogue(["red", "blue", "red"]))["red"]
    0
    """

    def __init__(self, catalogue: Catalogue) -> None:
        self.catalogue = catalogue
        self.known: dict[str, int] = {}
        self.state: tuple[int, int, int] | None = None

    def current(self) -> dict[str, int]:
        """The dictionary for the labels as they are now."""
        catalogue = self.catalogue
        state = (catalogue.num_rows, len(catalogue.removed), catalogue.texts_changed)
        if state != self.state:
            texts = catalogue.arrow["text"].to_pylist()
            rows = (row for row in range(len(texts) - 1, -1, -1) if row not in catalogue.removed)
            self.known, self.state = {texts[row]: row for row in rows}, state
        return self.known

    def __getitem__(self, text: str) -> int:
        return self.current()[text]

    def __iter__(self) -> Iterator[str]:
        return iter(self.current())

    def __len__(self) -> int:
        return len(self.current())

    def __repr__(self) -> str:
        return f"LabelToId({len(self.catalogue):,} labels)"
