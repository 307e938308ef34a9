"""Encoding more texts with gradients than fit in memory at once."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

Encode = Callable[[Tensor, Tensor], Tensor]


def encode_in_chunks(
    encode: Encode, input_ids: Tensor, attention_mask: Tensor, chunk_size: int, caching: bool = True
) -> Tensor:
    """Embed texts chunk by chunk, in the memory of one chunk, with exact gradients.

    With `caching`, chunks are encoded without keeping activations; once the loss has made the gradient of all
    embeddings, each chunk is encoded again, with the random state that it had, and differentiated (GradCache, Gao et
    al. 2021; DEXML, Gupta et al. 2024). That is what activation checkpointing of one chunk does, so that is what
    carries it here: autocast and gradient scaling work as everywhere.

    Args:
        encode: `input_ids`, `attention_mask` `[n, T]` to embeddings `[n, D]`.
        input_ids, attention_mask: `[N, T]`, padded on the right.
        chunk_size: texts a chunk. They are sorted by length, and a chunk is as wide as its longest text.
        caching: False keeps all activations.

    Returns:
        Embeddings `[N, D]`, in the order given.
    """
    lengths = attention_mask.sum(1)  # [N]
    order = lengths.argsort(stable=True)
    chunks = []
    for rows in order.split(chunk_size):
        width = max(int(lengths[rows[-1]]), 1)
        tokens, mask = input_ids[rows, :width], attention_mask[rows, :width]
        if caching and torch.is_grad_enabled():
            chunks.append(checkpoint(encode, tokens, mask, use_reentrant=False))
        else:
            chunks.append(encode(tokens, mask))
    return torch.cat(chunks)[order.argsort()]
