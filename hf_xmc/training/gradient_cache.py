"""Encoding more texts with gradients than fit in memory at once."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

Encode = Callable[[Tensor], Tensor]


def encode_in_chunks(encode: Encode, lengths: Tensor, chunk_size: int, caching: bool = True) -> Tensor:
    """Embed texts chunk by chunk, in the memory of one chunk, with exact gradients.

    With `caching`, chunks are encoded without keeping activations; once the loss has made the gradient of all
    embeddings, each chunk is encoded again, with the random state that it had, and differentiated (GradCache, Gao et
    al. 2021; DEXML, Gupta et al. 2024). That is what activation checkpointing of one chunk does, so that is what
    carries it here: autocast and gradient scaling work as everywhere.

    Args:
        encode: numbers of texts, int64 `[n]`, to their embeddings `[n, D]`.
        lengths: tokens of each text, `[N]`. Texts are sorted by it, so that a chunk holds little padding.
        chunk_size: texts a chunk.
        caching: False keeps all activations.

    Returns:
        Embeddings `[N, D]`, in the order given.
    """
    order = lengths.argsort(stable=True)
    if caching and torch.is_grad_enabled():
        chunks = [checkpoint(encode, rows, use_reentrant=False) for rows in order.split(chunk_size)]
    else:
        chunks = [encode(rows) for rows in order.split(chunk_size)]
    return torch.cat(chunks)[order.argsort()]
