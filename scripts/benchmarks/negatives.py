"""How hard in-batch negatives are, in random batches and in batches of clustered queries.

    python scripts/benchmarks/negatives.py --data biotools_edam --batch_size 128 --cluster_sizes 8 32 128

The measure is NGAME's: `hardest` is the mean score of a query's k hardest negatives among the labels of its batch,
divided by the mean score of its k hardest negatives among all labels; 1 would be perfect. Also shown: `all`, the mean
score of all negatives of the batch divided by the same, and `found`, the share of the k hardest negatives that are in
the batch. Each is measured over the training queries of one epoch, with the embeddings of the untrained encoder
(cosine). The labels of a batch are all positives of its queries, as in label_strategy in_batch, or with
--num_positives 1, as in the paper, one positive per query, drawn at random. Positives and ignored pairs of a query are
not its negatives.

Prints a table and writes negatives_<data>.json. `--features` names a folder that keeps the pooled states of the
encoder (`<data>_labels.npy`, `_train`).
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn.functional import normalize

from hf_xmc import Positives, XMCDataset, XMCDualEncoderModel, load_xmc_dataset
from hf_xmc.hub.run import versions, write_json
from hf_xmc.modeling.modeling_xmc import Side
from hf_xmc.modeling.packaged import packaged_encoder
from hf_xmc.sampling.clustered_batches import ClusteredBatchSampler
from hf_xmc.sampling.clusters import METHODS

QUERIES = 256  # scored against all labels at a time


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="sample", help="'sample', a folder, or the name of one in $HF_XMC_DATA.")
    parser.add_argument("--encoder", help="Encoder; by default the packaged all-MiniLM-L6-v2.")
    parser.add_argument("--batch_size", type=int, default=128)
    parser.add_argument("--cluster_sizes", nargs="+", type=int, default=[8, 16, 32, 64, 128])
    parser.add_argument("--method", default="bisecting", choices=METHODS)
    parser.add_argument("--k", type=int, default=10, help="Number of hardest negatives per query (NGAME: 10).")
    parser.add_argument(
        "--num_positives", type=int, choices=[1], help="Positives per query that enter the batch; by default all."
    )
    parser.add_argument("--features", type=Path, help="Folder that keeps the encoder's states for the next run.")
    parser.add_argument("--output_dir", type=Path, default=Path("outputs/benchmarks"))
    settings = parser.parse_args()

    data = load_xmc_dataset(settings.data)
    queries, labels = embeddings(data, settings, "train"), embeddings(data, settings, "labels")
    positives, ignored = data.positives("train"), data.filters.get("train")
    pairs = [positives, *([] if ignored is None else [ignored])]
    truth = hardest(queries, labels, pairs, settings.k)
    rows = []
    for size in (1, *settings.cluster_sizes):
        sampler = ClusteredBatchSampler(len(queries), settings.batch_size, size, method=settings.method)
        if size > 1:
            sampler.update(queries, epoch=0)
        rows.append(measure(sampler, queries, labels, pairs, truth, settings))
    show(rows, f"{data.name}: {len(labels):,} labels, {settings.batch_size} queries per batch, k = {settings.k}")
    flags = {name: str(value) if isinstance(value, Path) else value for name, value in vars(settings).items()}
    result = {"rows": rows, "settings": flags, "versions": versions()}
    print(write_json(result, settings.output_dir / f"negatives_{Path(settings.data).name}.json"))


def embeddings(data: XMCDataset, settings: argparse.Namespace, name: str) -> Tensor:
    """Of the training queries or the labels, at length 1, `[N or L, D]`."""
    path = None if settings.features is None else settings.features / f"{Path(settings.data).name}_{name}.npy"
    if path is not None and path.exists():
        return normalize(torch.from_numpy(np.load(path, allow_pickle=False)).float())
    side: Side = "label" if name == "labels" else "query"
    texts = (data.labels if name == "labels" else data.queries[name])["text"]
    model = XMCDualEncoderModel.from_encoder(settings.encoder or packaged_encoder())
    states = model.encode_tokens(model.tokenize(list(texts), side), side, progress=True, output="pooled")
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, states.numpy())
    return normalize(states)


def hardest(queries: Tensor, labels: Tensor, pairs: list[Positives], k: int) -> tuple[Tensor, Tensor]:
    """Scores and ids of each query's best-scoring labels that are none of its pairs, `[N, k]`."""
    parts = []
    for rows in torch.arange(len(queries)).split(QUERIES):
        scores = queries[rows] @ labels.T  # [b, L]
        for row, ids in pairs_of(pairs, rows.numpy()):
            scores[row, ids] = -torch.inf
        parts.append(scores.topk(k))
    return torch.cat([part.values for part in parts]), torch.cat([part.indices for part in parts])


