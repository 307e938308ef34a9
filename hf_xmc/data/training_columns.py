"""The columns that training reads, looked at before anything is tokenised: an error names the row and the column."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from hf_xmc.data.arrow import batches
from hf_xmc.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset

LOADED = "load_xmc_dataset(...) gives tables of the right form"


def check_texts(table: Dataset, what: str) -> None:
    """Check that the column `text` has a string in each row.

    Args:
        what: the table, for the message: `"queries"`.

    Raises:
        DataError: another type, or a row without a text (None).
    """
    row = 0
    for batch in batches(table, ["text"]):
        column = batch["text"]
        kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
        if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)):
            raise DataError(f"column 'text' of the {what} holds {kind}", hint="expected strings")
        if column.null_count:
            row += int(np.asarray(column.is_null()).argmax())
            raise DataError(f"row {row} of the {what} has no text (None)", hint="write a text, or leave the row out")
        row += len(batch)


def check_labels(queries: Dataset, num_labels: int) -> None:
    """Check that the column `labels` has a list of label ids in each row.

    Args:
        num_labels: rows of the label table.

    Raises:
        DataError: another type, an empty place (None), ids that are fractions, or vectors of 0 and 1 with a place for
            each label. The message names the row.
    """
    row = 0
    for batch in batches(queries, ["labels"]):
        for column in batch["labels"].chunks:
            check_type(column, row)
            lengths = np.asarray(column.value_lengths().fill_null(0))
            values = column.flatten()
            if values.null_count:
                place = int(np.asarray(values.is_null()).argmax())
                found = row + int(np.searchsorted(np.cumsum(lengths), place, side="right"))
                raise DataError(f"row {found} of the column 'labels' has an empty place (None)", hint="leave it out")
            row += len(column)
    if row and num_labels > 1:
        check_no_vectors(queries, num_labels)


def check_type(column: Any, row: int) -> None:
    """Check that a chunk of `labels`, which begins at this row, holds lists of integers.

    Raises:
        DataError: it does not.
    """
    first = next((value for value in column.slice(0, 100).to_pylist() if value is not None and value != []), None)
    if not (pa.types.is_list(column.type) or pa.types.is_large_list(column.type)):
        shape = "a list of ids, also for a single one," if pa.types.is_integer(column.type) else "a list of label ids"
        raise DataError(
            f"column 'labels' holds {column.type}, as {first!r:.60} in or after row {row}",
            hint=f"expected {shape} in each row, as in [3, 17]",
        )
    inner = column.type.value_type
    if pa.types.is_integer(inner) or pa.types.is_null(inner):
        return
    kind = "names" if pa.types.is_string(inner) or pa.types.is_large_string(inner) else f"{inner}"
    raise DataError(
        f"column 'labels' has lists of {kind}, as {first!r:.60} in or after row {row}",
        hint=f"expected ids, which are rows of the label table; {LOADED}",
    )


def check_no_vectors(queries: Dataset, num_labels: int) -> None:
    """Refuse rows that have a 0 or 1 for each label of the table.

    Raises:
        DataError: all rows are like that, and cannot be lists of ids, which differ from each other.
    """
    impossible = False
    for batch in batches(queries, ["labels"]):
        for row in batch["labels"].to_pylist():
            if row is None or len(row) != num_labels or not {*row} <= {0, 1}:
                return
            impossible |= len({*row}) < len(row)
    if impossible:
        raise DataError(
            "column 'labels' has multi-hot vectors, a 0 or 1 for each label",
            hint="expected the ids of a row's labels: [label for label, hot in enumerate(row) if hot]",
        )
