"""The label table of an index while labels come and go: rows are label ids and never move."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from hashlib import blake2b
from itertools import count, islice
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np
import pyarrow as pa

from hf_xmc.data.arrow import as_rows
from hf_xmc.errors import DataError, SettingsError
from hf_xmc.retrieval.label_kinds import SYNONYM, LabelTexts, other_names, with_columns_of_texts

if TYPE_CHECKING:
    from datasets import Dataset


class NotInIndex(SettingsError, KeyError):
    """A label or column that the index does not have."""

    __str__ = Exception.__str__  # a KeyError would quote the message


class Catalogue:
    """A label table that changes. A removed label keeps its row; no row is used twice.

    Args:
        table: the label table (`uid`, `text`, ...), also as an Arrow table, or the texts alone.
        removed: ids of labels that were removed.
    """

    def __init__(self, table: Dataset | pa.Table | Sequence[str], removed: Iterable[int] = ()) -> None:
        known = table if is_table(table) else pa.table(columns_of(table))
        check_columns(known)
        self._arrow: pa.Table | None = known if isinstance(known, pa.Table) else None
        self._table: Dataset | None = None if isinstance(known, pa.Table) else known
        self._new: list[pa.Table] = []  # added since the table was last read: a Dataset is slow to extend
        self._uids: list[str] | None = None  # of every row; like the next, made on first use
        self._live_uids: set[str] = set()
        self.num_rows = len(known)
        self.removed = set(removed)
        self.texts_changed = 0  # how often labels got new texts, by which those who read the texts notice it

    @property
    def table(self) -> Dataset:
        """The whole label table, including removed labels."""
        if self._table is None or self._new:
            self._table = as_dataset(self.arrow)
        return self._table

    @property
    def arrow(self) -> pa.Table:
        """The same as an Arrow table, which needs no import of `datasets`."""
        if self._arrow is None:
            self._arrow = as_arrow(self._table)
        if self._new:
            self._arrow, self._table = pa.concat_tables([self._arrow, *self._new]), None
            self._new = []
        return self._arrow

    def __len__(self) -> int:
        """Number of labels that are not removed."""
        return self.num_rows - len(self.removed)

    def rows_for(self, labels: Dataset | Sequence[str]) -> pa.Table:
        """New labels in the columns of the table, ready for `append`. Columns that they lack are empty, and columns
        that the table lacks are dropped; bare texts get an unused number as uid.

        Raises:
            DataError: a uid that is in the table already or is repeated.
            ValueError, TypeError: values of another type.
        """
        if isinstance(labels, str):
            raise SettingsError("labels is one string; expected a list", hint=f"pass [{labels[:40]!r}]")
        taken = self.live_uids()
        if is_table(labels):
            check_columns(labels)
            given = {name: labels[name][:] for name in labels.column_names}
        else:
            given = columns_of(labels, self.free_uids())
        uids = given["uid"]
        if len(set(uids)) < len(uids) or not taken.isdisjoint(uids):
            repeated = next(uid for i, uid in enumerate(uids) if uid in taken or uid in uids[:i])
            raise DataError(f"Label {repeated!r} is in the index already; remove it first, or give another uid")
        schema = self.arrow.schema
        columns = [pa.array(given.get(field.name, [None] * len(uids)), field.type) for field in schema]
        return pa.Table.from_arrays(columns, schema=schema)

    def free_uids(self, taken: Iterable[str] = ()) -> Iterator[str]:
        """Uids for new labels: numbers from the next row on that no label has, and that are not `taken` either."""
        used = self.live_uids() | set(taken)
        return (uid for uid in map(str, count(self.num_rows)) if uid not in used)

    def append(self, rows: pa.Table) -> np.ndarray:
        """Add what `rows_for` made; returns the new ids, int64 `[n]`."""
        uids = rows["uid"].to_pylist()
        self.live_uids().update(uids)
        self._uids = (self._uids or []) + uids
        self._new.append(rows)
        self.num_rows += len(rows)
        return np.arange(self.num_rows - len(rows), self.num_rows)

    def remove(self, label_ids: np.ndarray) -> None:
        """Mark labels as removed; `known` has checked them."""
        if self._uids is not None:
            self._live_uids.difference_update(self._uids[row] for row in label_ids)
        self.removed |= set(label_ids.tolist())

    def known(self, label_ids: Any) -> np.ndarray:
        """The ids as int64 `[n]`.

        Raises:
            KeyError: the id of no label, or of one that was removed.
        """
        ids = whole_numbers(label_ids)
        for id_ in ids.tolist():
            if not 0 <= id_ < self.num_rows or id_ in self.removed:
                raise NotInIndex(f"Label id {id_} is not in the index")
        return ids

    def set_texts(self, label_ids: np.ndarray, texts: Sequence[str], kinds: Sequence[str] | None = None) -> None:
        """Give labels new texts. Where a label is given several, the first becomes its `text` and the others its
        `texts`, if the table has that column.

        Args:
            kinds: of each text; the columns `texts` and `kinds` are then added to a table without them. Without kinds
                all texts but the first are synonyms.
        """
        if len(texts) != len(label_ids):
            raise DataError(f"Found {len(texts):,} texts for {len(label_ids):,} embeddings; give one text per row")
        given: dict[int, list[int]] = {}
        for place, id_ in enumerate(label_ids.tolist()):
            given.setdefault(id_, []).append(place)
        table = self.arrow if kinds is None else with_columns_of_texts(self.arrow)
        said = [SYNONYM] * len(texts) if kinds is None else kinds
        of_columns: dict[str, Callable[[list[int]], Any]] = {
            "text": lambda its: texts[its[0]],
            "texts": lambda its: [texts[place] for place in its[1:]],
            "kinds": lambda its: [said[place] for place in its[1:]],
        }
        for name, value in of_columns.items():
            if name in table.column_names:
                field, values = table.schema.field(name), table[name].to_pylist()
                for id_, its in given.items():
                    values[id_] = value(its)
                column = table.column_names.index(name)
                table = table.set_column(column, field, pa.chunked_array([pa.array(values, field.type)]))
        self._arrow, self._table = table, None
        self.texts_changed += 1

    def live(self) -> pa.Table:
        """The rows of the labels that are not removed."""
        return self.arrow.take(pa.array([row for row in range(self.num_rows) if row not in self.removed], pa.int64()))

    def kinds_of(self, label_ids: np.ndarray) -> list[str]:
        """The kinds of all texts of some labels, those of a label together."""
        return LabelTexts.of(self.arrow.take(pa.array(label_ids))).kinds

    def replace(self, label_ids: np.ndarray, rows: pa.Table) -> None:
        """Give labels other rows, in the columns of the table and with the uids that they had."""
        table = self.arrow
        places = np.arange(len(table))
        places[label_ids] = len(table) + np.arange(len(rows))
        self._arrow, self._table = pa.concat_tables([table, rows]).take(pa.array(places)), None
        self.texts_changed += 1

    def set_value(self, row: int, name: str, value: Any) -> None:
        """Give a row another value in a column that the embeddings do not depend on, such as a definition.

        Raises:
            NotInIndex: a column that the table does not have.
            SettingsError: the column of uids.
        """
        table = self.arrow
        if name not in table.column_names:
            raise NotInIndex(f"The label table has no column {name!r}; it has {', '.join(table.column_names)}")
        if name == "uid":
            raise SettingsError("a label keeps its uid", hint="remove the label and add it with another one")
        field, values = table.schema.field(name), table[name].to_pylist()
        values[row] = value
        changed = pa.chunked_array([pa.array(values, field.type)])
        self._arrow, self._table = table.set_column(table.column_names.index(name), field, changed), None

    def allowed_rows(self, allowed: Any = None, forbidden: Any = None, where: Mapping[str, Any] | None = None) -> Any:
        """The labels that a search may return, bool `[L]`; None for all of them.

        Args:
            allowed, forbidden: label ids, or a mask over all rows of the table.
            where: a value for each column, or a list of values of which a label must have one.
        """
        if allowed is None and forbidden is None and not where:
            return None
        mask = np.ones(self.num_rows, bool) if allowed is None else self.as_mask(allowed)
        if forbidden is not None:
            mask &= ~self.as_mask(forbidden)
        if where:
            mask &= self.as_mask(self.ids_where(**where))
        mask[list(self.removed)] = False
        return mask

    def as_mask(self, ids: Any) -> np.ndarray:
        """Ids or a mask as a new mask.

        Raises:
            DataError: ids outside the table, or a mask of another length.
        """
        given = np.asarray(ids)
        if given.dtype != bool:
            given = whole_numbers(ids)
        elif given.shape != (self.num_rows,):
            raise DataError(f"The mask has shape {given.shape}; the label table has {self.num_rows:,} rows")
        else:
            return given.copy()
        mask = np.zeros(self.num_rows, bool)
        if given.size and not 0 <= given.min() <= given.max() < self.num_rows:
            outside = given[(given < 0) | (given >= self.num_rows)][0]
            raise DataError(f"Label id {outside} is outside the label table, which has {self.num_rows:,} rows")
        mask[given.astype(np.int64)] = True
        return mask

    def ids_where(self, **columns: Any) -> np.ndarray:
        """Ids of the labels whose columns have the given values, without removed labels.

        A value may be a list, of which a label must have one. In a column of lists (`parents`), a label matches if its
        list contains the value.

        Raises:
            KeyError: a column that the table does not have.
        """
        found = np.ones(self.num_rows, bool)
        for name, value in columns.items():
            if name not in self.arrow.column_names:
                raise NotInIndex(
                    f"The label table has no column {name!r}; it has {', '.join(self.arrow.column_names)}"
                )
            wanted = list(value) if isinstance(value, (list, tuple, set, np.ndarray)) else [value]
            found &= holds_one_of(self.arrow[name], wanted)
        found[list(self.removed)] = False
        return np.flatnonzero(found)

    def live_uids(self) -> set[str]:
        if self._uids is None:
            self._uids = self.arrow["uid"].to_pylist()
            self._live_uids = {uid for row, uid in enumerate(self._uids) if row not in self.removed}
        return self._live_uids


def all_texts(labels: Dataset) -> tuple[np.ndarray, list[str]]:
    """All names of a label table, from `text` and the column `texts` (other names), if there is one; texts of kinds
    that are no names (`kinds`) are left out. Returns the label of each text, int64 `[M]`, and the texts, without
    repeats within a label; see `label_ids` of [`LabelIndex.build`].

    >>> from datasets import Dataset
    >>> labels = Dataset.from_dict({"uid": ["a", "b"], "text": ["car", "boat"], "texts": [["auto", "car"], None]})
    >>> ids, texts = all_texts(labels)
    >>> ids.tolist(), texts
    ([0, 0, 1], ['car', 'auto', 'boat'])
    """
    texts = [list(dict.fromkeys(its)) for its in other_names(labels)]
    ids = np.repeat(np.arange(len(texts)), [len(its) for its in texts])
    return ids, [text for its in texts for text in its]


def rows_of(
    matrix: np.ndarray, label_ids: Any, ids: np.ndarray, texts: str = "best", shares: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The rows of an index: embeddings, and the label id of each.

    Args:
        matrix: embeddings, `[m, D]`.
        label_ids: which of the `ids` each embedding belongs to, int `[m]`; None if there is one per label.
        ids: the labels, int64 `[n]`.
        texts: `"mean"` keeps one vector per label, the mean of its embeddings, which scores the mean of their scores.
        shares: of each embedding in its label, `[m]`; by default they are equal. Those without a share are left out.

    Raises:
        DataError: a label without an embedding, or an embedding of an unknown label.
    """
    if label_ids is None:
        if len(matrix) != len(ids):
            raise DataError(f"Found {len(matrix):,} embeddings for {len(ids):,} labels; give one row per label")
        return matrix, ids
    given = np.asarray(label_ids, dtype=np.int64)
    if given.shape != (len(matrix),):
        raise DataError(f"Found {len(matrix):,} embeddings and {len(given):,} label_ids; give one id per row")
    if len(given) and not 0 <= given.min() <= given.max() < len(ids):
        outside = given[(given < 0) | (given >= len(ids))][0]
        raise DataError(f"label_ids names row {outside}, but there are {len(ids):,} labels")
    counts = np.bincount(given, minlength=len(ids))
    if (counts == 0).any():
        raise DataError(f"The label of row {int((counts == 0).argmax())} has no embedding; give it at least one")
    if texts == "mean":
        from scipy.sparse import csr_array

        weights = 1 / counts[given] if shares is None else shares
        mean = csr_array((weights, given, np.arange(len(given) + 1)), shape=(len(given), len(ids)))
        return np.ascontiguousarray(mean.T @ matrix, dtype=np.float32), ids
    if shares is not None and not shares.all():
        matrix, given = matrix[shares > 0], given[shares > 0]
    return matrix, ids[given]


