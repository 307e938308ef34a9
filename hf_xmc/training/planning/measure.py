"""Measures for a few seconds what `plan.py` needs to know of model, machine and data."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from types import SimpleNamespace

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor, nn
from transformers import Trainer

from hf_xmc.data.dataset import XMCDataset
from hf_xmc.data.tokenized import TokenBags, TokenizedQueries, TokenTable, table_of
from hf_xmc.losses import make_loss
from hf_xmc.modeling import XMCDualEncoderModel
from hf_xmc.modeling.modeling_xmc import Side
from hf_xmc.training.adapters import has_adapters, plain_model
from hf_xmc.training.arguments import XMCTrainingArguments
from hf_xmc.training.distributed import all_processes
from hf_xmc.training.encoding import TextEncoder
from hf_xmc.training.passages import cutting, given_passages
from hf_xmc.training.planning.encoder_cost import (
    Cost,
    cast_to_bf16,
    forward_flops,
    kept_bytes,
    optimizer_cost,
    seconds_a_unit,
)
from hf_xmc.training.planning.plan import Measured
from hf_xmc.training.preparation import (
    frozen_parameters,
    grow_static_tower,
    token_key,
    token_table,
    with_features,
)
from hf_xmc.training.static_training import StaticTraining
from hf_xmc.types import Positives

NOTHING = Cost(0.0, 0.0, 0.0)
SAMPLE = 64  # texts that the encoder is timed on at a time
STATIC_SAMPLE = 256  # the same for the static tower
SAMPLED = 2**14  # texts of a larger table that are tokenised
LABELS = 2**13  # labels that the loss is timed on


def measure(
    model: XMCDualEncoderModel,
    args: XMCTrainingArguments,
    data: XMCDataset,
    base: int = 0,
    seconds: float = 10.0,
    lora_rank: int = 0,
    speed: bool = True,
) -> Measured:
    """Measure a model that is ready for training (`preparation.prepare`), on the device of the arguments.

    Of tables with more than `SAMPLED` rows, a sample is tokenised, whose lengths stand for all.

    Args:
        base: bytes that the process had before the model.
        seconds: to spend on the speed, about.
        lora_rank: of the adapters that the model has.
        speed: False leaves all speeds at 0, for a plan for another device.
    """
    label_texts, train = data.labels, data.queries["train"]
    if model.static_tower is None:  # which has a vector for each word of all texts
        label_texts, train = sample(label_texts, args.seed), sample(train, args.seed)
    labels = token_table(model, label_texts, "label")
    passages = given_passages(args.passages)
    queries = TokenizedQueries(
        train,
        lambda texts: model.token_ids(texts, "query"),
        key=token_key(model, "query"),
        passages=None if passages is None else cutting(model, passages),
    )
    with_features(model, queries.tokens, queries.texts)
    grow_static_tower(plain_model(model), queries.tokens, labels, data.labels, args)
    for parameter in frozen_parameters(model, args):
        parameter.requires_grad_(False)
    model.to(args.device).train()  # type: ignore[arg-type]
    longest = int(max(labels.lengths.max(), table_of(queries.tokens).lengths.max()))
    trainable = sum(p.nbytes for p in model.parameters() if p.requires_grad)
    weights = sum(p.nbytes for p in model.parameters()) - (trainable if lora_rank else 0)
    make, settings = Trainer.get_optimizer_cls_and_kwargs(args, model)
    state, optimizer_seconds = optimizer_cost(lambda parameters: make(parameters, **settings), args.device)
    label_lengths = lengths(labels, len(data.labels), args.seed)
    query_lengths, passage_counts = passage_lengths(queries.tokens, len(data.queries["train"]), args.seed)
    tables = sum(4 * int(found.astype(np.int64).sum()) for found in (label_lengths, query_lengths))
    if args.freeze_encoder and model.query_encoder is not None:  # pooled states of all texts are kept
        tables += 4 * (len(label_lengths) + len(query_lengths)) * model.width("query", "pooled")
    no_encoder = model.query_encoder is None
    speeds = text_seconds(model, args, labels, queries, seconds) if speed and not no_encoder else [0.0] * 3
    words = static_seconds(plain_model(model), args, labels, queries, seconds / 10) if speed else (0.0, 0.0)
    return Measured(
        base=base,
        weights=weights,
        adapted=trainable // lora_rank if has_adapters(model) else 4 * linear_sizes(tower_modules(model)),
        trainable=trainable,
        largest=max((p.nbytes for p in model.parameters() if p.requires_grad), default=0),
        optimizer=state,
        kept=costs_of_chunks(model, args, longest),
        layers=getattr(model.config.encoder_config, "num_hidden_layers", 1),
        flops=NOTHING if no_encoder else Cost.fit(lambda n, t: forward_flops(model, n, t), longest),
        query_seconds=speeds[0],
        label_seconds=speeds[1],
        forward_seconds=speeds[2],
        loss_seconds=loss_seconds(args, model.config.temperature, model.width("query"), seconds / 20)
        if speed
        else 0.0,
        optimizer_seconds=optimizer_seconds,
        dim=model.width("query"),
        query_lengths=query_lengths,
        passage_counts=passage_counts,
        label_lengths=label_lengths,
        positives=data.positives("train"),
        tables=tables,
        packed=model.packs("query"),
        bank_itemsize=getattr(torch, args.label_bank_dtype).itemsize,
        vector_bytes=vector_bytes(model, args),
        static_bytes=4 * model.config.static_rows,
        static_seconds=words,
        device=args.device.type,
    )


def sample(texts: Dataset, seed: int) -> Dataset:
    """A table, or so many of its rows that their lengths are known well enough."""
    if len(texts) <= SAMPLED:
        return texts
    rows = np.random.default_rng(seed).choice(len(texts), SAMPLED, replace=False)
    return texts.select(np.sort(rows))


def lengths(tokens: TokenTable, count: int, seed: int) -> np.ndarray:
    """Tokens of so many texts, of which a table has a sample, or all."""
    known = np.asarray(tokens.lengths)
    return known if len(known) == count else np.random.default_rng(seed).choice(known, count)


def passage_lengths(tokens: TokenTable | TokenBags, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Tokens of each passage of so many texts, and how many each has; a text that is not cut is one passage."""
    if isinstance(tokens, TokenTable):
        return lengths(tokens, count, seed), np.ones(count, dtype=np.int64)
    known = len(tokens) == count
    texts = np.arange(count) if known else np.random.default_rng(seed).choice(len(tokens), count)
    places, counts = tokens.rows_of(texts)
    return np.asarray(tokens.passages.lengths)[places], counts


