"""Training the projections of a late-interaction reranker over the token states of a frozen encoder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor, nn
from transformers import Trainer, TrainingArguments
from transformers.trainer_utils import TrainOutput

from hf_xmc.losses import ConditionalTransportLoss
from hf_xmc.retrieval.late_interaction import PLAN_TEMPERATURE, LateInteractionReranker, max_sim
from hf_xmc.retrieval.rerank import label_texts
from hf_xmc.retrieval.token_states import TokenStates, encode_token_states
from hf_xmc.training.finite import StopWhereNotFinite
from hf_xmc.training.reranker import candidates_of, regularised_softmax
from hf_xmc.types import Positives, TopK


def train_projections(
    reranker: LateInteractionReranker,
    texts: Sequence[str],
    topk: TopK,
    positives: Positives,
    labels: Dataset | Sequence[str],
    args: TrainingArguments,
    transport_weight: float = 0.1,
    num_negatives: int = 31,
    states: TokenStates | None = None,
) -> TrainOutput:
    """Train a reranker in place, to tell the positives of a text from its other candidates.

    The loss is the cross entropy of the positives among the candidates, with equal shares, plus `transport_weight`
    times the conditional transport between the tokens of the text and its positives, each of which is the mean of its
    tokens there.

    Every text is encoded once. The states wait on the disk, in float16: for H = 384 and 128 tokens, 98 kB a text.

    Args:
        texts: of the training queries, `[N]`.
        topk: what the tagger found for them, `[N, K]`; positives that it missed are added.
        positives: the true labels of the queries. Queries without any are left out.
        labels: the label table, or the label texts by id.
        args: of the Trainer. A batch holds `per_device_train_batch_size` queries.
        transport_weight: 0 for max-sim alone.
        num_negatives: candidates that are not positive, drawn for each query anew in every epoch.
        states: of the texts, `[N]`, if they are encoded already.

    Raises:
        DataError: no query has a positive.
    """
    args.remove_unused_columns = False
    data = candidates_of(texts, topk, positives, 1.0)
    with TemporaryDirectory(dir=args.output_dir) as scratch:
        if states is None:
            states = encode_token_states(
                reranker.model, texts, "query", file=Path(scratch, "states.f16"), progress=not args.disable_tqdm
            )
        names = label_texts(labels, np.concatenate([row["ids"] for row in data]))
        label_states = encode_token_states(reranker.model, [*names.values()], "label")
        collator = CandidateCollator(states, label_states, names, num_negatives)
        made = Projections(reranker, transport_weight)
        trainer = Trainer(
            model=made, args=args, train_dataset=data, data_collator=collator, callbacks=[StopWhereNotFinite()]
        )
        result = trainer.train()
    reranker.query, reranker.label = (layer.weight.detach().cpu() for layer in (made.query, made.label))
    reranker.scale = float(made.log_scale.detach().exp())
    reranker.cached.clear()
    return result


class Projections(nn.Module):
    """What is trained of a reranker, with its loss."""

    def __init__(self, reranker: LateInteractionReranker, transport_weight: float) -> None:
        super().__init__()
        self.query, self.label = (
            nn.Linear(weight.shape[1], weight.shape[0], bias=False) for weight in (reranker.query, reranker.label)
        )
        with torch.no_grad():
            self.query.weight.copy_(reranker.query)
            self.label.weight.copy_(reranker.label)
        self.log_scale = nn.Parameter(torch.tensor(reranker.scale).log())
        self.transport = ConditionalTransportLoss(PLAN_TEMPERATURE)
        self.transport_weight = transport_weight

    def forward(
        self,
        states: Tensor,
        mask: Tensor,
        label_states: Tensor,
        label_mask: Tensor,
        candidates: Tensor,
        candidate_mask: Tensor,
        truth: Tensor,
    ) -> dict[str, Tensor]:
        """Loss and scores `[B, C]`.

        Args:
            states, mask: of the texts, `[B, T, H]` and `[B, T]`.
            label_states, label_mask: of all labels of the batch, `[U, S, H]` and `[U, S]`.
            candidates: rows of `label_states` for each text, `[B, C]`; `candidate_mask` is false at padding.
            truth: 1 at positives, `[B, C]`.
        """
        texts = nn.functional.normalize(self.query(states), dim=-1)
        labels = nn.functional.normalize(self.label(label_states), dim=-1)
        scores = self.log_scale.exp() * max_sim(texts, mask, labels[candidates], label_mask[candidates])
        loss = regularised_softmax(scores, truth, torch.zeros_like(scores), 0.0, candidate_mask)
        if self.transport_weight:
            # The positives stand first among the candidates; no more of these columns are needed.
            most = int(truth.sum(1).max())
            counts = label_mask.sum(1).clamp(min=1)[:, None]  # [U, 1]
            means = (labels * label_mask[..., None]).sum(1) / counts  # [U, D]
            cost = self.transport(texts, mask, means[candidates[:, :most]], truth[:, :most] > 0)
            loss = loss + self.transport_weight * cost
        return {"loss": loss, "scores": scores}


class CandidateCollator:
    """Turns queries with their candidates into one batch of token states; positives come first.

    Args:
        states: of all texts.
        label_states: of the labels in `names`, in its order.
        names: label id -> label text.
        num_negatives: so many are drawn of the candidates of each query that are not positive.
    """

    def __init__(
        self, states: TokenStates, label_states: TokenStates, names: dict[int, str], num_negatives: int
    ) -> None:
        self.states, self.label_states, self.num_negatives = states, label_states, num_negatives
        self.row_of = {id_: row for row, id_ in enumerate(names)}

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Tensor]:
        states, mask = self.states.padded([row["row"] for row in rows])  # [B, T, H]
        drawn = [self.draw(row["ids"], row["truth"]) for row in rows]
        used = np.unique(np.concatenate(drawn))
        label_states, label_mask = self.label_states.padded([self.row_of[id_] for id_ in used.tolist()])  # [U, S, H]
        shape = (len(rows), max(len(ids) for ids in drawn))
        candidates, candidate_mask, truth = (
            torch.zeros(shape, dtype=torch.long),
            torch.zeros(shape),
            torch.zeros(shape),
        )
        for i, (row, ids) in enumerate(zip(rows, drawn, strict=True)):
            candidates[i, : len(ids)] = torch.from_numpy(np.searchsorted(used, ids))
            truth[i, : int(row["truth"].sum())] = 1
            candidate_mask[i, : len(ids)] = 1
        return {
            "states": states,
            "mask": mask,
            "label_states": label_states,
            "label_mask": label_mask,
            "candidates": candidates,
            "candidate_mask": candidate_mask.bool(),
            "truth": truth,
        }

    def draw(self, ids: np.ndarray, truth: np.ndarray) -> np.ndarray:
        """The positives among some ids, then negatives in random order."""
        negatives = ids[~truth]
        order = torch.randperm(len(negatives))[: self.num_negatives].numpy()
        return np.concatenate([ids[truth], negatives[order]])
