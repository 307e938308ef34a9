"""Hard negatives from an index: every query searches the catalogue now and then, and learns from what it found."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm.auto import tqdm

from hf_xmc.data.tokenized import TokenizedQueries
from hf_xmc.losses.sharding import Shard
from hf_xmc.retrieval.auto import build_measured
from hf_xmc.retrieval.search import as_matrix, as_topk
from hf_xmc.retrieval.vectors import VectorIndex
from hf_xmc.sampling.candidates import in_batch
from hf_xmc.sampling.draws import draw_pairs
from hf_xmc.sampling.mining import are_negative, keep_margins, mine_negatives
from hf_xmc.sampling.pairs import all_but, from_padded
from hf_xmc.training.arguments import XMCTrainingArguments
from hf_xmc.training.distributed import part
from hf_xmc.training.encoding import TextEncoder
from hf_xmc.training.label_step import Batch, CandidateRule, LabelStep
from hf_xmc.types import Positives

MINED = "mined_negatives.safetensors"
RECALL = 0.95  # of the true first ten, by an index that is not exact
SAMPLE = 256  # queries that it is measured on
RESULTS = 2**21  # of a search at a time


class MinedLabels(CandidateRule):
    """The positives of the window, and for each of its queries some negatives that an index has found.

    Before every `mining_refresh_epochs`-th epoch all training queries search all labels (ANCE, Xiong et al., ICLR
    2021). What is kept of it is a table of the best `mining_depth` negatives of each query, out of which every step
    draws `num_hard_negatives`. `mixed` compares every query with every candidate; `mined` each with its positives and
    its own negatives alone. All other labels then move as they like, and overtake the mined ones before they are mined
    again: that is for small steps from a model that is good already. Measured with a frozen MiniLM and a trained
    projection (biotools_edam, B = 64, P@1 / P@5 on validation, per cent; the untrained projection has 20.3 / 12.2):

                                                          in_batch       mixed          mined
        2 epochs, learning rate 1e-3                      49.2 / 27.7    56.5 / 33.4     7.1 /  4.1
        2 more after two in batch, learning rate 1e-4     49.9 / 27.6    56.4 / 32.6    54.8 / 32.5
        2 more after two in batch, learning rate 1e-5     49.8 / 27.6    53.7 / 30.1    54.5 / 30.5

    Each rank searches for its part of the queries; all hold the whole table.
    """

    def __init__(
        self, args: XMCTrainingArguments, encoder: TextEncoder, ranks: Shard, split: TokenizedQueries | None
    ) -> None:
        self.args = args
        self.encoder = encoder
        self.ranks = ranks
        self.split = split
        self.reset()

    def reset(self) -> None:
        self.table: Tensor | None = None  # ids of the mined negatives, -1 for none, int32 [N, mining_depth]
        self.mined_at = 0  # epoch
        self.too_close = 0.0  # share of the negatives found that did not keep a margin

    def choose(self, step: LabelStep, queries: Tensor) -> Tensor | None:
        positives = in_batch(step.positives(self.args.num_positives, self.args.seed))
        negatives = self.negatives(step, torch.cat([batch["row"] for batch in step.batches]))
        return torch.unique(torch.cat([positives, self.ranks.gather(negatives.indices)]))

    def negatives(self, step: LabelStep, rows: Tensor) -> Positives:
        """The negatives of some queries that are drawn for this step; ids are those of the catalogue."""
        if self.table is None:
            raise RuntimeError(
                "No negatives have been mined yet: train() does so before an epoch. For a loss outside of it, call "
                "trainer.begin_epoch(0) first."
            )
        mined = from_padded(self.table[rows.cpu()].to(rows.device))
        return draw_pairs(mined, rows, self.args.num_hard_negatives, self.args.seed, step.number)

    def compared(self, step: LabelStep, batch: Batch) -> tuple[Positives, Positives | None]:
        positives, ignored = step.columns(batch)
        if self.args.label_strategy == "mixed":
            return positives, ignored
        assert step.candidates is not None
        own = [positives, step.to_columns(self.negatives(step, batch["row"]))]
        return positives, all_but(own, len(step.candidates), ignored)

    def due(self, epoch: int) -> bool:
        return self.table is None or epoch >= self.mined_at + self.args.mining_refresh_epochs

    def update(self, queries: Tensor, labels: Tensor, epoch: int) -> None:
        own = np.arange(len(queries))[part(len(queries), self.ranks)]
        matrix, sample = as_matrix(queries), as_matrix(queries[:: max(1, len(queries) // SAMPLE)])
        factory = self.args.mining_factory
        index, _ = build_measured(factory, as_matrix(labels), np.arange(len(labels)), RECALL, sample[:SAMPLE])
        if index.factory == "flat":
            index.to(self.args.device)
        table, counts = self.mine(index, matrix, own)
        device = self.args.device
        self.table = self.ranks.gather(torch.from_numpy(table).to(device)).cpu()
        found, close = self.ranks.sum_(torch.tensor(counts, device=device)).tolist()
        self.too_close = close / max(found, 1)
        self.mined_at = epoch

    def mine(self, index: VectorIndex, queries: np.ndarray, own: np.ndarray) -> tuple[np.ndarray, list[int]]:
        """The table of these rows, `[n, mining_depth]`; how many negatives were found, and how many of them were too
        close to a positive."""
        args, split = self.args, self.split
        assert split is not None
        margins = args.mining_absolute_margin, args.mining_relative_margin
        counts = split.positives.counts + (0 if split.ignored is None else split.ignored.counts)
        k = min(args.mining_depth + int(counts.max(initial=0)), index.num_rows)
        table = np.full((len(own), args.mining_depth), -1, dtype=np.int32)
        found = close = 0
        bar = tqdm(total=len(own), desc="Mining", unit=" queries", delay=2, disable=not self.encoder.progress)
        with bar:
            for start in range(0, len(own), size := max(1, RESULTS // k)):
                rows = own[start : start + size]
                positives = split.positives.take(rows)
                ignored = None if split.ignored is None else split.ignored.take(rows)
                scores, ids = index.search(queries[rows], k)
                topk = as_topk(ids, scores, k)
                table[start : start + size] = mine_negatives(topk, positives, ignored, args.mining_depth, *margins)
                negative = are_negative(topk, positives, ignored)
                found += int(negative.sum())
                close += int((negative & ~keep_margins(topk, positives, ignored, *margins)).sum())
                bar.update(len(rows))
        return table, [found, close]

    def report(self) -> dict[str, float]:
        if self.table is None:
            return {}
        mined = float((self.table >= 0).sum()) / max(len(self.table), 1)
        return {"mined_negatives": mined, "mined_too_close": self.too_close}

    def save(self, folder: Path) -> None:
        if self.table is not None:
            about = torch.tensor([self.mined_at, self.too_close], dtype=torch.float64)
            save_file({"negatives": self.table, "about": about}, folder / MINED)

    def load(self, folder: Path) -> None:
        path = folder / MINED
        self.reset()
        if not path.is_file():  # another strategy was in use
            return
        found = load_file(path)
        queries = 0 if self.split is None else len(self.split)
        if len(found["negatives"]) != queries:
            raise ValueError(
                f"{path} holds mined negatives of {len(found['negatives']):,} queries, but the training split has "
                f"{queries:,}; resume with the data of the run that wrote it."
            )
        self.table = found["negatives"]
        self.mined_at, self.too_close = int(found["about"][0]), float(found["about"][1])