def pairs_of(pairs: list[Positives], rows: np.ndarray) -> list[tuple[Tensor, Tensor]]:
    """Place among the rows, and label, of each of their pairs."""
    found = [(p.take(rows).numpy(), len(rows)) for p in pairs]
    return [
        (torch.from_numpy(np.repeat(np.arange(count), p.counts)), torch.from_numpy(p.indices).long())
        for p, count in found
    ]


def measure(
    sampler: ClusteredBatchSampler,
    queries: Tensor,
    labels: Tensor,
    pairs: list[Positives],
    truth: tuple[Tensor, Tensor],
    settings: argparse.Namespace,
) -> dict[str, Any]:
    """One row of the table: means over the batches of an epoch."""
    rng = np.random.default_rng(0)
    sums = dict.fromkeys(("hard", "mean", "true", "found", "candidates"), 0.0)
    count = 0
    for batch in sampler:
        rows = np.array(batch)
        candidates = labels_of(pairs[0].take(rows), settings.num_positives, rng)  # [C]
        negative = torch.ones(len(rows), len(labels), dtype=torch.bool)
        for row, ids in pairs_of(pairs, rows):
            negative[row, ids] = False
        negative = negative[:, candidates]  # [B, C]
        scores = queries[rows] @ labels[candidates].T
        best = scores.masked_fill(~negative, -torch.inf).topk(min(settings.k, len(candidates))).values  # [B, k]
        true_scores, true_ids = truth[0][rows], truth[1][rows]
        usable = negative.any(1)  # queries that have a negative in the batch
        there = best > -torch.inf
        sums["hard"] += float((best.masked_fill(~there, 0).sum(1) / there.sum(1).clamp(min=1))[usable].sum())
        sums["mean"] += float(((scores * negative).sum(1) / negative.sum(1).clamp(min=1))[usable].sum())
        sums["true"] += float(true_scores.mean(1)[usable].sum())
        sums["found"] += float(torch.isin(true_ids, candidates).float().mean(1)[usable].sum())
        sums["candidates"] += len(candidates)
        count += int(usable.sum())
    return {
        "batches": "random" if sampler.size == 1 else f"clusters of {sampler.size}",
        "hardest": sums["hard"] / sums["true"],
        "all": sums["mean"] / sums["true"],
        "found": sums["found"] / count,
        "labels": sums["candidates"] / len(sampler),
    }


def labels_of(positives: Positives, num_positives: int | None, rng: np.random.Generator) -> Tensor:
    """Labels of a batch, each once, sorted."""
    positives = positives.numpy()
    ids = positives.indices
    if num_positives == 1:
        starts = positives.indptr[:-1][positives.counts > 0]
        ids = ids[starts + rng.integers(positives.counts[positives.counts > 0])]
    return torch.from_numpy(np.unique(ids)).long()


def show(rows: list[dict[str, Any]], title: str) -> None:
    table = Table(title=title, title_justify="left")
    for name in ("batches", "hardest", "all", "found, %", "labels per batch"):
        table.add_column(name, justify="left" if name == "batches" else "right")
    for row in rows:
        numbers = f"{row['hardest']:.3f}", f"{row['all']:.3f}", f"{100 * row['found']:.1f}", f"{row['labels']:.0f}"
        table.add_row(row["batches"], *numbers)
    Console().print(table)


if __name__ == "__main__":
    main()
