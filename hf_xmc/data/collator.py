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
    """Pads token ids on the right and packs positives as CSR.

    A batch holds `row` `[B]`, `input_ids` and `attention_mask` `[B, T]`, and `positives_indptr` `[B + 1]`,
    `positives_indices` `[nnz]`; if the items have ignored pairs, also `ignored_indptr` and `ignored_indices`; all
    int64. If they have weights, also `positives_weights` `[nnz]`, float32. Ids are catalogue ids. (No key is called
    `labels`, because the Trainer treats that key as its own.)

    >>> item = {"row": 0, "input_ids": [101, 7, 102], "positives": [3, 9]}
    >>> QueryCollator(pad_token_id=0)([item, {**item, "input_ids": [101, 102]}])["input_ids"].tolist()
    [[101, 7, 102], [101, 102, 0]]
    """

    pad_token_id: int = 0

    def __call__(self, items: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        lengths = np.array([len(item["input_ids"]) for item in items])  # [B]
        attention_mask = np.arange(lengths.max()) < lengths[:, None]  # [B, T]
        input_ids = np.full(attention_mask.shape, self.pad_token_id, dtype=np.int64)
        input_ids[attention_mask] = np.concatenate([item["input_ids"] for item in items])
        mask = torch.from_numpy(attention_mask.astype(np.int64))
        batch = {"input_ids": torch.from_numpy(input_ids), "attention_mask": mask}
        batch["row"] = torch.tensor([item["row"] for item in items])
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
    """The pairs that `pack` packed, or None if the batch has none of that name."""
    if f"{name}_indptr" not in batch:
        return None
    return Positives(batch[f"{name}_indptr"], batch[f"{name}_indices"], batch.get(f"{name}_weights"))
