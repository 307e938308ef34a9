"""The three matrix products of a step.

float32 and float64 go to the library as they are. Half precision is summed in float32; on a device that cannot do so
(CPU), parts of the embeddings are converted. The gradient of the scores is then bfloat16, whatever the embeddings are,
because its range is larger than that of float16.
"""

from __future__ import annotations

import torch

LABELS_PER_CAST = 2**14  # half-precision embeddings are converted in parts, to avoid a second copy of all of them


def score_tile(x: torch.Tensor, y: torch.Tensor, temperature: float, out: torch.Tensor) -> torch.Tensor:
    """x y^T / temperature, `[b, C]`, into `out`."""
    if x.dtype == out.dtype:
        torch.mm(x / temperature, y.T, out=out)
    elif x.device.type == "cuda":
        torch.mm(x, y.T, out_dtype=out.dtype, out=out).div_(temperature)
    else:
        x = x.to(out.dtype) / temperature
        for part, scores in zip(y.split(LABELS_PER_CAST), out.split(LABELS_PER_CAST, 1), strict=True):
            torch.mm(x, part.to(out.dtype).T, out=scores)
    return out


def times_labels(tile: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """tile y, `[b, D]`."""
    if tile.dtype == y.dtype:
        return tile @ y
    total = tile.new_zeros(len(tile), y.shape[1])
    for part, scores in zip(y.split(LABELS_PER_CAST), tile.split(LABELS_PER_CAST, 1), strict=True):
        if y.device.type == "cuda":
            total += torch.mm(scores.bfloat16(), part.bfloat16(), out_dtype=tile.dtype)
        else:
            total.addmm_(scores, part.to(tile.dtype))
    return total


def add_labels_gradient(
    grad_y: torch.Tensor, tile: torch.Tensor, x: torch.Tensor, dtype: torch.dtype, beta: int
) -> None:
    """grad_y `[C, D]` = beta grad_y + tile^T x; with beta = 0, grad_y may be uninitialised."""
    if dtype == tile.dtype or tile.device.type != "cuda":
        grad_y.addmm_(tile.T, x, beta=beta)
        return
    for part, scores in zip(grad_y.split(LABELS_PER_CAST), tile.split(LABELS_PER_CAST, 1), strict=True):
        product = torch.mm(scores.bfloat16().T, x.bfloat16(), out_dtype=tile.dtype)
        part.add_(product) if beta else part.copy_(product)
