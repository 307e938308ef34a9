"""Soft positives: pairs of query and label beside the given ones, with a weight and where they come from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hf_xmc.data.files import replacing
from hf_xmc.errors import DataError
from hf_xmc.types import Positives

GIVEN = "given"  # the source of the annotation itself, which is never written here
SCHEMA = pa.schema(
    [
        ("query_uid", pa.string()),
        ("label_uid", pa.string()),
        ("weight", pa.float32()),
        ("source", pa.string()),
        ("step", pa.int64()),
    ]
)


@dataclass(frozen=True)
class SoftPositives:
    """Pairs with a weight, for the queries of one split. Given positives are never changed: to undo, drop a source.

    A pair that is also given changes the weight of the given one, as where somebody found it to be wrong; weight 0
    means that the pair takes no part in the loss, neither as a positive nor as a negative.

    Args:
        rows: the query of each pair, a row of the split, int64 `[P]`.
        labels: label ids, int64 `[P]`.
        weights: 0 to 1, float32 `[P]`.
        sources: where each comes from, as `"teacher"`, `"corrected"` or `"language_model"`, `[P]`.
        steps: when it was found, as an optimizer step; int64 `[P]`. Of a pair that is there twice the last one counts.

    >>> soft = SoftPositives.of([0, 1], [7, 3], [0.5, 0.0], "teacher")
    >>> merged = soft.merged(Positives.from_lists([[2], [3, 4]]))
    >>> merged.indices.tolist(), merged.weights.tolist()
    ([2, 7, 3, 4], [1.0, 0.5, 0.0, 1.0])
    >>> soft.without("teacher").counts()
    {}
    """

    rows: np.ndarray
    labels: np.ndarray
    weights: np.ndarray
    sources: np.ndarray
    steps: np.ndarray

    @classmethod
    def of(
        cls,
        rows: Sequence[int] | np.ndarray,
        labels: Sequence[int] | np.ndarray,
        weights: float | Sequence[float] | np.ndarray,
        source: str,
        step: int = 0,
    ) -> SoftPositives:
        """Pairs of one source.

        Raises:
            DataError: weights that are not from 0 to 1, arrays of different lengths, or the source `"given"`.
        """
        count = len(rows)
        found = cls(
            np.asarray(rows, dtype=np.int64),
            np.asarray(labels, dtype=np.int64),
            np.broadcast_to(np.asarray(weights, dtype=np.float32), count).copy(),
            np.full(count, source, dtype=object),
            np.full(count, step, dtype=np.int64),
        )
        found.validate()
        return found

    @classmethod
    def empty(cls) -> SoftPositives:
        """No pairs."""
        return cls.of([], [], 0.0, "none")

    def __len__(self) -> int:
        """Number of pairs."""
        return len(self.rows)

    def counts(self) -> dict[str, int]:
        """Pairs of each source."""
        names, counts = np.unique(self.sources.astype(str), return_counts=True)
        return {str(name): int(count) for name, count in zip(names, counts, strict=True)}

    def keep(self, mask: np.ndarray) -> SoftPositives:
        """The pairs where a mask `[P]` holds."""
        return SoftPositives(*(part[mask] for part in self.parts()))

    def without(self, source: str) -> SoftPositives:
        """All pairs but those of a source."""
        return self.keep(self.sources != source)

    def only(self, sources: Sequence[str]) -> SoftPositives:
        """The pairs of some sources.

        Raises:
            DataError: a source that no pair has.
        """
        known = self.counts()
        if unknown := [name for name in sources if name not in known]:
            raise DataError(f"no soft positives of {unknown[0]!r}", hint=f"there are {', '.join(known) or 'none'}")
        return self.keep(np.isin(self.sources.astype(str), list(sources)))

    def joined(self, other: SoftPositives) -> SoftPositives:
        """These pairs, and then those of another set."""
        pairs = zip(self.parts(), other.parts(), strict=True)
        return SoftPositives(*(np.concatenate([ours, theirs]) for ours, theirs in pairs))

    def parts(self) -> tuple[np.ndarray, ...]:
        """The columns."""
        return self.rows, self.labels, self.weights, self.sources, self.steps

    def merged(self, positives: Positives) -> Positives:
        """Given positives and these together: a given pair keeps its weight, or 1, unless it stands here as well."""
        given = positives.numpy()
        weights = np.ones(len(given.indices), np.float32) if given.weights is None else given.weights
        rows = np.concatenate([given.rows, self.rows])
        labels = np.concatenate([given.indices, self.labels])
        weights = np.concatenate([weights, self.weights])
        steps = np.concatenate([np.full(len(given.indices), np.iinfo(np.int64).min), self.steps])
        order = np.lexsort((np.arange(len(rows)), steps, labels, rows))
        last = np.ones(len(order), dtype=bool)  # of a pair that repeats, the one of the last step
        last[:-1] = (np.diff(rows[order]) != 0) | (np.diff(labels[order]) != 0)
        order = order[last]
        indptr = np.concatenate([[0], np.bincount(rows[order], minlength=len(given)).cumsum()])
        return Positives(indptr, labels[order], weights[order])

    def validate(self, num_queries: int | None = None, num_labels: int | None = None) -> None:
        """Check lengths, weights, sources and ids.

        Raises:
            DataError: what is wrong, with the number of the pair.
        """
        if len({len(part) for part in self.parts()}) != 1:
            raise DataError(f"soft positives with columns of {[len(part) for part in self.parts()]} pairs")
        checks = [
            (~((self.weights >= 0) & (self.weights <= 1)), "a weight that is not from 0 to 1"),
            (self.sources == GIVEN, "the source 'given', which is that of the annotation itself"),
            (self.sources == "", "no source"),
            ((self.rows < 0) | (self.rows >= (num_queries or np.inf)), "a query that the split lacks"),
            ((self.labels < 0) | (self.labels >= (num_labels or np.inf)), "a label that the catalogue lacks"),
        ]
        for wrong, what in checks:
            if np.any(wrong):
                raise DataError(f"soft positive {int(np.argmax(wrong)):,} has {what}")

    def write(self, path: Path, query_uids: Sequence[str], label_uids: Sequence[str]) -> None:
        """Write a Parquet table, with uids in place of numbers: `query_uid, label_uid, weight, source, step`."""
        columns = [
            pa.array([query_uids[row] for row in self.rows], pa.string()),
            pa.array([label_uids[label] for label in self.labels], pa.string()),
            pa.array(self.weights),
            pa.array(self.sources.tolist(), pa.string()),
            pa.array(self.steps),
        ]
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            pq.write_table(pa.Table.from_arrays(columns, schema=SCHEMA), temporary, compression="zstd")

    @classmethod
    def read(cls, path: Path, query_uids: Sequence[str], label_uids: Sequence[str]) -> SoftPositives:
        """Read what `write` wrote. Pairs whose query is in another split now are left out.

        Raises:
            DataError: the file cannot be read, lacks a column, or names a label that is not in the catalogue.
        """
        try:
            table = pq.read_table(path).select(SCHEMA.names).cast(SCHEMA)
        except (OSError, KeyError, ValueError, pa.ArrowException) as error:
            hint = f"it needs the columns {', '.join(SCHEMA.names)}"
            raise DataError(f"cannot be read ({error!s:.200})", path, hint=hint) from error
        for name in SCHEMA.names:
            if table[name].null_count:
                raise DataError(f"the column {name} has cells without a value", path, hint="apply the review again")
        row_of = {uid: row for row, uid in enumerate(query_uids)}
        label_of = {uid: label for label, uid in enumerate(label_uids)}
        queries, labels = table["query_uid"].to_pylist(), table["label_uid"].to_pylist()
        if unknown := next((uid for uid in labels if uid not in label_of), None):
            raise DataError(f"label {unknown!r} is not in the catalogue", path, hint="apply the review again")
        found = cls(
            np.array([row_of.get(uid, -1) for uid in queries], dtype=np.int64),
            np.array([label_of[uid] for uid in labels], dtype=np.int64),
            table["weight"].to_numpy().astype(np.float32),
            np.array(table["source"].to_pylist(), dtype=object),
            table["step"].to_numpy().astype(np.int64),
        )
        found = found.keep(found.rows >= 0)
        found.validate(len(query_uids), len(label_uids))
        return found
