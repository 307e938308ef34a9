"""Tokenised texts, compact in memory, and the queries of a split as a map-style data set over them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from datasets import Dataset
from torch.utils.data import Dataset as TorchDataset

from hf_xmc.data.dataset import positives_of
from hf_xmc.types import Positives

Tokenize = Callable[[Sequence[str]], list[list[int]]]


class TokenTable:
    """Token ids of many texts as one flat array, int32, with row pointers.

    >>> table = TokenTable([[5, 6, 7], [8]])
    >>> len(table), table[0].tolist(), table.lengths.tolist()
    (2, [5, 6, 7], [3, 1])
    """

    def __init__(self, ids: Sequence[Sequence[int]]) -> None:
        self.lengths = np.fromiter((len(row) for row in ids), dtype=np.int64, count=len(ids))  # [N]
        self.indptr = np.concatenate([[0], np.cumsum(self.lengths)])  # [N + 1]
        self.tokens = np.fromiter((t for row in ids for t in row), dtype=np.int32, count=int(self.indptr[-1]))

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, row: int) -> np.ndarray:
        return self.tokens[self.indptr[row] : self.indptr[row + 1]]

    def __iter__(self) -> Any:
        return (self[row] for row in range(len(self)))


class TokenizedQueries(TorchDataset):
    """The queries of a split, tokenised once.

    Args:
        queries: a table with `uid`, `text`, `labels`.
        tokenize: texts to token ids, as `lambda texts: model.tokenize(texts, "query")`.
        ignored: pairs that take no part in the loss and in predictions, over the rows of `queries`.

    An item is a dict: `row`, `input_ids` and `positives` (int arrays), `ignored` if given.
    """

    def __init__(self, queries: Dataset, tokenize: Tokenize, ignored: Positives | None = None) -> None:
        missing = {"text", "labels"} - set(queries.column_names)
        if missing:
            raise ValueError(
                f"The queries have columns {queries.column_names}, but need {sorted(missing)} as well; "
                "pass a split of load_xmc_dataset(...).queries."
            )
        if ignored is not None and len(ignored) != len(queries):
            raise ValueError(f"Found ignored pairs for {len(ignored)} rows, but the split has {len(queries)} queries.")
        self.tokens = TokenTable(tokenize(queries["text"][:]))
        self.positives = positives_of(queries)
        self.ignored = ignored

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, row: int) -> dict[str, Any]:
        item = {"row": row, "input_ids": self.tokens[row], "positives": self.positives.row(row)}
        if self.ignored is not None:
            item["ignored"] = self.ignored.row(row)
        return item
