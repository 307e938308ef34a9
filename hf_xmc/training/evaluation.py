"""Evaluation: every query of a split ranked against every label."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from hf_xmc.data.tokenized import TokenBags, TokenTable, table_of
from hf_xmc.losses import Loss
from hf_xmc.losses.bags import Queries, QueryBags
from hf_xmc.losses.sharding import Shard
from hf_xmc.metrics import ranking_metrics, search_depth
from hf_xmc.modeling.modeling_xmc import Side
from hf_xmc.retrieval.bags import Bags, ExactLabels, search_bags
from hf_xmc.retrieval.search import exact_search
from hf_xmc.training.distributed import part
from hf_xmc.training.encoding import TextEncoder
from hf_xmc.types import Positives

REPORTED = ("P@", "nDCG@", "R@")


class Evaluator:
    """Embeds whole tables of texts, and ranks splits; each process encodes its part of the texts, all rank the whole
    split, and so agree on the best checkpoint.

    Args:
        encoder: embeds both sides.
        loss: the loss of the run.
        ranks: the processes of the run.
    """

    def __init__(self, encoder: TextEncoder, loss: Loss, ranks: Shard) -> None:
        self.encoder = encoder
        self.loss = loss
        self.ranks = ranks

    def rank(self, split: Any, labels: Tensor, k: int) -> tuple[np.ndarray, dict[str, float]]:
        """The ids of the best k labels of each query, `[N, K]`, and the metrics as fractions: P@k, nDCG@k and R@k
        up to k, and the loss over all labels.

        Args:
            split: `TokenizedQueries`.
            labels: embeddings of all labels, `[L, D]`.
        """
        queries = self.queries(split)  # [N, D]
        depth = search_depth(k, split.ignored)
        if isinstance(queries, Bags):
            topk = search_bags(ExactLabels(labels), queries, depth)
        else:
            topk = exact_search(queries, labels, depth)
        ks = tuple(sorted({j for j in (1, 3, 5, k) if j <= k}))
        values = ranking_metrics(topk, split.positives, ks=ks, filters=split.ignored)
        metrics = {name: value for name, value in values.items() if name.startswith(REPORTED)}
        if len(split):
            metrics["loss"] = self.full_loss(queries, labels, split.positives, split.ignored)
        return topk.ids, metrics

    def queries(self, split: Any) -> Tensor | Bags:
        """Embeddings of all queries of a split, `[N, D]`, or of their passages."""
        tokens: TokenTable | TokenBags = split.tokens
        if isinstance(tokens, TokenTable):
            return self.table(tokens, "query")
        return Bags(self.table(tokens.passages, "query"), tokens.indptr, self.encoder.passages)

    def table(self, tokens: TokenTable | TokenBags, side: Side) -> Tensor:
        """Embeddings of all texts of a table, or of all their passages, without gradients, float32 on the CPU,
        `[N, D]`."""
        tokens = table_of(tokens)
        quick = self.encoder.args.freeze_encoder or self.encoder.model.query_encoder is None
        if self.ranks.group is None or quick:
            return self.encoder.table(tokens, side)
        own = np.arange(len(tokens))[part(len(tokens), self.ranks)]
        embeddings = self.encoder.table(tokens, side, own)
        return self.ranks.gather(embeddings.to(self.encoder.args.device)).cpu()

    @torch.no_grad()
    def full_loss(
        self, queries: Tensor | Bags, labels: Tensor, positives: Positives, ignored: Positives | None
    ) -> float:
        """The loss over all labels, whatever the candidates in training were."""
        device = labels.device
        if self.loss.sharded:  # each process holds its part
            device, rows = self.encoder.args.device, np.arange(len(queries))[part(len(queries), self.ranks)]
            queries, labels = queries[rows], labels[part(len(labels), self.ranks)].to(device)
            positives, ignored = positives.take(rows), None if ignored is None else ignored.take(rows)
        unknown = None if ignored is None else ignored.torch(device)
        return float(self.loss(self.on(device, queries), labels, positives.torch(device), ignored=unknown))

    def on(self, device: torch.device, queries: Tensor | Bags) -> Queries:
        """Queries as a loss takes them."""
        if isinstance(queries, Tensor):
            return queries.to(device)
        vectors, counts = torch.from_numpy(queries.vectors).to(device), torch.from_numpy(queries.counts).to(device)
        return QueryBags(vectors, counts, self.encoder.pooling)
