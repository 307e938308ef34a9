"""The static tower: texts as means of word vectors, without a transformer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import embedding_bag, normalize

from .ngrams_xmc import features

TEXTS = 4096  # texts whose features are held at a time


class StaticTower(nn.Module):
    """One vector for each hashed word, word pair and stem; a text is their idf-weighted sum, of unit length.

    It reads whole texts, in microseconds, and knows exact words: what fastText does for classification, with one space
    for texts and labels. `table` is no trained parameter of an optimizer: each step moves the few rows that it touched
    ([`hf_xmc.training.static_training.StaticTraining`]).

    Args:
        buckets: rows of the table.
        dim: numbers in a vector.

    >>> tower = StaticTower(buckets=64, dim=8)
    >>> tower.encode(["a red car", ""]).norm(dim=1).round(decimals=3).tolist()
    [1.0, 0.0]
    """

    table: nn.Parameter
    idf: Tensor

    def __init__(self, buckets: int, dim: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.empty(buckets, dim), requires_grad=False)
        # Weight of each feature; 0 for one that neither training texts nor labels have, which would be noise.
        self.register_buffer("idf", torch.ones(buckets))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Random vectors of about unit length: texts that share words are similar before any training."""
        nn.init.normal_(self.table, std=self.table.shape[1] ** -0.5)
        nn.init.ones_(self.idf)

    @torch.no_grad()
    def round_to_half(self) -> None:
        """Round the table to what half precision can hold, so that it is saved in half the space."""
        self.table.copy_(self.table.half().to(self.table.dtype))

    @property
    def buckets(self) -> int:
        """Rows of the table."""
        return len(self.table)

    @property
    def dim(self) -> int:
        """Numbers in a vector."""
        return self.table.shape[1]

    def forward(self, ids: Tensor, indptr: Tensor) -> Tensor:
        """Vectors of texts given by their features, `[N, dim]`, float32, of unit length; of a text without known
        features zero.

        Args:
            ids: rows of the table, int `[n]`.
            indptr: where the features of each text begin, int `[N + 1]`.
        """
        return bags(self.table, ids, indptr, self.idf[ids])

    @torch.no_grad()
    def encode(self, texts: Sequence[str]) -> Tensor:
        """Vectors of texts, float32 on the CPU, `[N, dim]`."""
        found = torch.zeros(len(texts), self.dim)
        for start in range(0, len(texts), TEXTS):
            ids, indptr = features(texts[start : start + TEXTS], self.buckets)
            device = self.table.device
            rows, bounds = torch.from_numpy(ids).to(device), torch.from_numpy(indptr).to(device)
            found[start : start + TEXTS] = self(rows, bounds).cpu()
        return found


def bags(table: Tensor, ids: Tensor, indptr: Tensor, weights: Tensor) -> Tensor:
    """Weighted sums of rows, of unit length, float32 `[N, dim]`.

    Args:
        table: `[rows, dim]`.
        ids: rows of the table, int `[n]`.
        indptr: where each sum begins, int `[N + 1]`.
        weights: of each row in its sum, `[n]`.
    """
    if table.dtype not in (torch.float32, torch.float64):
        rows, ids = ids.unique(return_inverse=True)
        table = table[rows].float()
    starts = indptr[:-1].to(ids.dtype)
    sums = embedding_bag(ids, table, starts, mode="sum", per_sample_weights=weights.to(table.dtype))
    return normalize(sums.float(), dim=-1)


def compact(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a model as they are saved: the table of a static tower in half precision, if that loses nothing,
    as after training (`round_to_half`). It is most of the file.

    >>> compact({"static_tower.table": torch.ones(2), "other": torch.ones(2)})["static_tower.table"].dtype
    torch.float16
    """
    found = dict(weights)
    for name, tensor in weights.items():
        if name.endswith("static_tower.table") and torch.equal(tensor.half().to(tensor.dtype), tensor):
            found[name] = tensor.half()
    return found


def inverse_document_frequency(counts: np.ndarray, num_texts: int) -> np.ndarray:
    """Smooth idf as in scikit-learn, float32: `1 + log((1 + N) / (1 + n))` for features that n of N texts have, and 0
    where n is 0.

    >>> inverse_document_frequency(np.array([0, 3]), 3).tolist()
    [0.0, 1.0]
    """
    found = 1 + np.log((1 + num_texts) / (1 + counts))
    return np.where(counts > 0, found, 0.0).astype(np.float32)
