"""Ways to give a text the scores of its passages that are learned, beside log-sum-exp, over frozen embeddings.

    python scripts/benchmarks/bag_pooling.py outputs/demo/model --dataset sample

Texts are eight unrelated queries joined, as in bags.py. Every way is trained on such texts of training queries (or of
half of the validation queries, --fit_on validation: the tagger has seen the training queries), from log-sum-exp as it
is, and keeps the learning rate and the epoch of the largest P@5 on texts of other validation queries; 0 is the epoch
of what was not trained. P@5 and the localisation AUC on texts of test queries, mean and range over seeds:

- sharpness: log-sum-exp with a learned sharpness
- attention: softmax over passages of sharpness times score, plus a learned bias by place and by length
- query of labels: the same, plus a score of passage and label by a low-rank matrix
- adapter: log-sum-exp over passages that a low-rank matrix has moved, which the next two train in other ways
- dropout by a teacher: a moving average of the adapter scores passages; the student does not see the best one and a
  random half, and its text scores follow those of the teacher as well (MHIM-MIL)
- pseudo-labels: each passage is also trained on the label of the text whose prototype is nearest (INS)

Writes bag_pooling-DATASET.json to --output_dir.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bags import Bag, joined, localisation  # beside this file
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from hf_xmc import Passages, XMCPipeline, load_xmc_dataset
from hf_xmc.hub.run import write_json
from hf_xmc.retrieval.bags import Bags

RANK, PLACES = 32, 8  # of the low-rank matrices; parts of a text that have a bias each
SHARPNESS = 50.0
TEACHER, KEPT, FOLLOW = 0.99, 0.5, 0.1  # momentum of the teacher, passages the student sees, weight of its scores
PROTOTYPE, CONFIDENCE, PSEUDO = 0.9, (0.95, 0.8), 0.5  # momentum, that of a passage's label first and last, weight
WAYS = ("log-sum-exp", "sharpness", "attention", "query of labels", "adapter", "dropout by a teacher", "pseudo-labels")


class Texts:
    """Bags of one split, padded: embeddings `[N, T, D]`, which passages there are `[N, T]`, and labels `[N, L]`."""

    def __init__(self, tagger: XMCPipeline, bags: list[Bag], tokens: int) -> None:
        self.bags, texts = bags, [bag.text for bag in bags]
        tagger.passages = Passages(tokens=tokens, title=False)
        given = tagger.encode(texts)
        assert isinstance(given, Bags)
        assert given.spans is not None
        tagger.passages = None
        counts, longest = given.counts, int(given.counts.max())
        self.given, self.counts = given, torch.from_numpy(counts)
        self.there = torch.arange(longest) < self.counts[:, None]
        self.vectors = torch.zeros(len(bags), longest, given.vectors.shape[1])
        self.vectors[self.there] = torch.from_numpy(np.ascontiguousarray(given.vectors))
        lengths = torch.zeros(self.there.shape)
        lengths[self.there] = torch.from_numpy(np.diff(given.spans, axis=1)[:, 0]).float().log()
        self.lengths = lengths - lengths[self.there].mean()
        self.labels = torch.zeros(len(bags), len(tagger.index.labels), dtype=torch.bool)
        for row, bag in enumerate(bags):
            self.labels[row, sorted({label for its in bag.labels for label in its})] = True
        spans = np.split(given.spans, given.indptr[1:-1])
        self.spans = [[(int(start), int(end)) for start, end in its] for its in spans]


class Pool(nn.Module):
    """Scores of texts by one of the ways; as it is made all give those of log-sum-exp, or of a softmax like it."""

    def __init__(self, way: str, label_vectors: Tensor) -> None:
        super().__init__()
        width = label_vectors.shape[1]
        self.way, self.label_vectors = way, label_vectors
        self.log_sharpness = nn.Parameter(torch.tensor(SHARPNESS).log(), requires_grad=way in WAYS[1:4])
        self.place, self.length = nn.Parameter(torch.zeros(PLACES)), nn.Parameter(torch.zeros(()))
        self.left = nn.Parameter(torch.randn(width, RANK) / width**0.5)
        self.right = nn.Parameter(torch.zeros(RANK, width))

    def passages(self, vectors: Tensor) -> Tensor:
        """The embeddings of passages `[..., D]`, moved if this is an adapter."""
        if self.way in WAYS[:4]:
            return vectors
        return nn.functional.normalize(vectors + vectors @ self.left @ self.right, dim=-1)

    def evidence(self, vectors: Tensor, texts: Texts, rows: Tensor) -> Tensor:
        """What a passage says for a label, `[B, T, L]`, in the units of log-sum-exp."""
        logits = self.log_sharpness.exp() * (self.passages(vectors) @ self.label_vectors.T)
        if self.way in ("attention", "query of labels"):
            part = PLACES * torch.arange(vectors.shape[1]) / texts.counts[rows, None]
            bias = self.place[part.long().clamp(max=PLACES - 1)] + self.length * texts.lengths[rows]
            logits = logits + bias[..., None]
        if self.way == "query of labels":
            logits = logits + vectors @ self.left @ (self.right @ self.label_vectors.T)
        return logits

    def forward(self, vectors: Tensor, texts: Texts, rows: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
        """Scores of texts `[B, L]`, and the evidence they are from.

        Args:
            vectors: of the texts' passages, `[B, T, D]`.
            seen: the passages that count, bool `[B, T]`.
        """
        logits = self.evidence(vectors, texts, rows)
        masked = logits.masked_fill(~seen[..., None], -torch.inf)
        if self.way in ("attention", "query of labels"):
            return (masked.softmax(1) * (vectors @ self.label_vectors.T)).sum(1), logits
        pooled = masked.logsumexp(1) - seen.sum(1, keepdim=True).log()
        return pooled / self.log_sharpness.exp(), logits


def fit(way: str, label_vectors: Tensor, temperature: float, texts: tuple[Texts, Texts], args: Any, seed: int) -> Any:
    """Train a way of pooling on the first texts; the pool of the largest P@5 on the others, and its epoch."""
    pool = Pool(way, label_vectors)
    best, chosen = p_at_5(pool, texts[1]), (pool, 0)
    for rate in args.learning_rates if way != "log-sum-exp" else ():
        torch.manual_seed(seed)
        pool = Pool(way, label_vectors)
        for epoch, state in enumerate(epochs_of(pool, temperature, texts[0], args.epochs, rate), start=1):
            reached = p_at_5(state, texts[1])
            if reached > best:
                best, chosen = reached, (copy.deepcopy(state), epoch)
    return chosen


def epochs_of(pool: Pool, temperature: float, train: Texts, epochs: int, rate: float) -> Iterator[Pool]:
    """Train, and give the pool after each epoch."""
    way, label_vectors = pool.way, pool.label_vectors
    teacher, prototypes = copy.deepcopy(pool), label_vectors.clone()
    pseudo = torch.zeros(*train.there.shape, label_vectors.shape[0]) if way == "pseudo-labels" else None
    optimizer = torch.optim.Adam([one for one in pool.parameters() if one.requires_grad], lr=rate)
    for epoch in range(epochs):
        for rows in torch.randperm(len(train.bags)).split(16):
            vectors, there, labels = train.vectors[rows], train.there[rows], train.labels[rows]
            seen = there
            if way == "dropout by a teacher":
                with torch.no_grad():
                    aim, logits = teacher(vectors, train, rows, there)
                seen = student_sees(logits, there, labels)
            scores, logits = pool(vectors, train, rows, seen)
            loss = cross_entropy(scores / temperature, labels / labels.sum(1, keepdim=True))
            if way == "dropout by a teacher":
                loss = loss + FOLLOW * cross_entropy(scores / temperature, (aim / temperature).softmax(1))
            if pseudo is not None:
                share = epoch / max(epochs - 1, 1)
                momentum = CONFIDENCE[0] + share * (CONFIDENCE[1] - CONFIDENCE[0]) if epoch else 0.0
                moved = pool.passages(vectors).detach()
                pseudo[rows] = nearest(moved, prototypes, labels).lerp(pseudo[rows], momentum)
                move(prototypes, moved[there], pseudo[rows][there].argmax(1))
                own = logits[there] / SHARPNESS / temperature
                loss = loss + PSEUDO * cross_entropy(own, pseudo[rows][there])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            with torch.no_grad():
                for old, new in zip(teacher.parameters(), pool.parameters(), strict=True):
                    old.lerp_(new, 1 - TEACHER)
        yield pool


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    return -(target * logits.log_softmax(1)).sum(1).mean()


def student_sees(logits: Tensor, there: Tensor, labels: Tensor) -> Tensor:
    """A random half of the passages without the one that the teacher likes best for the labels of its text."""
    best = logits.masked_fill(~labels[:, None] | ~there[..., None], -torch.inf).amax(2)  # [B, T]
    seen = there & (torch.rand(there.shape) < KEPT)
    seen[torch.arange(len(best)), best.argmax(1)] = False
    return torch.where(seen.any(1, keepdim=True), seen, there)


def nearest(vectors: Tensor, prototypes: Tensor, labels: Tensor) -> Tensor:
    """For each passage the label of its text of the nearest prototype, one-hot `[B, T, L]`."""
    near = (vectors @ prototypes.T).masked_fill(~labels[:, None], -torch.inf).argmax(2)
    return nn.functional.one_hot(near, len(prototypes)).float()


def move(prototypes: Tensor, vectors: Tensor, labels: Tensor) -> None:
    """Move the prototypes of the passages' labels towards their mean."""
    sums = torch.zeros_like(prototypes).index_add_(0, labels, vectors)
    found = labels.unique()
    mean = nn.functional.normalize(sums[found], dim=1)
    prototypes[found] = nn.functional.normalize(PROTOTYPE * prototypes[found] + (1 - PROTOTYPE) * mean, dim=1)


