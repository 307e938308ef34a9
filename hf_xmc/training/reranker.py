"""Training a cross-encoder to rerank what the dual encoder finds, as in xMEN (Borchert, Llorca, Roller, Arnrich,
Schapranow), whose code this follows; with several positives per query, and without its NIL candidate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor
from transformers import Trainer, TrainingArguments
from transformers.trainer_utils import TrainOutput

from hf_xmc.errors import DataError
from hf_xmc.retrieval.rerank import CrossEncoderReranker, label_texts
from hf_xmc.training.finite import StopWhereNotFinite
from hf_xmc.types import Positives, TopK


def train_cross_encoder(
    reranker: CrossEncoderReranker,
    texts: Sequence[str],
    topk: TopK,
    positives: Positives,
    labels: Dataset | Sequence[str],
    args: TrainingArguments,
    rho: float = 1.0,
    temperature: float = 0.05,
) -> TrainOutput:
    """Train a reranker in place.

    Args:
        texts: of the training queries, `[N]`. Take predictions for them from a model that has not seen them, or keep
            K small: on its own training queries the dual encoder makes fewer errors than on new ones.
        topk: what the dual encoder found for them, `[N, K]`; positives that it missed are added.
        positives: the true labels of the queries. Queries without any are left out.
        labels: the label table, or the label texts by id.
        args: of the Trainer. A batch holds `per_device_train_batch_size` queries, each with all its candidates. The
            settings of xMEN: learning rate 2e-5, weight decay 0.01, 100 steps of warm-up, 20 epochs.
        rho: strength of the regularisation (xMEN: 1).
        temperature: that of the dual encoder; its scores over it are the logits that the reranker is held to.
    """
    args.remove_unused_columns = False
    data = candidates_of(texts, topk, positives, temperature)
    trainer = RerankerTrainer(
        model=reranker.model,
        args=args,
        train_dataset=data,
        data_collator=PairCollator(reranker, texts, label_texts(labels, np.concatenate([row["ids"] for row in data]))),
    )
    trainer.rho = rho
    trainer.add_callback(StopWhereNotFinite())
    result = trainer.train()
    reranker.model.eval()
    return result


class RerankerTrainer(Trainer):
    """A `Trainer` for batches of queries with their candidates; `rho` as in `regularised_softmax`."""

    rho = 1.0

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        inputs = dict(inputs)
        mask, truth, scores = (inputs.pop(name) for name in ("candidate_mask", "truth", "generator_scores"))
        outputs = model(**inputs)
        logits = torch.zeros_like(scores)
        logits[mask] = outputs.logits[:, 0].to(scores)  # [B, C]
        loss = regularised_softmax(logits, truth, scores, self.rho, mask)
        return (loss, outputs) if return_outputs else loss


def regularised_softmax(
    logits: Tensor, truth: Tensor, generator_scores: Tensor, rho: float = 1.0, mask: Tensor | None = None
) -> Tensor:
    """Cross entropy of a query's positives among its candidates, with equal shares, plus rho times the distance of the
    logits from the scores that the candidates came with; the mean over queries.

    The distance is a norm, not squared and not averaged: it pulls with the same force wherever the logits are.

    Args:
        logits, truth, generator_scores: `[B, C]`; truth is 0 or 1, with at least one 1 in each row.
        mask: bool `[B, C]`, False at padding; by default all are candidates.

    >>> z, y, s = torch.tensor([[2.0, 0, -1]]), torch.tensor([[1.0, 0, 0]]), torch.tensor([[0.9, 0.8, 0.7]])
    >>> round(float(regularised_softmax(z, y, s)), 4)
    2.347
    """
    mask = torch.ones_like(truth, dtype=torch.bool) if mask is None else mask
    log_p = logits.masked_fill(~mask, -torch.inf).log_softmax(1).masked_fill(~mask, 0)
    share = truth / truth.sum(1, keepdim=True)
    distance = ((logits - generator_scores + 1e-6) * mask).norm(dim=1)
    return (-(share * log_p).sum(1) + rho * distance).mean()


def candidates_of(texts: Sequence[str], topk: TopK, positives: Positives, temperature: float) -> list[dict[str, Any]]:
    """For each query with a positive its row, the candidates' ids, their scores as logits, and which are true.
    A positive that was not found gets the lowest score of its row.

    Raises:
        DataError: texts, predictions and positives of different numbers of queries, or nothing to learn from.
    """
    if not len(texts) == len(topk) == len(positives):
        raise DataError(f"Found {len(texts)} texts, {len(topk)} rows of predictions, {len(positives)} of positives")
    truth, rows = positives.numpy(), []
    for i in np.flatnonzero(truth.counts).tolist():
        found = np.asarray(topk.ids[i]) >= 0
        ids, scores = np.asarray(topk.ids[i])[found], np.asarray(topk.scores[i])[found]
        missed = np.setdiff1d(truth.row(i), ids)
        ids = np.concatenate([ids, missed])
        scores = np.concatenate([scores, np.full(len(missed), scores.min() if len(scores) else 0.0)])
        rows.append({"row": i, "ids": ids, "scores": scores / temperature, "truth": np.isin(ids, truth.row(i))})
    if not rows:
        raise DataError("no query has a positive label; there is nothing to learn from")
    return rows


class PairCollator:
    """Turns queries with their candidates into one batch of pairs, with the other inputs of `compute_loss`."""

    def __init__(self, reranker: CrossEncoderReranker, texts: Sequence[str], names: dict[int, str]) -> None:
        self.reranker, self.texts, self.names = reranker, texts, names

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Tensor]:
        pairs = [(self.texts[row["row"]], self.names[i]) for row in rows for i in row["ids"].tolist()]
        batch = dict(self.reranker.tokenizer.pad(self.reranker.tokenize(pairs), return_tensors="pt"))  # [pairs, T]
        mask = torch.zeros(len(rows), max(len(row["ids"]) for row in rows), dtype=torch.bool)  # [B, C]
        for i, row in enumerate(rows):
            mask[i, : len(row["ids"])] = True
        for name, key in (("truth", "truth"), ("generator_scores", "scores")):
            values = torch.zeros(mask.shape)
            values[mask] = torch.from_numpy(np.concatenate([row[key] for row in rows]).astype(np.float32))
            batch[name] = values
        return {**batch, "candidate_mask": mask}
