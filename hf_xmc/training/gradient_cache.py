"""Encoding more texts with gradients than fit in memory at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

Encode = Callable[[np.ndarray], Tensor]
# Chunks whose activations are kept unless the arguments say otherwise. An accelerator's chunk is as large as what its
# memory is meant to hold; a CPU's is small because that is fast, and a batch of queries keeps as much.
KEPT_CHUNKS = {"cpu": 4}


def is_cached(caching: bool | None, num_chunks: int, device: str) -> bool:
    """Whether this many chunks of labels are encoded twice to save memory: what `gradient_caching` says, or for `None`
    whether they are many for this type of device. One forward pass of four is saved where they are few.

    >>> is_cached(None, 4, "cpu"), is_cached(None, 5, "cpu"), is_cached(None, 2, "cuda"), is_cached(False, 9, "cpu")
    (False, True, True, False)
    """
    return num_chunks > KEPT_CHUNKS.get(device, 1) if caching is None else caching


def encode_in_chunks(encode: Encode, chunks: Sequence[np.ndarray], caching: bool = True) -> Tensor:
    """Embed texts chunk by chunk, in the memory of one chunk, with exact gradients.

    With `caching`, chunks are encoded without keeping activations; once the loss has made the gradient of all
    embeddings, each chunk is encoded again, with the random state that it had, and differentiated (GradCache, Gao et
    al. 2021; DEXML, Gupta et al. 2024). That is what activation checkpointing of one chunk does, so that is what
    carries it here: autocast and gradient scaling work as everywhere, and where the encoder checkpoints its own layers
    as well, these keep their inputs alone while a chunk is encoded again.

    Args:
        encode: numbers of texts, int64 `[n]`, to their embeddings `[n, D]`.
        chunks: numbers of texts; together each of `0 ... N-1` once.
        caching: False keeps all activations.

    Returns:
        Embeddings `[N, D]`, in the order of the numbers.
    """
    if caching and torch.is_grad_enabled():
        parts = [checkpoint(encode, chunk, use_reentrant=False) for chunk in chunks]
    else:
        parts = [encode(chunk) for chunk in chunks]
    order = np.concatenate(chunks)
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    return torch.cat(parts)[torch.from_numpy(place).to(parts[0].device)]