def columns_of(texts: Sequence[str], uids: Iterator[str] | None = None) -> dict[str, list[str]]:
    """The columns of a label table for bare texts, whose uids are the first of `uids` (by default 0, 1, 2, ...)."""
    texts = list(texts)
    return {"uid": list(islice(uids or map(str, count()), len(texts))), "text": texts}


def is_table(labels: Any) -> TypeGuard[Any]:
    """Whether labels are a table, of `datasets` or Arrow, and not texts alone."""
    return hasattr(labels, "column_names")


def check_columns(labels: Any) -> None:
    if missing := {"uid", "text"} - set(labels.column_names):
        raise DataError(f"The label table has columns {labels.column_names}; it needs {sorted(missing)} as well")


def check_table(table: pa.Table, removed: Iterable[int] = ()) -> None:
    """Reject a label table from a file whose rows cannot be labels.

    Args:
        removed: rows of removed labels, whose uids other labels may have.

    Raises:
        DataError: no column `uid` or `text`, values that are no text, no value, a uid that two labels have, or removed
            rows that are not there.
    """
    import pyarrow.compute as pc

    check_columns(table)
    try:
        table.validate(full=True)  # also that texts are UTF-8
    except pa.ArrowException as error:
        raise DataError(f"the label table is damaged ({error!s:.200})") from error
    for name in ("uid", "text"):
        column = table[name]
        if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
            raise DataError(f"the column {name} of the label table is {column.type}, expected string")
        if column.null_count:
            row = int(np.flatnonzero(pc.is_null(column).to_numpy())[0])
            raise DataError(f"row {row:,} of the label table has no {name}")
    if "texts" in table.column_names and not is_list_of_texts(table["texts"].type):
        raise DataError(f"the column texts of the label table is {table['texts'].type}, expected lists of strings")
    gone = np.unique(np.asarray(list(removed), dtype=np.int64))
    if len(gone) and not 0 <= gone[0] <= gone[-1] < len(table):
        raise DataError(f"row {gone[-1]:,} was removed, but the label table has {len(table):,} rows")
    kept = table["uid"] if not len(gone) else table["uid"].take(as_rows(np.delete(np.arange(len(table)), gone)))
    if len(kept) and len(kept.combine_chunks().dictionary_encode().dictionary) < len(kept):
        counts = pc.value_counts(kept)
        uid = counts.filter(pc.greater(counts.field("counts"), 1))[0]["values"]
        raise DataError(f"two labels have the uid {uid.as_py()!r:.60}")