def vector_bytes(model: XMCDualEncoderModel, args: XMCTrainingArguments) -> int:
    """Bytes per label of a label head and its optimizer state; 0 for a model without."""
    if model.config.label_head is None:
        return 0
    dim = int(model.width("label"))
    state = 8 * dim if args.label_head_optimizer == "sparse_adam" else 4
    return dim * int(getattr(torch, args.label_head_dtype).itemsize) + state


def costs_of_chunks(
    model: XMCDualEncoderModel, args: XMCTrainingArguments, longest: int
) -> dict[tuple[bool, bool], Cost]:
    """What a chunk keeps for its backward pass, with and without activation checkpointing and bf16."""
    if args.freeze_encoder or model.query_encoder is None:
        return {(checkpointing, bf16): NOTHING for checkpointing in (False, True) for bf16 in (False, True)}
    found = {}
    for checkpointing in (False, True):
        if checkpointing:
            model.activation_checkpointing_enable()
        for bf16 in (False, True):
            found[checkpointing, bf16] = Cost.fit(lambda n, t, b=bf16: kept_bytes(model, n, t, b), longest)  # type: ignore[misc]
    model.activation_checkpointing_disable()
    return found


def text_seconds(
    model: XMCDualEncoderModel,
    args: XMCTrainingArguments,
    labels: TokenTable,
    queries: TokenizedQueries,
    seconds: float,
) -> list[float]:
    """Seconds per token of a query and of a label, forward and backward, and of a forward pass alone.

    Under a frozen encoder, which runs once over each text, only the last.
    """
    draw = np.random.default_rng(0)
    args = copy.copy(args)
    args.gradient_caching = False  # the plan counts its pass separately
    encoder = TextEncoder(model, args, labels)

    lengths_of_texts = queries.tokens.lengths

    def some(count: int, most: int) -> np.ndarray:
        return np.sort(draw.choice(count, min(count, most), replace=False))

    def query_step() -> float:
        rows = some(len(queries), min(args.per_device_train_batch_size, SAMPLE))
        found = encoder.queries(torch.from_numpy(rows), queries.tokens)
        backward(found if isinstance(found, Tensor) else found.vectors)
        return float(lengths_of_texts[rows].sum())

    def label_step() -> float:
        ids = some(len(labels), 2 * SAMPLE)
        backward(encoder.labels(torch.from_numpy(ids)))
        return float(labels.lengths[ids].sum())

    def label_forward() -> float:
        ids = some(len(labels), 2 * SAMPLE)
        if args.freeze_encoder:
            encoder.encode_table(labels, "label", "pooled", ids)
        else:
            encoder.labels_without_gradients(torch.from_numpy(ids))
        return float(labels.lengths[ids].sum())

    with cast_to_bf16(model, args.bf16):
        tasks = ((query_step, 0.35), (label_step, 0.45), (label_forward, 0.15))
        if args.freeze_encoder:
            return [0.0, 0.0, seconds_a_unit(label_forward, seconds)]
        found = [seconds_a_unit(task, share * seconds) for task, share in tasks]
    model.zero_grad(set_to_none=True)
    return found


