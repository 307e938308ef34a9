"""What came after DEXML and NGAME, each beside the same training without it: DEXA, PRIME and LEVER.

    python scripts/benchmarks/successors.py --data biotools_edam --seeds 0   # choose on validation
    python scripts/benchmarks/successors.py --data biotools_edam --seeds 0 1 2 --split test

Over the states of a frozen all-MiniLM-L6-v2 it trains projections of queries and labels with decoupled softmax over
all labels, in a plain loop. Variants add to a label a vector of its own (what `--label_head residual` does), one that
it shares with the labels of its cluster (DEXA, Dahiya et al. 2023), or the mean of its training queries with a learned
share (the prototypes of PRIME, Dahiya et al. 2024); or a margin that is larger for rarer labels (PRIME's idea, in the
form of LDAM, Cao et al. 2019). With LEVER (Buvanesh et al. 2024) the vectors are trained in a second stage, and
those of rare labels also learn from the texts that the dual encoder finds best. ASTRA is in candidates.py.

Prints a table: mean over seeds, half of the range. A run takes some seconds of a processor.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import dataclass

import faiss
import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn.functional import normalize, softplus
from transformers.utils import logging

from hf_xmc import XMCDataset, XMCDualEncoderModel, XMCTrainer, XMCTrainingArguments, load_xmc_dataset
from hf_xmc.data.tokenized import TokenTable
from hf_xmc.inference.evaluation.evaluate import score
from hf_xmc.metrics import search_depth
from hf_xmc.modeling.packaged import default_encoder
from hf_xmc.retrieval.search import exact_search

SHOWN = ("P@1", "P@5", "nDCG@5", "PSP@1", "PSP@5")
BATCH = 256
TEMPERATURE = 0.05
RARE, SOFT = 10, 10  # training texts of a rare label, and further ones that it is taught
Figures = dict[str, float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="biotools_edam", help="A folder, or the name of one in $HF_XMC_DATA.")
    parser.add_argument("--split", choices=("validation", "test"), default="validation")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--tokens", type=int, default=64, help="Tokens of a text that the encoder reads.")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--only", nargs="+", help="Variants to run, by name.")
    args = parser.parse_args()
    logging.set_verbosity_error()
    data = load_xmc_dataset(args.data)
    frozen = states(data, args)
    rows: dict[str, list[Figures]] = {}
    for seed in args.seeds:
        for name in args.only or LABELS:
            rows.setdefault(name, []).append(run(data, frozen, LABELS[name], args, seed))
    table = Table(title=f"{data.name}, {args.split}, {len(args.seeds)} seeds, per cent")
    for column in ("", *next(iter(rows.values()))[0]):
        table.add_column(column, justify="right" if column else "left", no_wrap=True)
    for name, runs in rows.items():
        values = np.array([list(run.values()) for run in runs])
        spread = (values.max(0) - values.min(0)) / 2
        table.add_row(name, *(f"{m:.1f} ± {s:.1f}" for m, s in zip(values.mean(0), spread, strict=True)))
    Console(width=140).print(table)


def measured(data: XMCDataset, split: str, queries: Tensor, labels: Tensor) -> Figures:
    """The metrics of exact search, per cent."""
    found = exact_search(queries.numpy(), labels.numpy(), search_depth(5, data.filters.get(split)))
    metrics = score(found, data, split)
    return {name: 100 * metrics[name] for name in SHOWN}


@dataclass(frozen=True)
class Label:
    """What is added to the projected text of a label.

    Args:
        vectors: a vector of its own.
        cluster: labels in a cluster that shares a vector, on average; 0 for none.
        prototype: the mean of its training queries, of a query's own label without that query.
        margin: of a label with one training text, in units of the cosine; n texts divide it by n ** 0.25.
        temperature: of the loss.
        taught: weight, beside 1, of the texts that the dual encoder finds for rare labels; None for a single stage.
    """

    vectors: bool = False
    cluster: int = 0
    prototype: bool = False
    margin: float = 0.0
    temperature: float = TEMPERATURE
    taught: float | None = None


LABELS = {
    "text": Label(),
    "vectors": Label(vectors=True),
    "vectors, temperature 0.06": Label(vectors=True, temperature=0.06),
    "vectors, temperature 0.04": Label(vectors=True, temperature=0.04),
    **{f"DEXA, clusters of {n}": Label(cluster=n) for n in (2, 8, 32)},
    **{f"DEXA, clusters of {n}, vectors": Label(vectors=True, cluster=n) for n in (2, 8, 32)},
    "PRIME, prototypes": Label(prototype=True),
    "PRIME, prototypes, vectors": Label(vectors=True, prototype=True),
    **{f"PRIME, margin {m}, vectors": Label(vectors=True, margin=m) for m in (0.05, 0.1, 0.2)},
    **{f"LEVER, weight {w}": Label(vectors=True, taught=w) for w in (0.0, 0.05, 0.2)},
}


def states(data: XMCDataset, args: argparse.Namespace) -> dict[str, Tensor]:
    """The frozen states of labels and queries, `[n, H]`, which the trainer keeps on the disk."""
    model: XMCDualEncoderModel = XMCDualEncoderModel.from_encoder(
        default_encoder(), projection_dim=384, max_query_length=args.tokens
    )
    with tempfile.TemporaryDirectory() as folder:
        settings = XMCTrainingArguments(folder, freeze_encoder=True, encode_dtype="auto", report_to="none")
        trainer = XMCTrainer(model, settings, data.queries["train"], label_dataset=data.labels)
        found = {"labels": trainer.encoder.states(trainer.label_tokens, "label")}
        for split in ("train", args.split):
            tokens = trainer.tokenize(model, data.queries[split], None).tokens
            assert isinstance(tokens, TokenTable)  # whole texts
            found[split] = trainer.encoder.states(tokens, "query")
    return {name: one.float() for name, one in found.items()}


class Towers(nn.Module):
    """Projections of queries and labels, and what is added to labels.

    Args:
        frozen: states of labels, `[L, H]`.
        counts: training queries of each label, `[L]`.
    """

    def __init__(self, how: Label, frozen: Tensor, counts: Tensor, seed: int) -> None:
        super().__init__()
        (number, width), self.how = frozen.shape, how
        self.query, self.label = nn.Linear(width, width, bias=False), nn.Linear(width, width, bias=False)
        for layer in (self.query, self.label):
            nn.init.eye_(layer.weight)
        self.vectors = nn.Parameter(torch.zeros(number, width)) if how.vectors else None
        if how.cluster:
            kmeans = faiss.Kmeans(width, number // how.cluster, seed=seed, spherical=True, min_points_per_centroid=1)
            kmeans.train(normalize(frozen, dim=1).numpy())
            self.cluster = torch.from_numpy(kmeans.index.search(normalize(frozen, dim=1).numpy(), 1)[1][:, 0])
            self.shared = nn.Parameter(torch.zeros(number // how.cluster, width))
        self.frozen, self.counts = frozen, counts
        self.mixing = nn.Parameter(torch.tensor([0.0, 0.0])) if how.prototype else None  # offset, slope of log counts
        self.sums = torch.zeros(number, width)  # of the training queries of each label

    def queries(self, states: Tensor) -> Tensor:
        """Embeddings of queries, `[B, D]`."""
        return normalize(self.query(states), dim=1)

    def bases(self) -> Tensor:
        """What labels are made of without prototypes, `[L, D]`."""
        found = normalize(self.label(self.frozen), dim=1)
        if self.vectors is not None:
            found = found + self.vectors
        return found + self.shared[self.cluster] if self.how.cluster else found

    def mixed(self, bases: Tensor, sums: Tensor, ids: Tensor) -> Tensor:
        """Embeddings of labels: their bases and, if there are any, prototypes."""
        if self.mixing is not None:
            share = (self.mixing[0] + self.mixing[1] * self.counts[ids].log1p()).sigmoid()
            bases = bases + share[:, None] * normalize(sums, dim=1)
        return normalize(bases, dim=1)

    def labels(self) -> Tensor:
        """Embeddings of labels, `[L, D]`."""
        return self.mixed(self.bases(), self.sums, torch.arange(len(self.frozen)))

    def loss(self, states: Tensor, weights: Tensor, earlier: Tensor) -> Tensor:
        """Decoupled softmax over all labels.

        Args:
            states: of the queries, `[B, H]`.
            weights: of positives, `[B, L]`; 0 for negatives.
            earlier: the embeddings of the queries as they are in `sums`, `[B, D]`.
        """
        queries, bases, ids = self.queries(states), self.bases(), torch.arange(len(self.frozen))
        scores = queries @ self.mixed(bases, self.sums, ids).T / self.how.temperature
        rows, own = weights.nonzero(as_tuple=True)
        positive = scores[rows, own]
        if self.mixing is not None:  # a label must not show a query its own embedding
            others = self.mixed(bases[own], self.sums[own] - earlier[rows], own)
            positive = (queries[rows] * others).sum(1) / self.how.temperature
        margin = self.how.margin / self.counts.clamp(min=1) ** 0.25
        positive = positive - margin[own] / self.how.temperature
        negatives = scores.masked_fill(weights > 0, -torch.inf).logsumexp(1)
        mean = weights[rows, own] / weights.sum(1)[rows]
        return (mean * softplus(negatives[rows] - positive)).sum() / len(states)


def run(data: XMCDataset, frozen: dict[str, Tensor], how: Label, args: argparse.Namespace, seed: int) -> Figures:
    """Train, and measure on the split."""
    torch.manual_seed(seed)
    pairs = data.positives("train")
    truth = torch.zeros(len(pairs), data.num_labels)
    truth[pairs.rows, pairs.indices] = 1
    started = time.process_time()
    towers = Towers(how, frozen["labels"], truth.sum(0), seed)
    if how.taught is not None:
        teacher = Towers(Label(), frozen["labels"], truth.sum(0), seed)
        fit(teacher, frozen["train"], truth, args.epochs)
        towers.load_state_dict(teacher.state_dict(), strict=False)
        truth = truth + how.taught * found_best(teacher, frozen["train"], truth)
    fit(towers, frozen["train"], truth, args.epochs)
    seconds = time.process_time() - started
    with torch.no_grad():
        found = measured(data, args.split, towers.queries(frozen[args.split]), towers.labels())
    return {**found, "CPU s": seconds}


def fit(towers: Towers, states: Tensor, truth: Tensor, epochs: int) -> None:
    """Train on all queries."""
    optimizer = torch.optim.Adam(towers.parameters(), lr=1e-3)
    steps = epochs * -(-len(truth) // BATCH)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=steps)
    earlier = torch.zeros_like(states)
    for _ in range(epochs):
        if towers.how.prototype:
            with torch.no_grad():
                earlier = towers.queries(states)
                towers.sums = truth.T @ earlier
        for rows in torch.randperm(len(truth)).split(BATCH):
            optimizer.zero_grad()
            towers.loss(states[rows], truth[rows], earlier[rows]).backward()
            optimizer.step()
            schedule.step()


@torch.no_grad()
def found_best(teacher: Towers, states: Tensor, truth: Tensor) -> Tensor:
    """1 for the `SOFT` texts without a rare label that are nearest to it, `[N, L]`."""
    (rare,) = torch.where((teacher.counts > 0) & (teacher.counts <= RARE))
    scores = teacher.labels()[rare] @ teacher.queries(states).T  # [rare, N]
    best = scores.masked_fill(truth.T[rare] > 0, -torch.inf).topk(SOFT).indices
    found = torch.zeros_like(truth)
    found[best.flatten(), rare.repeat_interleave(SOFT)] = 1
    return found


if __name__ == "__main__":
    main()
