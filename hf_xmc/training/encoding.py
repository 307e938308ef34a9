"""Texts to embeddings for the trainer: with gradients in a step, without in an evaluation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import Tensor

from hf_xmc.data.tokenized import TokenBags, TokenTable, table_of
from hf_xmc.losses.bags import PassagePooling, Queries, QueryBags
from hf_xmc.losses.sharding import Shard
from hf_xmc.modeling import XMCDualEncoderModel
from hf_xmc.modeling.modeling_xmc import Side
from hf_xmc.modeling.packing_xmc import chunk_tokens, chunks_of, flatten
from hf_xmc.retrieval.fingerprint import encoder_fingerprint
from hf_xmc.retrieval.passages import Passages
from hf_xmc.training.arguments import XMCTrainingArguments
from hf_xmc.training.distributed import part
from hf_xmc.training.gradient_cache import encode_in_chunks, is_cached
from hf_xmc.training.label_vectors import LabelVectors
from hf_xmc.training.passages import given_passages
from hf_xmc.training.states import StateBlocks
from hf_xmc.training.static_training import StaticTraining


class TextEncoder:
    """Embeds the queries of a batch, labels of the catalogue and whole tables of texts.

    Args:
        model: the dual encoder, not wrapped.
        args: `encode_chunk_tokens`, `encode_chunk_size`, `gradient_caching`, `freeze_encoder`, `torch_compile`.
        label_tokens: the label table, tokenised.
        kept: further tables whose pooled states are kept under a frozen encoder, since every step needs them.
        vectors: for a model with a label head, the per-label vectors that are trained.
        static: for a model with a static tower, the tower in training.
    """

    def __init__(
        self,
        model: XMCDualEncoderModel,
        args: XMCTrainingArguments,
        label_tokens: TokenTable,
        kept: Sequence[TokenTable] = (),
        vectors: LabelVectors | None = None,
        static: StaticTraining | None = None,
    ) -> None:
        self.model = model
        self.args = args
        self.label_tokens = label_tokens
        self.kept = [label_tokens, *kept]
        self.vectors = vectors
        self.static = static
        self.features: dict[TokenTable, Tensor] = {}  # pooled states of texts under a frozen encoder
        if args.torch_compile:
            self.compile()
        for side in ("query", "label"):
            model.packs(side)  # tried out here, rather than in the middle of a step
        self.passages = given_passages(args.passages) or Passages()  # of texts that are cut
        self.pooling = PassagePooling(self.passages.pool, self.passages.sharpness)
        self.progress = not args.disable_tqdm and args.process_index == 0
        # Told of each block of a table's distinct texts that is encoded or found in the cache: how many they are.
        self.on_encoded: Callable[[int], None] | None = None

    def compile(self) -> None:
        """Compile the towers, in place, for texts of any length. (The Trainer compiles the model's `forward` as a
        whole, which a step does not call.) Texts are then padded, since packed rows have other lengths each time."""
        self.model.packing = False
        for tower in (self.model.query_encoder, self.model.label_encoder):
            if tower is not None:
                tower.compile(backend=self.args.torch_compile_backend, mode=self.args.torch_compile_mode, dynamic=True)

    def queries(self, rows: Tensor, tokens: TokenTable | TokenBags, caching: bool | None = False) -> Queries:
        """Embeddings of the queries `rows` of a table with gradients, `[B, D]`; `caching` as `gradient_caching`. Of
        passages those of a step may be many, so that `gradient_caching` holds for them in any case."""
        if isinstance(tokens, TokenTable):
            return self.texts(rows, tokens, caching)
        places, counts = (torch.from_numpy(found).to(rows.device) for found in tokens.rows_of(rows.cpu().numpy()))
        return QueryBags(self.texts(places, tokens.passages, self.args.gradient_caching), counts, self.pooling)

    def texts(self, rows: Tensor, tokens: TokenTable, caching: bool | None) -> Tensor:
        """`queries` for texts that are read as one: queries that are not cut, or passages."""
        static = self.static_vectors(tokens, rows.cpu().numpy(), "query")
        return self.model.joined(self.dense_queries(rows, tokens, caching), static)

    def static_vectors(self, tokens: TokenTable, rows: np.ndarray | None, side: Side) -> Tensor | None:
        """The static tower's part of the embeddings of texts (all for `None`), `[n, S]`; None without one."""
        if self.static is None:
            return None
        return self.static.embed(tokens.features, np.arange(len(tokens)) if rows is None else rows, side)

    def dense_queries(self, rows: Tensor, tokens: TokenTable, caching: bool | None) -> Tensor | None:
        """The encoder's part of `queries`; None without an encoder."""
        if self.model.query_encoder is None:
            return None
        if self.args.freeze_encoder:
            return self.model(pooled=self.frozen(tokens, "query")[rows], side="query").dense
        return self.encode(tokens, rows.cpu().numpy(), "query", caching)

    @property
    def trains_queries(self) -> bool:
        """Whether embeddings of queries come with gradients; not where a label head alone is trained."""
        if self.static is not None and self.static.trained:
            return True
        parts = (None if self.args.freeze_encoder else self.model.query_encoder, self.model.query_projection)
        return any(p.requires_grad for part in parts if part is not None for p in part.parameters())

    def candidates(self, ids: Tensor | None = None) -> Tensor:
        """What the loss compares queries with, `[c, D]` for each of `view_weights` side by side, with gradients: the
        embeddings of labels (of all for `None`), with a label head those and the ones of their texts alone."""
        if self.vectors is None:
            return self.labels(ids)
        return self.vectors.views(self.labels(ids) if self.vectors.needs_texts else None, ids)

    @property
    def num_labels(self) -> int:
        """Labels in the catalogue."""
        return len(self.label_tokens)

    @property
    def label_dim(self) -> int:
        """Dimension of label embeddings."""
        return self.model.width("label")

    @property
    def view_weights(self) -> list[float]:
        """Weight in the loss of each matrix in `candidates`."""
        return [1.0] if self.vectors is None else self.vectors.weights

    def part(self, ids: Tensor | None, count: int, ranks: Shard) -> slice:
        """Which of these sorted label ids (of all for `None`), `count` of them, this rank encodes: those whose vectors
        it holds, or about as many as the others."""
        return part(count, ranks) if self.vectors is None else self.vectors.part(ids)

    def labels(self, ids: Tensor | None = None) -> Tensor:
        """Embeddings of label texts (all for `None`) with gradients, `[C, D]`. A text that repeats is encoded once."""
        static = self.static_vectors(self.label_tokens, None if ids is None else ids.cpu().numpy(), "label")
        return self.model.joined(self.dense_labels(ids), static)

    def dense_labels(self, ids: Tensor | None) -> Tensor | None:
        """The encoder's part of `labels`; None without an encoder."""
        if self.model.query_encoder is None:
            return None
        if self.args.freeze_encoder:
            pooled = self.frozen(self.label_tokens, "label")
            return self.model(pooled=pooled if ids is None else pooled[ids], side="label").dense
        rows, place = self.label_tokens.distinct(None if ids is None else ids.cpu().numpy())
        embeddings = self.encode(self.label_tokens, rows, "label", self.args.gradient_caching)  # [distinct texts, D]
        return embeddings if place is None else embeddings[torch.from_numpy(place).to(embeddings.device)]

    def encode(self, tokens: TokenTable, rows: np.ndarray, side: Side, caching: bool | None) -> Tensor:
        """What the encoder makes of the texts `rows` of a table, with gradients, `[n, dense_dim]`: packed straight
        from the table, or padded where the encoder cannot take packed texts."""

        def encode_chunk(texts: np.ndarray) -> Tensor:
            batch = self.model.batch(*flatten(tokens, rows[texts]), side)
            return self.model(**batch, side=side).dense

        chunks = self.chunks(tokens.lengths[rows], side)
        return encode_in_chunks(encode_chunk, chunks, is_cached(caching, len(chunks), self.args.device.type))

    def chunks(self, lengths: np.ndarray, side: Side) -> list[np.ndarray]:
        """Batches of texts that are encoded together: of similar length, within the limits of the arguments."""
        size = self.args.encode_chunk_tokens or chunk_tokens(self.args.device)
        return chunks_of(lengths, size, self.args.encode_chunk_size, self.model.packs(side))

    def labels_without_gradients(self, ids: Tensor) -> Tensor:
        """Embeddings of labels without gradients and dropout, with a head those that it is trained by, `[C, D]`."""
        if not len(ids):
            return torch.zeros(0, self.model.width("label"), device=self.args.device)
        with self.without_gradients():
            return self.candidates(ids)[:, : self.model.width("label")]

    def texts_without_gradients(self, ids: Tensor) -> Tensor:
        """Embeddings of label texts without gradients and dropout, `[C, D]`."""
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
    def table(self, tokens: TokenTable | TokenBags, side: Side, rows: np.ndarray | None = None) -> Tensor:
        """Embeddings of all texts of a table, or of these rows, without gradients, float32 on the CPU, `[N, D]`. Of
        texts that are cut, rows are passages."""
        tokens = table_of(tokens)
        dense = None
        if self.model.query_encoder is not None and self.args.freeze_encoder:
            pooled = self.frozen(tokens, side)
            dense = self.model(pooled=pooled if rows is None else pooled[rows], side=side).dense.float().cpu()
        elif self.model.query_encoder is not None:
            dense = self.encode_table(tokens, side, "dense", rows)
        static = self.static_vectors(tokens, rows, side)
        return self.model.joined(dense, None if static is None else static.cpu())

    def frozen(self, tokens: TokenTable, side: Side) -> Tensor:
        """Pooled states `[N, H]` of texts under a frozen encoder; those of the tables in `kept` are computed once."""
        if tokens in self.features:
            return self.features[tokens]
        states = self.states(tokens, side).to(self.args.device)
        if any(tokens is table for table in self.kept):
            self.features[tokens] = states
        return states

    def states(self, tokens: TokenTable, side: Side) -> Tensor:
        """Pooled states of all texts of a table, float32 on the CPU, `[N, H]`. They are kept in the cache of
        `datasets`, so that the next run over the same encoder, as the second stage of a recipe, need not encode; and
        a run that is killed goes on where it was ([`StateBlocks`])."""
        if tokens.name is None:
            return self.encode_table(tokens, side, "pooled")
        tower = self.model.tower(side)
        dtype = self.encoding_dtype(tower)
        key = [tokens.name, encoder_fingerprint(tower), dtype, self.model.config.pooling]
        rows, place = tokens.distinct()

        def encode(some: np.ndarray) -> Tensor:
            with torch.autocast(self.args.device.type, dtype, enabled=dtype != tower.dtype):
                return self.encode_table(tokens, side, "pooled", rows[some], progress=False)

        blocks = StateBlocks([*key, "distinct"], len(rows), self.model.width(side, "pooled"), encode)
        found = blocks.load(f"Encoding {side} texts", self.progress, self.on_encoded)
        return found if place is None else found[torch.from_numpy(place)]

    def encoding_dtype(self, tower: Any) -> torch.dtype:
        """In which precision a frozen encoder computes, as `encode_dtype` says. `auto` is bfloat16 on processors that
        have matrix instructions for it, which are about twice as fast."""
        asked, fast = self.args.encode_dtype, getattr(torch.cpu, "_is_amx_tile_supported", bool)
        if tower.dtype != torch.float32 or asked == "float32":
            return cast(torch.dtype, tower.dtype)
        on_cpu = self.args.device.type == "cpu"
        return torch.bfloat16 if asked == "bfloat16" or (on_cpu and fast()) else torch.float32

    def encode_table(
        self,
        tokens: TokenTable,
        side: Side,
        output: Literal["dense", "pooled"],
        rows: np.ndarray | None = None,
        progress: bool = True,
    ) -> Tensor:
        """What the model makes of all texts of a table, or of these rows, `[N, D or H]`; a text that repeats is
        encoded once."""
        rows, place = tokens.distinct(rows)
        size = self.args.encode_chunk_size
        shown = progress and self.progress
        found = self.model.encode_tokens(tokens, side, size, shown, output=output, rows=rows)
        return found if place is None else found[torch.from_numpy(place)]
