"""From the items of `TokenizedQueries` to one batch of tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hf_xmc.types import Positives


@dataclass(frozen=True)
class QueryCollator:
    """Packs the positives of queries as CSR.

    A batch holds `row` `[B]`, which names the queries' token ids in the table of their split, `positives_indptr`
    `[B + 1]` and `positives_indices` `[nnz]`; the same with `ignored_` where the items have ignored pairs. All int64.
    Where the items have weights, `positives_weights` `[nnz]`, float32. Ids are catalogue ids. (No key is called
    `labels`: the Trainer would count it.)

    >>> QueryCollator()([{"row": 5, "positives": [3, 9]}, {"row": 2, "positives": [4]}])["positives_indptr"].tolist()
    [0, 2, 3]
    """

    def __call__(self, items: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        batch = {"row": torch.tensor([item["row"] for item in items])}
        for name in ("positives", "ignored"):
            if name in items[0]:
                batch |= pack([item[name] for item in items], name)
        if "weights" in items[0]:
            weights = np.concatenate([np.asarray(item["weights"], dtype=np.float32) for item in items])
            batch["positives_weights"] = torch.from_numpy(weights)
        return batch


def pack(rows: Sequence[Any], name: str) -> dict[str, Tensor]:
    """Label ids of each query as the two tensors of a CSR matrix."""
    lengths = np.array([len(row) for row in rows], dtype=np.int64)
    indices = np.concatenate([np.asarray(row, dtype=np.int64) for row in rows])
    return {
        f"{name}_indptr": torch.from_numpy(np.concatenate([[0], np.cumsum(lengths)])),
        f"{name}_indices": torch.from_numpy(indices),
    }


def unpack(batch: dict[str, Tensor], name: str) -> Positives | None:
    """What `pack` packed, or `None` where the batch has no such pairs."""
    if f"{name}_indptr" not in batch:
        return None
    return Positives(batch[f"{name}_indptr"], batch[f"{name}_indices"], batch.get(f"{name}_weights"))
