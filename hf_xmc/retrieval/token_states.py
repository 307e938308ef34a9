"""Hidden states of the tokens of many texts, by the encoder of a tagger."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm.auto import tqdm

if TYPE_CHECKING:
    from torch import Tensor

    from hf_xmc.modeling import XMCDualEncoderModel

HALF = float(np.finfo(np.float16).max)


@dataclass(frozen=True)
class TokenStates:
    """One vector for each token of each text.

    Args:
        values: all tokens, text after text, float16 `[tokens, D]`; in memory, or in a file that is mapped.
        bounds: the tokens of text i are `values[bounds[i] : bounds[i + 1]]`, int64 `[N + 1]`.
    """

    values: np.ndarray
    bounds: np.ndarray

    def __len__(self) -> int:
        return len(self.bounds) - 1

    def __getitem__(self, row: int) -> np.ndarray:
        """The tokens of one text, float16 `[T, D]`."""
        return self.values[self.bounds[row] : self.bounds[row + 1]]

    def padded(self, rows: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Some texts with zeros after the shorter ones, float32 `[n, T, D]`, and true at tokens, bool `[n, T]`."""
        import torch

        lengths = np.array([self.bounds[row + 1] - self.bounds[row] for row in rows])
        mask = torch.arange(int(lengths.max(initial=1))) < torch.from_numpy(lengths)[:, None]
        states = torch.zeros(*mask.shape, self.values.shape[1])
        states[mask] = torch.from_numpy(np.concatenate([self[row] for row in rows])).float()
        return states, mask


def encode_token_states(
    model: XMCDualEncoderModel,
    texts: Sequence[str],
    side: Any,
    project: Callable[[Tensor], Tensor] | None = None,
    file: str | os.PathLike[str] | None = None,
    batch_size: int = 64,
    progress: bool = False,
) -> TokenStates:
    """Last hidden states of texts of one side, without those of special tokens; a text of nothing else keeps them.

    Args:
        side: `"query"` or `"label"`: its tower, prefix and maximum length.
        project: applied to the states of each batch, `[tokens, H]` -> `[tokens, D]`; by default they stay as they are.
        file: write the states there, as float16 without a header, rather than into memory.

    Raises:
        SettingsError: the model has a static tower alone, and no encoder.
    """
    import torch

    from hf_xmc.modeling.packing_xmc import chunk_tokens, chunks_of, encode, flatten

    encoder = model.tower(side)
    ids = model.token_ids(list(texts), side)
    kept = [content_tokens(model, row) for row in ids]
    bounds = np.concatenate([[0], np.cumsum([len(places) for places in kept], dtype=np.int64)])
    width = (
        encoder.config.hidden_size
        if project is None
        else project(torch.zeros(1, encoder.config.hidden_size).to(model.device)).shape[1]
    )
    shape = (int(bounds[-1]), int(width))
    values = np.empty(shape, np.float16) if file is None else np.memmap(file, np.float16, "w+", shape=shape)
    was_training = model.training
    model.eval()
    lengths = np.array([len(row) for row in ids], dtype=np.int64)
    chunks = chunks_of(lengths, chunk_tokens(model.device), batch_size, model.packs(side))
    with (
        torch.no_grad(),
        tqdm(total=len(ids), unit=" texts", desc="Encoding tokens", delay=2, disable=not progress) as bar,
    ):
        for chunk in chunks:
            batch = model.batch(*flatten(ids, chunk), side)
            hidden = encode(encoder, batch)  # [n, T, H], or packed [1, T, H]
            hidden = hidden[batch["attention_mask"].bool()] if "attention_mask" in batch else hidden.flatten(0, 1)
            starts = np.concatenate([[0], np.cumsum(lengths[chunk])])
            hidden = hidden[np.concatenate([kept[i] + start for i, start in zip(chunk, starts[:-1], strict=True)])]
            states = (hidden if project is None else project(hidden.float())).float().clamp(-HALF, HALF)
            parts = np.split(states.cpu().numpy(), np.cumsum([len(kept[i]) for i in chunk])[:-1])
            for i, part in zip(chunk, parts, strict=True):
                values[bounds[i] : bounds[i + 1]] = part
            bar.update(len(chunk))
    model.train(was_training)
    return TokenStates(values, bounds)


def content_tokens(model: XMCDualEncoderModel, ids: Sequence[int]) -> np.ndarray:
    """The places of the tokens that stand for words, int64 `[n]`; all of them, if there are none.

    Unknown words are words as well, although their token is a special one.
    """
    tokenizer = model.tokenizer
    special = set() if tokenizer is None else {*tokenizer.all_special_ids} - {tokenizer.unk_token_id}
    places = [place for place, token in enumerate(ids) if token not in special]
    return np.array(places or range(len(ids)), dtype=np.int64)
