"""The resources that a training needs, before it runs: memory by part, tokens, FLOPs, time; and settings that fit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch

from hf_xmc.losses.streaming import rows_per_tile
from hf_xmc.modeling.packing_xmc import chunks_of
from hf_xmc.sampling.draws import draw_pairs
from hf_xmc.training.arguments import XMCTrainingArguments
from hf_xmc.training.candidates.registry import rule_named
from hf_xmc.training.candidates.rule import Demand, Sizes
from hf_xmc.training.gradient_cache import is_cached
from hf_xmc.training.planning.encoder_cost import Cost
from hf_xmc.types import Positives

DRAWS = 32  # batches drawn from the data, for the labels and tokens that one holds
# Memory that the allocator holds in addition to what a step allocates. MiniLM on a CPU, in batch and all labels: peaks
# were 12 to 19 % above the sum of the parts; a tenth less where the allocator was told to give everything back.
ALLOCATOR = 0.25
# Memory that is used only during a step.
PASSING = (
    *("query batch activations", "label activations", "label embeddings", "loss tiles", "gradient under way"),
    "allocator",
)
EMBEDDING_COPIES = 5  # of the labels in a step: chunks, put together, in their order; and gradients of the last two


def default(name: str) -> Any:
    """The default of a training argument."""
    return XMCTrainingArguments.__dataclass_fields__[name].default


@dataclass(frozen=True)
class Choice:
    """The settings that memory and time depend on. Names and defaults are those of the arguments."""

    per_device_train_batch_size: int
    gradient_accumulation_steps: int = 1
    encode_chunk_tokens: int = 1024
    encode_chunk_size: int | None = default("encode_chunk_size")
    gradient_caching: bool | None = default("gradient_caching")
    gradient_checkpointing: bool = False
    bf16: bool = False
    label_strategy: str = default("label_strategy")
    label_budget: int = default("label_budget")
    label_refresh: int = default("label_refresh")
    num_hard_negatives: int = default("num_hard_negatives")
    num_positives: int | None = default("num_positives")
    negative_source: str = default("negative_source")
    mining_depth: int = default("mining_depth")
    mining_refresh_epochs: int = default("mining_refresh_epochs")
    lora_rank: int = 0
    num_processes: int = 1

    @property
    def window(self) -> int:
        """Queries of one optimizer step, of all processes."""
        return self.per_device_train_batch_size * self.gradient_accumulation_steps * self.num_processes


@dataclass(frozen=True)
class Measured:
    """What was measured of model and machine (`measure.py`), and what the data says.

    Args:
        base: bytes of the process before the model is loaded.
        weights, adapted: bytes of all weights; of those that LoRA would train for each unit of its rank.
        trainable, largest: bytes of the weights that are trained; of the largest matrix among them.
        optimizer: bytes of state for each byte of trained weights.
        kept: bytes kept for the backward pass, by (gradient_checkpointing, bf16).
        layers: of a tower.
        flops: of a forward pass.
        query_seconds: per token of a query, forward and backward.
        label_seconds: per token of a label, forward and backward, without gradient caching.
        forward_seconds: per token of a label, forward alone.
        loss_seconds: per query, label and dimension, forward and backward.
        optimizer_seconds: for a byte of trained weights.
        dim: of the embeddings.
        query_lengths, label_lengths: tokens of each passage of the training queries `[sum T]` and label `[L]`.
        passage_counts: how many passages each training query has, `[N]`; ones where texts are not cut.
        positives: of each training query.
        tables: bytes of the tokenised texts, which are mapped from files.
        packed: texts are encoded without padding.
        vector_bytes: per label, of a label head and its optimizer state.
        static_bytes: of the optimizer state of a static tower.
        static_seconds: of the static tower, for a query and for a label of a step.
        device: its type, as `cpu`.
    """

    base: int
    weights: int
    adapted: int
    trainable: int
    largest: int
    optimizer: float
    kept: dict[tuple[bool, bool], Cost]
    layers: int
    flops: Cost
    query_seconds: float
    label_seconds: float
    forward_seconds: float
    loss_seconds: float
    optimizer_seconds: float
    dim: int
    query_lengths: np.ndarray
    passage_counts: np.ndarray
    label_lengths: np.ndarray
    positives: Positives
    tables: int
    packed: bool = True
    bank_itemsize: int = 2
    vector_bytes: int = 0
    static_bytes: int = 0
    static_seconds: tuple[float, float] = (0.0, 0.0)
    device: str = "cpu"

    @property
    def num_queries(self) -> int:
        """Training queries."""
        return len(self.passage_counts)

    @property
    def passages_per_query(self) -> float:
        """How many passages a training query has, on average."""
        return len(self.query_lengths) / max(self.num_queries, 1)

    @cached_property
    def first_passages(self) -> np.ndarray:
        """The first passage of each training query, `[N]`."""
        return np.cumsum(self.passage_counts) - self.passage_counts

    def lengths_of(self, rows: np.ndarray) -> np.ndarray:
        """Tokens of each passage of some training queries."""
        counts = self.passage_counts[rows]
        places = np.arange(counts.sum()) + np.repeat(self.first_passages[rows] - (counts.cumsum() - counts), counts)
        return self.query_lengths[places]


def memory(choice: Choice, of: Measured) -> dict[str, int]:
    """Bytes of each part on each device, at the moment of the highest sum."""
    queries, chunks, demand, _ = work(choice, of)
    trainable = of.adapted * choice.lora_rank or of.trainable
    own = -(-demand.candidates // choice.num_processes)
    batch = round(choice.per_device_train_batch_size * of.passages_per_query)
    caching = is_cached(choice.gradient_caching, len(chunks), of.device)
    tile = rows_per_tile(batch * choice.num_processes, own, of.dim, None) * own * 4
    scored = -(-len(of.label_lengths) // choice.num_processes) * batch * choice.num_processes * 4
    passing = {
        "query batch activations": queries,
        "label activations": max(chunks) if caching else sum(chunks),
        "label embeddings": EMBEDDING_COPIES * own * of.dim * 4,
        "loss tiles": tile + 3 * scored * demand.scores_all,
        "gradient under way": min(of.largest, trainable),  # before it is added to those of other chunks
    }
    return {
        "libraries and data": of.base,
        "weights": of.weights + of.adapted * choice.lora_rank,
        "gradients": trainable,
        "optimizer states": int(trainable * of.optimizer) + of.static_bytes,
        "label vectors": -(-len(of.label_lengths) // choice.num_processes) * of.vector_bytes,
        **demand.kept,
        **passing,
        "allocator": int(ALLOCATOR * (sum(passing.values()) + trainable)),
        "mining": demand.between_epochs,
        "token tables, mapped": of.tables,
        "index": len(of.label_lengths) * of.dim * 4,
    }


def peak(parts: dict[str, int]) -> int:
    """The highest sum. The index is built after training, and negatives are mined between epochs, so neither is in
    memory together with what a step needs."""
    passing = sum(parts[name] for name in PASSING)
    kept = sum(parts.values()) - passing - parts["index"] - parts["mining"]
    return kept + max(passing, 2 * parts["index"], parts["mining"])


def step(choice: Choice, of: Measured) -> dict[str, float]:
    """Tokens, FLOPs and seconds of one optimizer step, of each device."""
    _, chunks, demand, query_tokens = work(choice, of)
    length = float(of.label_lengths.mean())
    own, refreshed = demand.candidates / choice.num_processes, demand.refreshed / choice.num_processes
    label_tokens, refresh_tokens = own * length, refreshed * length
    caching = is_cached(choice.gradient_caching, len(chunks), of.device)
    passes = 3 + caching  # a forward one, and a backward one that counts twice; and the forward one again
    vectors = choice.window * of.passages_per_query
    compared = vectors * own * of.dim
    # Scores of the whole bank, and its gradient in two products.
    bank = vectors * len(of.label_lengths) / choice.num_processes * of.dim * demand.scores_all
    token_flops = float(of.flops(1, length)) / max(length, 1.0)  # no tokens without an encoder
    checkpointing = 4 / 3 if choice.gradient_checkpointing else 1  # one more forward pass beside three
    seconds = {
        "queries": query_tokens * of.query_seconds * checkpointing,
        "labels": label_tokens * of.label_seconds * checkpointing
        + (caching * label_tokens + refresh_tokens) * of.forward_seconds,
        "loss": (compared + bank) * of.loss_seconds,
        "static": vectors / choice.num_processes * of.static_seconds[0] + own * of.static_seconds[1],
        "optimizer": (of.adapted * choice.lora_rank or of.trainable) * of.optimizer_seconds,
    }
    return {
        "queries": choice.per_device_train_batch_size * choice.gradient_accumulation_steps,
        "candidates": demand.candidates,
        "refreshed": refreshed,
        "query_tokens": query_tokens,
        "label_tokens": label_tokens + refresh_tokens,
        "label_token_passes": passes * label_tokens + refresh_tokens,
        "flops": token_flops * (3 * query_tokens + passes * label_tokens + refresh_tokens) + 6 * (compared + bank),
        **{f"{name}_seconds": value for name, value in seconds.items()},
        "seconds": sum(seconds.values()),
    }


def mining_seconds(choice: Choice, of: Measured, frozen: bool = False) -> float:
    """Seconds of an epoch that go into mining, on average: encoding all texts (not those of a frozen encoder, whose
    states are kept), and comparing all queries with all labels."""
    every = rule_named(choice.label_strategy).demand(choice, sizes(choice, of, [])).search_every
    if every is None:
        return 0.0
    tokens = 0 if frozen else int(of.query_lengths.sum()) + int(of.label_lengths.sum())
    compared = len(of.query_lengths) * len(of.label_lengths) * of.dim
    whole = tokens * of.forward_seconds + compared * of.loss_seconds / 3  # a loss takes three products
    return whole / choice.num_processes / every


def work(choice: Choice, of: Measured) -> tuple[int, list[int], Demand, float]:
    """What a step has to do, from batches drawn at random.

    Returns:
        Bytes that a micro-batch of queries keeps (the most that was drawn); bytes of each chunk of candidates on one
        device; what the candidate rule needs; query tokens of each device.
    """
    draw = np.random.default_rng(0)
    num_queries, num_labels = of.num_queries, len(of.label_lengths)
    cost = of.kept[choice.gradient_checkpointing, choice.bf16]
    windows = [draw.choice(num_queries, min(choice.window, num_queries), replace=False) for _ in range(DRAWS)]
    batches = [rows[: choice.per_device_train_batch_size] for rows in windows]
    kept = [query_bytes(of.lengths_of(batch), choice, of, cost) for batch in batches]
    demand = rule_named(choice.label_strategy).demand(choice, sizes(choice, of, windows))
    own = -(-demand.candidates // choice.num_processes)
    ids = np.arange(own) if demand.candidates == num_labels else draw.choice(num_labels, own, replace=False)
    recomputed = 0  # a layer at a time
    if choice.gradient_checkpointing:
        whole = of.kept[False, choice.bf16]
        recomputed = int(chunk_bytes(of.query_lengths[:DRAWS], choice, of, whole).max() / of.layers)
    labels = chunk_bytes(of.label_lengths[ids], choice, of, cost).astype(int).tolist()
    tokens = (
        float(of.query_lengths.sum())
        / num_queries
        * choice.per_device_train_batch_size
        * choice.gradient_accumulation_steps
    )
    return max(kept) + recomputed, labels, demand, tokens


def sizes(choice: Choice, of: Measured, windows: list[np.ndarray]) -> Sizes:
    """What a candidate rule may know; `windows` are rows of steps drawn at random."""

    def distinct_positives(count: int | None) -> int:
        found = [distinct(of.positives.take(rows), rows, count) for rows in windows]
        return max(round(float(np.mean(found))), 1) if found else 1

    return Sizes(
        num_queries=of.num_queries,
        num_labels=len(of.label_lengths),
        dim=of.dim,
        window=choice.window,
        bank_itemsize=of.bank_itemsize,
        distinct_positives=distinct_positives,
    )


def distinct(positives: Positives, rows: np.ndarray, count: int | None) -> int:
    """How many labels these queries have as positives, at most `count` per query."""
    if count is not None:
        positives = draw_pairs(positives.torch(), torch.from_numpy(rows), count, seed=0, step=0)
    return len(np.unique(positives.indices))


def query_bytes(lengths: np.ndarray, choice: Choice, of: Measured, cost: Cost) -> int:
    """What a micro-batch of these passages keeps for its backward pass. Where texts are cut, that of one chunk is
    enough, if gradients are cached."""
    chunks = chunk_bytes(lengths, choice, of, cost)
    cached = of.passages_per_query > 1 and is_cached(choice.gradient_caching, len(chunks), of.device)
    return int(chunks.max() if cached else chunks.sum())


def chunk_bytes(lengths: np.ndarray, choice: Choice, of: Measured, cost: Cost) -> np.ndarray:
    """What each chunk of these texts keeps for its backward pass, `[chunks]`."""
    chunks = chunks_of(lengths, choice.encode_chunk_tokens, choice.encode_chunk_size, of.packed)
    return np.array([cost(len(c), lengths[c].mean() if of.packed else lengths[c].max()) for c in chunks])


def fitting(choice: Choice, of: Measured, limit: int, gpu: bool = False) -> Choice | None:
    """Settings that fit in `limit` bytes, changed as little as possible; first those that leave the result alone."""
    if peak(memory(choice, of)) <= limit:
        return choice
    for change in changes(choice, gpu):
        choice = replace(choice, **change)
        if peak(memory(choice, of)) <= limit:
            return choice
    return None


def changes(choice: Choice, gpu: bool) -> Iterator[dict[str, Any]]:
    """What may be changed, in turn; each on top of those before."""
    if not choice.gradient_caching:
        yield {"gradient_caching": True}
    size = choice.encode_chunk_tokens
    while size > 256:
        size = max(size // 2, 256)
        yield {"encode_chunk_tokens": size}
    batch, steps = choice.per_device_train_batch_size, choice.gradient_accumulation_steps
    while batch > 8 and batch % 2 == 0:
        batch, steps = batch // 2, steps * 2
        yield {"per_device_train_batch_size": batch, "gradient_accumulation_steps": steps}
    if not choice.gradient_checkpointing:
        yield {"gradient_checkpointing": True}
    if gpu and not choice.bf16:
        yield {"bf16": True}
    if choice.label_strategy == "all":
        yield {"label_strategy": "selective"}
    if not choice.lora_rank:
        yield {"lora_rank": 16}


def difference(before: Choice, after: Choice) -> dict[str, Any]:
    """The settings that were changed."""
    return {name: value for name, value in asdict(after).items() if asdict(before)[name] != value}
