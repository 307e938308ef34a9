"""What a reader of a format hands over, before anything is checked or split."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class RawQueries:
    """The queries of one split, column by column, with the pairs that do not count (`filters`: row -> label ids)."""

    path: Path | None = None
    uids: list[str] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    labels: list[list[int]] = field(default_factory=list)
    filters: dict[int, list[int]] = field(default_factory=dict)

    def append(self, uid: str, text: str, labels: list[int]) -> None:
        self.uids.append(uid)
        self.texts.append(text)
        self.labels.append(labels)

    def __len__(self) -> int:
        return len(self.uids)

    def take(self, rows: list[int]) -> RawQueries:
        """The given rows, in the given order; filters follow their query."""
        return RawQueries(
            self.path,
            [self.uids[row] for row in rows],
            [self.texts[row] for row in rows],
            [self.labels[row] for row in rows],
            {new: self.filters[old] for new, old in enumerate(rows) if old in self.filters},
        )


@dataclass
class RawDataset:
    """Splits by name (`train`, `validation`, `test`), label records in the order of their ids, and a description."""

    queries: dict[str, RawQueries]
    labels: list[dict[str, Any]]
    description: dict[str, Any] = field(default_factory=dict)
    label_path: Path | None = None
