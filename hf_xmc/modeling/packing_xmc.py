"""Batches with little or no padding: texts are packed into one row if the attention allows it."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from .towers_xmc import OFFSET_POSITIONS

PACKED_SDPA = "packed_sdpa"  # the name under which `packed_sdpa` is registered with transformers
CHUNK_TOKENS = {"cpu": 1024}  # with MiniLM, 2,048 took 10 % longer than 512
DEFAULT_CHUNK_TOKENS = 16384  # on an accelerator, which needs large products


def encode_texts(
    model: Any, ids: Any, side: str, batch_size: int | None, progress: bool, output: str, rows: np.ndarray | None
) -> Tensor:
    """Embeddings of tokenised texts in their order; see `XMCDualEncoderModel.encode_tokens`."""
    rows = np.arange(len(ids)) if rows is None else rows
    lengths = ids.lengths[rows] if hasattr(ids, "lengths") else np.array([len(ids[i]) for i in rows], np.int64)
    result = torch.empty(len(rows), model.width(side, output))
    with tqdm(total=len(rows), unit=" texts", desc=f"Encoding {side} texts", delay=2, disable=not progress) as bar:
        for chunk in chunks_of(lengths, chunk_tokens(model.device), batch_size, model.packs(side)):
            batch = model.batch(*flatten(ids, rows[chunk]), side)
            result[chunk] = model(**batch, side=side)[output].float().cpu()
            bar.update(len(chunk))
    return result


def flatten(ids: Any, rows: np.ndarray) -> tuple[Tensor, Tensor]:
    """The concatenated tokens of some texts, int64 `[T]`, and the length of each text, int64 `[n]`.

    Args:
        ids: token ids of each text; or a table with a method `take`, which returns both for `rows`.
        rows: which texts, int `[n]`.
    """
    if hasattr(ids, "take"):
        tokens, lengths = ids.take(rows)
    else:
        lists = [np.asarray(ids[i], dtype=np.int64) for i in rows]
        lengths = np.array([len(row) for row in lists], dtype=np.int64)
        tokens = np.concatenate([np.zeros(0, np.int64), *lists])
    return torch.from_numpy(tokens), torch.from_numpy(lengths)


def pad(tokens: Tensor, lengths: Tensor, padding: int = 0) -> dict[str, Any]:
    """Texts as padded rows (on the right): `input_ids` and `attention_mask`, int64 `[n, width]`.

    >>> pad(torch.tensor([5, 6, 7]), torch.tensor([2, 1]))["input_ids"].tolist()
    [[5, 6], [7, 0]]
    """
    width = int(lengths.max()) if len(lengths) else 0
    mask = torch.arange(width, device=tokens.device) < lengths[:, None]  # [n, width]
    input_ids = torch.full(mask.shape, padding, dtype=torch.int64, device=tokens.device)
    input_ids[mask] = tokens
    return {"input_ids": input_ids, "attention_mask": mask.to(torch.int64)}


def pack(tokens: Tensor, lengths: Tensor, first_position: int = 0) -> dict[str, Any]:
    """Texts packed into a single row, without padding: `input_ids` and `position_ids`, which start again with each
    text, int64 `[1, T]`; `cu_seq_lens`, the boundaries of the texts, int32 `[n + 1]`; and `max_length`, an int.

    >>> batch = pack(torch.tensor([5, 6, 7]), torch.tensor([2, 1]))
    >>> batch["position_ids"].tolist(), batch["cu_seq_lens"].tolist(), batch["max_length"]
    ([[0, 1, 0]], [0, 2, 3], 2)
    """
    ends = lengths.cumsum(0)  # [n]
    position = torch.arange(len(tokens), device=tokens.device) - (ends - lengths).repeat_interleave(lengths)
    return {
        "input_ids": tokens[None],
        "position_ids": position[None] + first_position,
        "cu_seq_lens": nn.functional.pad(ends, (1, 0)).to(torch.int32),
        "max_length": int(lengths.max()) if len(lengths) else 0,
    }


def chunks_of(lengths: np.ndarray, max_tokens: int, max_texts: int | None, packed: bool) -> list[np.ndarray]:
    """Texts sorted by length and split into chunks of at most `max_tokens` tokens, including padding, and at most
    `max_texts` texts. A longer text is a chunk of its own.

    >>> [chunk.tolist() for chunk in chunks_of(np.array([3, 9, 3, 2]), max_tokens=8, max_texts=None, packed=False)]
    [[3, 0], [2], [1]]
    >>> [chunk.tolist() for chunk in chunks_of(np.array([3, 9, 3, 2]), max_tokens=8, max_texts=None, packed=True)]
    [[3, 0, 2], [1]]
    """
    order = np.argsort(lengths, kind="stable")
    most = min(max_texts or max_tokens, max_tokens)  # every text has at least one token
    chunks, start = [], 0
    while start < len(order):
        ahead = lengths[order[start : start + most]].astype(np.int64)
        tokens = ahead.cumsum() if packed else ahead * np.arange(1, len(ahead) + 1)  # of the chunk if it ends here
        stop = start + max(int(np.searchsorted(tokens, max_tokens, side="right")), 1)
        chunks.append(order[start:stop])
        start = stop
    return chunks


def chunk_tokens(device: torch.device) -> int:
    """Number of tokens per chunk that suits a device."""
    return CHUNK_TOKENS.get(device.type, DEFAULT_CHUNK_TOKENS)


def packed_sdpa(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    """Attention within each text of a packed row; for batches that are not packed, the same as `sdpa`.

    Texts of the same length form a batch without padding, so texts should be sorted by length: each run is one call.
    On a CPU this is faster than padding, even with runs of one text; GPUs have kernels for it (flash attention).

    Args:
        query, key, value: `[1, heads, T, d]`.
        attention_mask: ignored if `kwargs` contain `cu_seq_lens_q`.
    """
    boundaries = kwargs.get("cu_seq_lens_q")
    if boundaries is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    parts, start = [], 0
    for length, count in runs(boundaries.diff().tolist()):
        stop = start + length * count
        texts = [
            x[0, :, start:stop].unflatten(1, (count, length)).transpose(0, 1) for x in (query, key, value)
        ]  # [count, heads, length, d]
        attended, _ = sdpa_attention_forward(module, texts[0], texts[1], texts[2], None, **kwargs)
        parts.append(attended.flatten(0, 1))  # [count * length, heads, d]
        start = stop
    return torch.cat(parts)[None], None


def runs(lengths: Sequence[int]) -> list[tuple[int, int]]:
    """Runs of equal numbers: the number, and how often it occurs.

    >>> runs([3, 3, 5])
    [(3, 2), (5, 1)]
    """
    found: list[tuple[int, int]] = []
    for length in lengths:
        if found and found[-1][0] == length:
            found[-1] = (length, found[-1][1] + 1)
        else:
            found.append((length, 1))
    return found


def positions_from(encoder: Any) -> int:
    """The position of the first token of a text: some models count positions from the padding id."""
    return encoder.config.pad_token_id + 1 if encoder.config.model_type in OFFSET_POSITIONS else 0


def packs(encoder: Any) -> bool:
    """Whether an encoder packs: what `can_pack` finds, tried once per device, dtype and attention."""
    state = (encoder.device, encoder.dtype, (encoder.config._attn_implementation or "").replace(PACKED_SDPA, "sdpa"))
    known = vars(encoder).setdefault("packs_on", {})
    if state not in known:
        known[state] = can_pack(encoder)
    return known[state]


@torch.no_grad()
def can_pack(encoder: Any) -> bool:
    """Whether an encoder gives texts in a packed row the same hidden states as texts on their own. The encoder is the
    same afterwards.

    Packing needs attention that keeps texts apart: flash attention, or `sdpa` on a CPU, for which `packed_sdpa` stands
    in. It needs positions that are passed in, no positions relative within the row, and attention over the whole text
    (no window). What the configuration tells is checked first; then two texts are tried.
    """
    config, kind = encoder.config, getattr(encoder.config, "_attn_implementation", None) or ""
    flash = kind.startswith("flash_attention")
    on_cpu = encoder.device.type == "cpu" and kind in ("sdpa", PACKED_SDPA)
    layers = set(getattr(config, "layer_types", None) or ()) - {"full_attention"}
    windows = layers or getattr(config, "sliding_window", None) or getattr(config, "local_attention", None)
    takes = inspect.signature(type(encoder).forward).parameters
    if not (flash or on_cpu) or windows or not {"position_ids", "kwargs"} <= set(takes):
        return False
    lengths = torch.tensor([3, 2], device=encoder.device)
    tokens = torch.arange(5, device=encoder.device) + (config.pad_token_id or 0) + 1  # none of them is padding
    tokens %= config.vocab_size
    was_training = encoder.training
    encoder.eval()
    try:
        # Flash attention has no float32.
        with torch.autocast(encoder.device.type, torch.bfloat16, enabled=flash and encoder.dtype == torch.float32):
            together = encode(encoder, pack(tokens, lengths, positions_from(encoder)))[0].float()
            apart = torch.cat([encode(encoder, {"input_ids": part[None]})[0] for part in tokens.split([3, 2])]).float()
    finally:
        encoder.train(was_training)
        if on_cpu:
            config._attn_implementation = kind
    close = 1e-4 if on_cpu and encoder.dtype == torch.float32 else 5e-2
    return bool((together - apart).abs().max() <= close * apart.abs().max())


def encode(encoder: Any, batch: dict[str, Any]) -> Tensor:
    """Hidden states of a batch that `pad` or `pack` made: `[n, width, H]` or `[1, T, H]`.

    An encoder with `sdpa` attention changes to `packed_sdpa` at its first packed batch and keeps it, because with
    activation checkpointing its layers run again in the backward pass. For padded batches the two are the same.
    """
    if "cu_seq_lens" not in batch:
        return encoder(**batch).last_hidden_state
    if encoder.config._attn_implementation == "sdpa":
        encoder.config._attn_implementation = PACKED_SDPA
    bounds, longest = batch["cu_seq_lens"], batch["max_length"]
    return encoder(
        input_ids=batch["input_ids"],
        position_ids=batch["position_ids"],
        cu_seq_lens_q=bounds,
        cu_seq_lens_k=bounds,
        max_length_q=longest,
        max_length_k=longest,
    ).last_hidden_state


AttentionInterface.register(PACKED_SDPA, packed_sdpa)
AttentionMaskInterface.register(PACKED_SDPA, sdpa_mask)
