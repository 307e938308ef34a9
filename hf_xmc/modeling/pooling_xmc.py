"""Tokens to one vector a text: padding on the way in, pooling on the way out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def pool(hidden: Tensor, attention_mask: Tensor | None, pooling: str) -> Tensor:
    """Hidden states `[B, T, H]` to one vector a text, `[B, H]`; padding may stand on either side.

    >>> hidden = torch.tensor([[[1.0], [3.0], [9.0]]])
    >>> mask = torch.tensor([[1, 1, 0]])
    >>> [pool(hidden, mask, how).item() for how in ("mean", "cls", "last")]
    [2.0, 1.0, 3.0]
    """
    if attention_mask is None:
        attention_mask = hidden.new_ones(hidden.shape[:2])
    if pooling == "mean":
        weights = attention_mask.unsqueeze(-1).to(hidden.dtype)  # [B, T, 1]
        return (hidden * weights).sum(1) / weights.sum(1).clamp(min=1)
    position = torch.arange(hidden.shape[1], device=hidden.device)
    mask = attention_mask.bool()
    if pooling == "cls":
        place = position.masked_fill(~mask, hidden.shape[1]).amin(1).clamp(max=hidden.shape[1] - 1)
    elif pooling == "last":
        place = position.masked_fill(~mask, 0).amax(1)
    else:
        raise ValueError(f"pooling is {pooling!r}; expected mean, cls or last.")
    return hidden[torch.arange(len(hidden), device=hidden.device), place]


def pad(ids: Sequence[Any], padding: int) -> dict[str, Tensor]:
    """Token ids (a sequence each) to `input_ids` and `attention_mask`, int64 `[B, T]`, padded on the right.

    >>> pad([[5, 6], [7]], 0)["input_ids"].tolist()
    [[5, 6], [7, 0]]
    """
    width = max((len(row) for row in ids), default=0)
    tokens = torch.full((len(ids), width), padding, dtype=torch.int64)
    mask = torch.zeros((len(ids), width), dtype=torch.int64)
    for i, row in enumerate(ids):
        tokens[i, : len(row)] = torch.tensor(row, dtype=torch.int64)
        mask[i, : len(row)] = 1
    return {"input_ids": tokens, "attention_mask": mask}
