"""A trainer whose evaluations rank the whole catalogue."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor
from transformers.trainer_utils import EvalLoopOutput

from hf_xmc.data.tokenized import TokenizedQueries, TokenTable
from hf_xmc.losses import Loss
from hf_xmc.losses.sharding import Shard
from hf_xmc.metrics import ranking_metrics, search_depth
from hf_xmc.modeling import XMCDualEncoderModel
from hf_xmc.modeling.modeling_xmc import Side
from hf_xmc.retrieval.search import exact_search
from hf_xmc.training.arguments import XMCTrainingArguments
from hf_xmc.training.checkpoints import WholeCheckpointTrainer
from hf_xmc.training.distributed import part
from hf_xmc.training.encoding import TextEncoder
from hf_xmc.training.preparation import token_key
from hf_xmc.types import Positives

REPORTED = ("P@", "nDCG@", "R@")


class RankingTrainer(WholeCheckpointTrainer):
    """The evaluation of [`XMCTrainer`]: every query of a split against every label.

    The trainer that is made of it sets `encoder`, `loss`, `ranks` and `label_tokens`, and tokenises splits.
    """

    args: XMCTrainingArguments
    model: XMCDualEncoderModel
    encoder: TextEncoder
    loss: Loss
    ranks: Shard
    label_tokens: TokenTable

    def tokenize(self, model: XMCDualEncoderModel, queries: Dataset, ignored: Positives | None) -> TokenizedQueries:
        """Tokenise a split once, and check its positives against the label table."""
        if isinstance(queries, TokenizedQueries):
            return queries
        tokenized = TokenizedQueries(
            queries, lambda texts: model.tokenize(texts, "query"), ignored, token_key(model, "query")
        )
        tokenized.positives.validate(len(self.label_tokens))
        return tokenized

    def get_eval_dataloader(self, eval_dataset: Any = None) -> Any:
        """As in `Trainer`, for splits that are not tokenised yet as well."""
        return super().get_eval_dataloader(self.tokenized(eval_dataset))

    def get_test_dataloader(self, test_dataset: Any) -> Any:
        """As in `Trainer`: `predict(split)` gives the ids of the best labels, `[N, eval_k]`, and the metrics."""
        return super().get_test_dataloader(self.tokenized(test_dataset))

    def tokenized(self, split: Any) -> Any:
        """A split ready for evaluation."""
        return self.tokenize(self.model, split, None) if isinstance(split, Dataset) else split

    def evaluation_loop(
        self,
        dataloader: Any,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """Rank the whole catalogue for each query; metrics are fractions: P@k, nDCG@k and R@k up to `eval_k`.

        Each process encodes its part of the texts; all rank the whole split, and agree on the best checkpoint.
        """
        split = dataloader.dataset
        queries = self.table(split.tokens, "query")  # [N, D]
        labels = self.label_embeddings()  # [L, D]
        k = self.args.eval_k
        topk = exact_search(queries, labels, search_depth(k, split.ignored))
        ks = tuple(sorted({j for j in (1, 3, 5, k) if j <= k}))
        values = ranking_metrics(topk, split.positives, ks=ks, filters=split.ignored)
        metrics = {f"{metric_key_prefix}_{name}": v for name, v in values.items() if name.startswith(REPORTED)}
        if len(split):
            metrics[f"{metric_key_prefix}_loss"] = self.full_loss(queries, labels, split.positives, split.ignored)
        return EvalLoopOutput(predictions=topk.ids, label_ids=None, metrics=metrics, num_samples=len(split))

    def label_embeddings(self) -> Tensor:
        """What queries are ranked by, float32 on the CPU, `[L, D]`."""
        return self.table(self.label_tokens, "label")

    def table(self, tokens: TokenTable, side: Side) -> Tensor:
        """Embeddings of all texts of a table without gradients, float32 on the CPU, `[N, D]`."""
        if self.ranks.group is None or self.args.freeze_encoder:
            return self.encoder.table(tokens, side)
        own = self.encoder.encode_table(
            tokens, side, "embeddings", np.arange(len(tokens))[part(len(tokens), self.ranks)]
        )
        return self.ranks.gather(own.to(self.args.device)).cpu()

    @torch.no_grad()
    def full_loss(self, queries: Tensor, labels: Tensor, positives: Positives, ignored: Positives | None) -> float:
        """The loss over all labels, whatever the candidates in training were."""
        device = queries.device
        if self.loss.sharded:  # each process holds its part
            device, rows = self.args.device, np.arange(len(queries))[part(len(queries), self.ranks)]
            queries, labels = queries[rows].to(device), labels[part(len(labels), self.ranks)].to(device)
            positives, ignored = positives.take(rows), None if ignored is None else ignored.take(rows)
        unknown = None if ignored is None else ignored.torch(device)
        return float(self.loss(queries, labels, positives.torch(device), ignored=unknown))