def static_seconds(
    model: XMCDualEncoderModel,
    args: XMCTrainingArguments,
    labels: TokenTable,
    queries: TokenizedQueries,
    seconds: float,
) -> tuple[float, float]:
    """Seconds that the static tower takes for a query (or passage) and for a label of a step, its table moved; 0
    without one."""
    if model.static_tower is None or args.static_learning_rate == 0:
        return 0.0, 0.0
    training = StaticTraining(model.static_tower, args, all_processes(args.device))
    optimizer = SimpleNamespace(param_groups=[{"lr": 1.0}])
    draw = np.random.default_rng(0)

    def steps(tokens: TokenTable, side: Side) -> float:
        def one() -> float:
            rows = draw.choice(len(tokens), min(len(tokens), STATIC_SAMPLE), replace=False)
            backward(training.embed(tokens.features, rows, side))
            training.step(optimizer, 0, 1.0)
            return float(len(rows))

        return seconds_a_unit(one, seconds / 2)

    return steps(table_of(queries.tokens), "query"), steps(labels, "label")


def backward(embeddings: Tensor) -> None:
    """A backward pass from made gradients."""
    embeddings.backward(torch.randn_like(embeddings))


def loss_seconds(args: XMCTrainingArguments, temperature: float, dim: int, seconds: float) -> float:
    """Seconds of the loss, forward and backward, per query, label and dimension."""
    loss = make_loss(args, temperature)
    batch = args.per_device_train_batch_size
    queries, labels = (
        nn.functional.normalize(torch.randn(n, dim, device=args.device), dim=1).requires_grad_()
        for n in (batch, LABELS)
    )
    positives = Positives.from_lists([[row % LABELS] for row in range(batch)]).torch(args.device)

    def step() -> float:
        loss(queries, labels, positives).backward()
        return float(batch * LABELS * dim)

    return seconds_a_unit(step, seconds)


def tower_modules(model: XMCDualEncoderModel) -> Iterable[nn.Module]:
    """The modules of all towers."""
    return (m for tower in (model.query_encoder, model.label_encoder) if tower is not None for m in tower.modules())


def linear_sizes(modules: Iterable[nn.Module]) -> int:
    """Numbers that adapters of rank one have: inputs and outputs of each linear layer."""
    return sum(m.in_features + m.out_features for m in modules if isinstance(m, nn.Linear))
