"""Texts to embeddings for the trainer: with gradients in a step, without in an evaluation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import cast

import numpy as np
import torch
from torch import Tensor

from hf_xmc.data.tokenized import TokenTable
from hf_xmc.modeling import XMCDualEncoderModel
from hf_xmc.modeling.modeling_xmc import Side
from hf_xmc.training.arguments import XMCTrainingArguments
from hf_xmc.training.gradient_cache import encode_in_chunks


class TextEncoder:
    """Embeds the queries of a batch, labels of the catalogue and whole tables of texts.

    Args:
        model: the dual encoder, not wrapped.
        args: `encode_chunk_size`, `gradient_caching`, `freeze_encoder`, `per_device_eval_batch_size`.
        label_tokens: the label table, tokenised.
        kept: further tables whose pooled states are kept under a frozen encoder, for they are asked for at each step.
    """

    def __init__(
        self,
        model: XMCDualEncoderModel,
        args: XMCTrainingArguments,
        label_tokens: TokenTable,
        kept: Sequence[TokenTable] = (),
    ) -> None:
        self.model = model
        self.args = args
        self.label_tokens = label_tokens
        self.kept = [label_tokens, *kept]
        self.features: dict[TokenTable, Tensor] = {}  # pooled states of texts under a frozen encoder
        self.progress = not args.disable_tqdm and args.process_index == 0

    def queries(self, inputs: dict[str, Tensor], tokens: TokenTable) -> Tensor:
        """Embeddings of a batch with gradients, `[B, D]`; `tokens` is the table that its `row`s come from."""
        if self.args.freeze_encoder:
            return self.model(pooled=self.frozen(tokens, "query")[inputs["row"]], side="query").embeddings
        lengths = inputs["attention_mask"].sum(1)  # [B]

        def encode(rows: Tensor) -> Tensor:
            width = max(int(lengths[rows].max()), 1)
            ids, mask = inputs["input_ids"][rows, :width], inputs["attention_mask"][rows, :width]
            return self.model(ids, mask, side="query").embeddings

        return encode_in_chunks(encode, lengths, self.args.encode_chunk_size, caching=False)

    def labels(self, ids: Tensor | None = None) -> Tensor:
        """Embeddings of labels (of all for `None`) with gradients, `[C, D]`."""
        if self.args.freeze_encoder:
            pooled = self.frozen(self.label_tokens, "label")
            return self.model(pooled=pooled if ids is None else pooled[ids], side="label").embeddings
        rows_of = np.arange(len(self.label_tokens)) if ids is None else ids.cpu().numpy()
        lengths = torch.from_numpy(self.label_tokens.lengths[rows_of].astype(np.int64)).to(self.args.device)  # [C]

        def encode(rows: Tensor) -> Tensor:
            batch = self.model.pad([self.label_tokens[i] for i in rows_of[rows.cpu().numpy()]])
            return self.model(**{k: x.to(self.args.device) for k, x in batch.items()}, side="label").embeddings

        return encode_in_chunks(encode, lengths, self.args.encode_chunk_size, self.args.gradient_caching)

    def labels_without_gradients(self, ids: Tensor) -> Tensor:
        """Embeddings of labels as in an evaluation, `[C, D]`."""
        if not len(ids):
            return torch.zeros(0, self.model.width("label"), device=self.args.device)
        with self.without_gradients():
            return self.labels(ids)

    @contextmanager
    def without_gradients(self) -> Iterator[None]:
        """No gradients and no dropout, hence no random numbers drawn."""
        was_training = self.model.training
        self.model.eval()
        with torch.no_grad():
            yield
        self.model.train(was_training)

    @torch.no_grad()
    def table(self, tokens: TokenTable, side: Side) -> Tensor:
        """Embeddings of all texts of a table without gradients, float32 on the CPU, `[N, D]`."""
        if self.args.freeze_encoder:
            embeddings = self.model(pooled=self.frozen(tokens, side), side=side).embeddings
            return cast(Tensor, embeddings.float().cpu())
        return self.model.encode_tokens(tokens, side, self.args.per_device_eval_batch_size, self.progress)

    def frozen(self, tokens: TokenTable, side: Side) -> Tensor:
        """Pooled states `[N, H]` of texts under a frozen encoder; those of the tables in `kept` are computed once."""
        if tokens in self.features:
            return self.features[tokens]
        batch = self.args.per_device_eval_batch_size
        states = self.model.encode_tokens(tokens, side, batch, self.progress, output="pooled").to(self.args.device)
        if any(tokens is table for table in self.kept):
            self.features[tokens] = states
        return states
