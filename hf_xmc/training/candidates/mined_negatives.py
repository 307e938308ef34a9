"""Hard negatives from an index: now and then every training query searches all labels, and keeps what it found."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm.auto import tqdm

from hf_xmc.data.tokenized import TokenizedQueries
from hf_xmc.errors import SettingsError
from hf_xmc.losses.sharding import Shard
from hf_xmc.sampling.mining import are_negative, keep_margins, mine_negatives
from hf_xmc.training.candidates.arguments import CandidateArguments
from hf_xmc.training.distributed import part
from hf_xmc.types import Positives, TopK

if TYPE_CHECKING:
    from hf_xmc.retrieval.bags import Bags
    from hf_xmc.retrieval.vectors import VectorIndex

MINED = "mined_negatives.safetensors"
RECALL = 0.95  # of the true first ten, for an index that is not exact
SAMPLE = 256  # queries that the recall is measured on
RESULTS = 2**21  # of a search at a time


class MinedNegatives:
    """The best negatives of each training query, as of the last search (ANCE, Xiong et al., ICLR 2021).

    From `mining_start_epoch` on, before every `mining_refresh_epochs`-th epoch, all training queries search all
    labels, and the best `mining_depth` negatives of each query are kept. Each rank searches for its part of the
    queries; all hold the whole table.
    """

    def __init__(self, args: CandidateArguments, ranks: Shard, split: TokenizedQueries | None, progress: bool) -> None:
        self.args = args
        self.ranks = ranks
        self.split = split
        self.progress = progress
        self.table: Tensor | None = None  # ids of the mined negatives, -1 for none, int32 [N, mining_depth]
        self.mined_at = 0  # epoch
        self.too_close = 0.0  # share of the negatives found that did not keep a margin

    def of(self, rows: Tensor) -> Positives:
        """The mined negatives of some training queries, as catalogue ids; none before the first search is due."""
        if self.table is None and self.args.mining_start_epoch:
            return Positives.from_padded(torch.full((len(rows), 1), -1, device=rows.device))
        if self.table is None:
            raise RuntimeError(
                "No negatives have been mined yet: train() does so before an epoch. To compute a loss outside of "
                "train(), call trainer.begin_epoch(0) first."
            )
        return Positives.from_padded(self.table[rows.cpu()].to(rows.device))

    def due(self, epoch: int) -> bool:
        """Whether negatives are to be mined before this epoch."""
        if epoch < self.args.mining_start_epoch:
            return False
        return self.table is None or epoch >= self.mined_at + self.args.mining_refresh_epochs

    def update(self, queries: Tensor | Bags, labels: Tensor, epoch: int) -> None:
        """Search with all queries `[N, D]` in all labels `[L, D]`. Of a query of several passages each searches, and
        a label has the score of the best one."""
        from hf_xmc.retrieval.auto import build_measured  # which loads faiss
        from hf_xmc.retrieval.search import as_matrix

        own = np.arange(len(queries))[part(len(queries), self.ranks)]
        matrix = as_matrix(queries) if isinstance(queries, Tensor) else queries
        sample = np.asarray(matrix[:: max(1, len(queries) // SAMPLE)])
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

    def mine(self, index: VectorIndex, queries: np.ndarray | Bags, own: np.ndarray) -> tuple[np.ndarray, list[int]]:
        """The table of these rows, `[n, mining_depth]`; how many negatives were found, and how many of them were too
        close to a positive."""
        args, split = self.args, self.split
        assert split is not None
        margins = args.mining_absolute_margin, args.mining_relative_margin
        counts = split.positives.counts + (0 if split.ignored is None else split.ignored.counts)
        k = min(args.mining_depth + int(counts.max(initial=0)), index.num_rows)
        table = np.full((len(own), args.mining_depth), -1, dtype=np.int32)
        found = close = 0
        with tqdm(total=len(own), desc="Mining", unit=" queries", delay=2, disable=not self.progress) as bar:
            for start in range(0, len(own), size := max(1, RESULTS // k)):
                rows = own[start : start + size]
                positives = split.positives.take(rows)
                ignored = None if split.ignored is None else split.ignored.take(rows)
                topk = found_by(index, queries[rows], k)
                table[start : start + size] = mine_negatives(topk, positives, ignored, args.mining_depth, *margins)
                negative = are_negative(topk, positives, ignored)
                found += int(negative.sum())
                close += int((negative & ~keep_margins(topk, positives, ignored, *margins)).sum())
                bar.update(len(rows))
        return table, [found, close]

    def report(self) -> dict[str, float]:
        """Values to log."""
        if self.table is None:
            return {}
        mined = float((self.table >= 0).sum()) / max(len(self.table), 1)
        return {"mined_negatives": mined, "mined_too_close": self.too_close}

    def save(self, folder: Path) -> None:
        """Write the table into a checkpoint."""
        if self.table is not None:
            about = torch.tensor([self.mined_at, self.too_close], dtype=torch.float64)
            save_file({"negatives": self.table, "about": about}, folder / MINED)

    def load(self, folder: Path) -> None:
        """Read the table of a checkpoint; where it has none, negatives are mined before the next epoch.

        Raises:
            SettingsError: it belongs to other queries.
        """
        path = folder / MINED
        self.table, self.mined_at, self.too_close = None, 0, 0.0
        if not path.is_file():  # another strategy was in use
            return
        found = load_file(path)
        queries = 0 if self.split is None else len(self.split)
        if len(found["negatives"]) != queries:
            raise SettingsError(
                f"holds mined negatives of {len(found['negatives']):,} queries, but the training split has "
                f"{queries:,} queries",
                path,
                hint="resume with the data of the run that wrote it",
            )
        self.table = found["negatives"]
        self.mined_at, self.too_close = int(found["about"][0]), float(found["about"][1])


def found_by(index: VectorIndex, queries: np.ndarray | Bags, k: int) -> TopK:
    """The k best labels of each query; of a query of several passages, of the best of these."""
    from hf_xmc.retrieval.search import as_topk  # which loads faiss

    scores, ids = index.search(queries if isinstance(queries, np.ndarray) else queries.vectors, k)
    found = as_topk(ids, scores, k)
    return found if isinstance(queries, np.ndarray) else queries.merged(found, k)
