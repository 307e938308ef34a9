"""Pooling: hidden states to one vector per text."""

from __future__ import annotations

import torch
from torch import Tensor

from .errors_xmc import SettingsError


def pool(hidden: Tensor, attention_mask: Tensor | None, pooling: str, cu_seq_lens: Tensor | None = None) -> Tensor:
    """Hidden states `[B, T, H]` to one vector per text, `[B, H]`; padding may be on either side.

    With `cu_seq_lens`, `[B + 1]`, texts are packed into the single row of `hidden`, `[1, T, H]`.

    >>> hidden = torch.tensor([[[1.0], [3.0], [9.0]]])
    >>> mask = torch.tensor([[1, 1, 0]])
    >>> [pool(hidden, mask, how).item() for how in ("mean", "cls", "last")]
    [2.0, 1.0, 3.0]
    """
    if cu_seq_lens is not None:
        return pool_packed(hidden[0], cu_seq_lens.long(), pooling)
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
        raise SettingsError(f"pooling is {pooling!r}; expected mean, cls or last.")
    return hidden[torch.arange(len(hidden), device=hidden.device), place]


def pool_packed(hidden: Tensor, bounds: Tensor, pooling: str) -> Tensor:
    """Hidden states of packed texts, `[T, H]`, to one vector per text, `[B, H]`.

    >>> hidden = torch.tensor([[1.0], [3.0], [9.0]])
    >>> [pool_packed(hidden, torch.tensor([0, 2, 3]), how).flatten().tolist() for how in ("mean", "cls", "last")]
    [[2.0, 9.0], [1.0, 9.0], [3.0, 9.0]]
    """
    if pooling == "cls":
        return hidden[bounds[:-1]]
    if pooling == "last":
        return hidden[bounds[1:] - 1]
    if pooling != "mean":
        raise SettingsError(f"pooling is {pooling!r}; expected mean, cls or last.")
    lengths = bounds.diff()  # [B]
    text = torch.arange(len(lengths), device=hidden.device).repeat_interleave(lengths, output_size=len(hidden))  # [T]
    sums = hidden.new_zeros(len(lengths), hidden.shape[1]).index_add(0, text, hidden)
    return sums / lengths.clamp(min=1).unsqueeze(-1).to(hidden.dtype)
