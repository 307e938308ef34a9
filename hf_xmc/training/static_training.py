"""The table of a static tower while it is trained: each step moves the few rows that it touched."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from hf_xmc.data.tokenized import TokenTable
from hf_xmc.losses.sharding import Shard
from hf_xmc.modeling.static_tower_xmc import StaticTower, bags, inverse_document_frequency
from hf_xmc.sampling.draws import LAST, random_keys
from hf_xmc.training.arguments import XMCTrainingArguments
from hf_xmc.training.row_adagrad import update_rows

STATE = "static_tower_optimizer.safetensors"
TEXTS = 2**14  # texts that are embedded at a time where no gradients are needed


class StaticTraining:
    """Trains a [`StaticTower`] alongside the weights of the Trainer, whose optimizer has no part in it.

    A step reads the rows of its texts' features into a leaf, and moves them by row-wise Adagrad at
    `static_learning_rate`, with the Trainer's schedule: a table of 2^18 rows costs no more than the rows that a batch
    touches. Some features of each query are left out (`static_dropout`), chosen by a hash of seed, step, query and
    feature, so that accumulation, processes and a restart give the same result. Labels are few words: they keep all.

    Args:
        tower: the tower, whose table is changed in place.
        args: `static_learning_rate`, `static_dropout`, `seed`.
        ranks: the processes of the run, which all hold the whole table.
    """

    def __init__(self, tower: StaticTower, args: XMCTrainingArguments, ranks: Shard) -> None:
        self.tower = tower
        self.args = args
        self.ranks = ranks
        self.squares = torch.zeros(tower.buckets, device=args.device)
        self.number = 0  # of the step that is under way
        self.touched: list[tuple[Tensor, Tensor]] = []  # rows of this step [c], and their leaf [c, dim]
        self.kept: dict[TokenTable, Bags] = {}  # the features of whole tables that every step needs

    def begin(self, tables: Sequence[TokenTable]) -> None:
        """Count how many of the training texts and labels have each feature. A tower that was trained before keeps its
        weights, and gets those of the features that are new to it."""
        counts = np.zeros(self.tower.buckets, np.int64)
        for table in tables:
            for start in range(0, len(table), TEXTS):
                flat, _ = table.take(np.arange(start, min(start + TEXTS, len(table))))
                counts += np.bincount(flat, minlength=len(counts))
        found = torch.from_numpy(inverse_document_frequency(counts, sum(map(len, tables)))).to(self.tower.idf)
        before = self.tower.idf
        untrained = bool((before == 1).all())
        self.tower.idf.copy_(found if untrained else torch.where(before > 0, before, found))
        self.squares.zero_()
        self.touched = []
        self.kept = {}

    def queries(self, features: TokenTable, rows: Tensor) -> Tensor:
        """Vectors of queries, `[B, dim]`, with gradients and dropout where gradients are enabled.

        Args:
            features: of the split.
            rows: of the queries in it, int64 `[B]`.
        """
        some = Bags.of(features, rows.cpu().numpy(), self.tower.table.device)
        if not torch.is_grad_enabled():
            return self.tower(some.ids, some.indptr)
        weights = self.tower.idf[some.ids]
        if self.args.static_dropout > 0:
            text = rows.to(some.ids.device).repeat_interleave(some.indptr.diff())  # [n]
            keys = random_keys(text, some.ids, self.args.seed, self.number)
            weights = weights * (keys >= int(self.args.static_dropout * LAST))
        return self.embed(some, weights)

    def labels(self, features: TokenTable, ids: Tensor | None) -> Tensor:
        """Vectors of labels (all for `None`), `[C, dim]`, with gradients where they are enabled."""
        if ids is None:
            if features not in self.kept:
                rows = np.arange(len(features))
                self.kept[features] = Bags.of(features, rows, self.tower.table.device)
            some = self.kept[features]
        else:
            some = Bags.of(features, ids.cpu().numpy(), self.tower.table.device)
        if not torch.is_grad_enabled():
            return self.tower(some.ids, some.indptr)
        return self.embed(some, self.tower.idf[some.ids])

    def embed(self, some: Bags, weights: Tensor) -> Tensor:
        """Weighted sums of rows that this step will move, of unit length."""
        leaf = self.tower.table[some.rows].float().requires_grad_()
        self.touched.append((some.rows, leaf))
        return bags(leaf, some.place, some.indptr, weights)

    @torch.no_grad()
    def table(self, features: TokenTable, rows: np.ndarray | None = None) -> Tensor:
        """Vectors of the texts of a table, or of some of its rows, float32 on the CPU, `[N, dim]`."""
        rows = np.arange(len(features)) if rows is None else rows
        found = torch.zeros(len(rows), self.tower.dim)
        for start in range(0, len(rows), TEXTS):
            flat, lengths = features.take(rows[start : start + TEXTS])
            ids, indptr = as_csr(flat, lengths, self.tower.table.device)
            found[start : start + TEXTS] = self.tower(ids, indptr).cpu()
        return found

    def step(self, optimizer: Any, scale: float) -> None:
        """Move the rows of this step, when the optimizer moves the weights; all ranks call it.

        Args:
            optimizer: says where the schedule stands.
            scale: what the loss was multiplied by (fp16); a step whose gradients overflowed changes nothing.
        """
        touched, self.touched = self.touched, []
        pairs = [(rows, leaf.grad / scale) for rows, leaf in touched if leaf.grad is not None]
        device, dim = self.tower.table.device, self.tower.dim
        rows = torch.cat([torch.zeros(0, dtype=torch.int64, device=device), *(rows for rows, _ in pairs)])
        gradients = torch.cat([torch.zeros(0, dim, device=device), *(gradient for _, gradient in pairs)])
        if self.ranks.group is not None:
            rows, gradients = self.ranks.gather(rows), self.ranks.gather(gradients)
        if not bool(torch.isfinite(gradients).all()):
            return
        unique, place = rows.unique(return_inverse=True)
        total = torch.zeros(len(unique), dim, device=device).index_add_(0, place, gradients)
        group = optimizer.param_groups[0]
        factor = group["lr"] / group["initial_lr"] if group.get("initial_lr") else 1.0
        update_rows(self.tower.table.data, self.squares, unique, total, factor * self.args.static_learning_rate)

    def save_state(self, folder: Path) -> None:
        """Write the optimizer state into a checkpoint; the table is saved with the model."""
        save_file({"squares": self.squares.cpu()}, folder / STATE)

    def load(self, folder: Path) -> None:
        """Read the optimizer state of a checkpoint; one that was written with `save_only_model` has none."""
        self.squares.zero_()
        if (folder / STATE).is_file():
            self.squares.copy_(load_file(folder / STATE)["squares"])


class Bags:
    """The features of some texts, ready for a step.

    Args:
        ids: rows of the table, int64 `[n]`.
        indptr: where the features of each text begin, int64 `[N + 1]`.
    """

    def __init__(self, ids: Tensor, indptr: Tensor) -> None:
        self.ids, self.indptr = ids, indptr
        self.rows, self.place = ids.unique(return_inverse=True)  # each row once [c], and where each feature's is [n]

    @classmethod
    def of(cls, features: TokenTable, rows: np.ndarray, device: torch.device) -> Bags:
        """The features of some rows of a table of texts."""
        return cls(*as_csr(*features.take(rows), device))


def as_csr(flat: np.ndarray, lengths: np.ndarray, device: torch.device) -> tuple[Tensor, Tensor]:
    """What `TokenTable.take` returns as `ids` and `indptr`."""
    indptr = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    return torch.from_numpy(flat).to(device), torch.from_numpy(indptr).to(device)