def is_list_of_texts(kind: pa.DataType) -> bool:
    """Whether a column holds lists of strings, or nothing."""
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    return pa.types.is_null(kind) or (
        is_list and (pa.types.is_string(kind.value_type) or pa.types.is_null(kind.value_type))
    )


def table_fingerprint(table: pa.Table) -> str:
    """A hash of the uids and texts of a label table, in their order, by which another table is noticed.

    >>> table = pa.table({"uid": ["a", "b"], "text": ["red", "blue"]})
    >>> table_fingerprint(table) == table_fingerprint(table.take([1, 0]))
    False
    """
    digest = blake2b(digest_size=12)
    for name in ("uid", "text"):
        column = table[name].cast(pa.large_binary()).combine_chunks()
        _, starts, data = column.buffers()
        if not len(column):
            continue
        offsets = np.frombuffer(starts, np.int64)[column.offset : column.offset + len(column) + 1]
        digest.update(np.diff(offsets).astype("<i8").tobytes())  # lengths, so that two texts are not one
        if data is not None:
            digest.update(memoryview(data)[offsets[0] : offsets[-1]])
    return digest.hexdigest()


def as_arrow(labels: Dataset) -> pa.Table:
    return labels.with_format("arrow")[:]


def as_dataset(table: pa.Table) -> Dataset:
    from datasets import Dataset
    from datasets.table import InMemoryTable

    return Dataset(InMemoryTable(table))