@torch.no_grad()
def p_at_5(pool: Pool, texts: Texts) -> float:
    found = []
    for rows in torch.arange(len(texts.bags)).split(16):
        top = pool(texts.vectors[rows], texts, rows, texts.there[rows])[0].topk(5).indices
        found.append(texts.labels[rows].gather(1, top).float().mean(1))
    return float(torch.cat(found).mean())


@torch.no_grad()
def located(pool: Pool, texts: Texts) -> float:
    def score(_: np.ndarray, places: slice) -> np.ndarray:
        row = int(np.searchsorted(texts.given.indptr, places.start, side="right")) - 1
        rows = torch.tensor([row])
        return pool.evidence(texts.vectors[rows], texts, rows)[0, : texts.counts[row]].numpy()

    return localisation(texts.bags, texts.given, texts.spans, score).auc


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tagger", help="Trained folder.")
    parser.add_argument("--dataset", default="sample")
    parser.add_argument("--bags", type=int, default=600, help="Texts to train on.")
    parser.add_argument("--measured", type=int, default=200, help="Texts to choose on, and to test on.")
    parser.add_argument("--fit_on", choices=("train", "validation"), default="train")
    parser.add_argument("--joined", type=int, default=8, help="Queries of a text.")
    parser.add_argument("--tokens", type=int, default=48, help="Tokens of a passage.")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--learning_rates", type=float, nargs="+", default=[3e-3, 3e-4])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--output_dir", type=Path, default=Path("outputs/benchmarks"))
    args = parser.parse_args()
    data, tagger = load_xmc_dataset(args.dataset), XMCPipeline.from_pretrained(args.tagger)
    vectors = torch.from_numpy(np.asarray(tagger.index.vectors(), np.float32))
    found: dict[str, Any] = {way: {"validation": [], "P@5": [], "AUC": [], "epoch": []} for way in WAYS}
    for seed in range(args.seeds):
        halves = ((0, 2), (1, 2)) if args.fit_on == "validation" else (None, None)
        drawn = [(args.fit_on, args.bags, halves[0]), ("validation", args.measured, halves[1])]
        bags = [
            joined(data, split, number, args.joined, seed, part)
            for split, number, part in [*drawn, ("test", args.measured, None)]
        ]
        train, chooser, test = (Texts(tagger, its, args.tokens) for its in bags)
        for way in WAYS:
            pool, epoch = fit(way, vectors, tagger.model.config.temperature, (train, chooser), args, seed)
            row = (p_at_5(pool, chooser), p_at_5(pool, test), located(pool, test), epoch)
            for name, value in zip(found[way], row, strict=True):
                found[way][name].append(value)
            print(seed, way, *(f"{value:.3f}" for value in row), flush=True)
    table = Table("way", "P@5, validation", "P@5, test", "AUC, test", "epoch", title=args.dataset)
    for way, its in found.items():
        table.add_row(way, *(f"{np.mean(v):.3f} ({min(v):.3f}-{max(v):.3f})" for v in its.values()))
    Console().print(table)
    settings = {name: value for name, value in vars(args).items() if name != "output_dir"}
    write_json({**settings, "ways": found}, args.output_dir / f"bag_pooling-{data.name}.json")


if __name__ == "__main__":
    main()
