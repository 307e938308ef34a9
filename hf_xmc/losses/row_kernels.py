"""Passes over score rows as single Triton kernels, for GPUs. Each reads the scores once, where torch reads them
several times.

A program handles one block of columns of one row and writes its partial sums, which torch adds up. The result does not
depend on the order in which programs run, so the same input gives the same bits.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

BLOCK = 4096  # columns per program


def exponentials_(scores: torch.Tensor, top: torch.Tensor) -> torch.Tensor:
    """Replace scores `[b, C]` by exp(s - top), in place; returns the sum of each row `[b]`."""
    parts, grid = _parts(scores, 1)
    if scores.numel():
        _exponentials[grid](scores, top, parts, scores.shape[1], scores.stride(0), BLOCK=BLOCK)
    return parts.sum(2)[0]


def selection(scores: torch.Tensor, t: torch.Tensor, alpha: float) -> torch.Tensor:
    """Sums over the labels of each row of scores `[b, C]` at the threshold t `[b]`: `[5, b]`, see `soft_top_k`."""
    parts, grid = _parts(scores, 5)
    if scores.numel():
        _selection[grid](scores, t, parts, scores.shape[1], scores.stride(0), parts.stride(0), alpha, BLOCK=BLOCK)
    return parts.sum(2)


def _parts(scores: torch.Tensor, sums: int) -> tuple[torch.Tensor, tuple[int, int]]:
    """An empty tensor for partial sums `[sums, b, blocks]`, and the grid of programs."""
    grid = len(scores), triton.cdiv(scores.shape[1], BLOCK)
    return scores.new_empty(sums, *grid), grid


@triton.jit
def _exponentials(scores, top, parts, num_labels, stride, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    row, block = tl.program_id(0), tl.program_id(1)
    columns = block * BLOCK + tl.arange(0, BLOCK)
    inside = columns < num_labels
    at = scores + row.to(tl.int64) * stride + columns
    value = tl.load(at, mask=inside, other=-float("inf"))
    value = tl.exp(value - tl.load(top + row))
    tl.store(at, value, mask=inside)
    tl.store(parts + row * tl.num_programs(1) + block, tl.sum(value, 0))


@triton.jit
def _selection(scores, t, parts, num_labels, stride, parts_stride, alpha: tl.constexpr, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    row, block = tl.program_id(0), tl.program_id(1)
    columns = block * BLOCK + tl.arange(0, BLOCK)
    inside = columns < num_labels
    score = tl.load(scores + row.to(tl.int64) * stride + columns, mask=inside, other=-float("inf"))
    distance = score + tl.load(t + row)
    above = distance > 0
    power = tl.exp(-alpha * tl.abs(distance))
    tail = power / (1 + power)  # z below 1/2, 1 - z above
    slope = tail * (1 - tail)
    part = parts + row * tl.num_programs(1) + block
    zero = tail * 0
    tl.store(part, tl.sum(tl.where(above, zero + 1, zero), 0))
    tl.store(part + parts_stride, tl.sum(tl.where(above, tail, zero), 0))
    tl.store(part + 2 * parts_stride, tl.sum(tl.where(above, zero, tail), 0))
    tl.store(part + 3 * parts_stride, tl.sum(tl.where(above, slope, zero), 0))
    tl.store(part + 4 * parts_stride, tl.sum(tl.where(above, zero, slope), 0))