def whole_numbers(label_ids: Any) -> np.ndarray:
    """Ids as int64 `[n]`; a fraction is never cut to an id.

    Raises:
        SettingsError: something that is no whole number.

    >>> whole_numbers([3, 17]).tolist()
    [3, 17]
    >>> whole_numbers([1.5])
    Traceback (most recent call last):
    hf_xmc.errors.SettingsError: 1.5 is no label id; expected whole numbers, which are rows of the label table
    """
    ids = np.asarray(label_ids)
    if ids.size and ids.dtype.kind not in "iu":
        wrong = next((id_ for id_ in ids.ravel().tolist() if type(id_) is not int), ids.ravel()[0])
        raise SettingsError(
            f"{wrong!r:.60} is no label id", hint="expected whole numbers, which are rows of the label table"
        )
    return ids.astype(np.int64)


def holds_one_of(column: pa.ChunkedArray, values: list[Any]) -> np.ndarray:
    """Rows of a column whose value, or one of the values in its list, is among the given ones, bool `[L]`."""
    import pyarrow.compute as pc

    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        flat = pc.is_in(pc.list_flatten(column), value_set=pa.array(values, column.type.value_type))
        rows = pc.list_parent_indices(column).to_numpy()
        found = np.zeros(len(column), bool)
        found[rows[flat.to_numpy()]] = True
        return found
    return np.asarray(pc.is_in(column, value_set=pa.array(values, column.type)).to_numpy(), dtype=bool)
