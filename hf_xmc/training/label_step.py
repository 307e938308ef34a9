"""One optimizer step over the labels: candidates chosen once, encoded once, differentiated once.

The window of a step is all that goes into one update: the micro-batches of gradient accumulation, on all processes.
Its candidates and its normaliser are those of one large batch, so that 1 x 8 = 8 x 1 = two processes of 4.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from hf_xmc.data.collator import unpack
from hf_xmc.data.tokenized import TokenTable
from hf_xmc.losses import Loss
from hf_xmc.losses.sharding import Shard
from hf_xmc.sampling.candidates import to_columns
from hf_xmc.sampling.draws import draw_pairs
from hf_xmc.training.distributed import GatherLabels, concatenate, gather
from hf_xmc.training.encoding import TextEncoder
from hf_xmc.types import Positives

Batch = dict[str, Tensor]


class LabelStep:
    """The loss of each micro-batch of a window, with gradients that reach the labels in the last one's backward pass.

    The first micro-batch encodes the labels (this rank's part of them). All but the last see a detached copy, which
    gathers their gradients; in the last one's backward pass the sum goes on into the encoder. With gradient caching
    labels are thus encoded twice a step, however many micro-batches there are.

    Args:
        batches: the micro-batches of this process, as the collator makes them.
        tokens: the table that their rows come from.
        encoder: embeds both sides.
        loss: if it is sharded, it is given this rank's part of the labels, otherwise all of them; and this rank's
            queries.
        rule: chooses the candidates.
        ranks: the processes of the run.
        num_labels: labels of the catalogue.
        number: optimizer steps before this one.
    """

    def __init__(
        self,
        batches: list[Batch],
        tokens: TokenTable,
        encoder: TextEncoder,
        loss: Loss,
        rule: CandidateRule,
        ranks: Shard,
        num_labels: int,
        number: int = 0,
    ) -> None:
        self.batches = batches
        self.tokens = tokens
        self.encoder = encoder
        self.criterion = loss
        self.rule = rule
        self.ranks = ranks
        self.num_labels = num_labels
        self.number = number
        self.sharded = loss.sharded
        self.done = 0  # micro-batches
        self.candidates: Tensor | None = None
        self.log_weights: Tensor | None = None  # [C], of the candidates; a rule may set them
        # [c, D] for each of the encoder's V views; this rank's part, of all where the loss is not sharded
        self.labels: Tensor | None = None
        self.detached: Tensor | None = None
        self.shares: Tensor | None = None  # of each micro-batch in the mean of the window

    def loss(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """The next micro-batch's part of the window's loss, its queries `[B, D]` and the labels.

        The parts add up to the mean over the window. Where the loss is not sharded, those of the ranks do so too.
        """
        queries = self.queries(batch)
        if self.labels is None:
            self.open(queries)
        assert self.labels is not None
        assert self.detached is not None
        assert self.shares is not None
        labels = self.detached
        if self.done + 1 == len(self.batches):
            labels = self.labels
            if (earlier := self.detached.grad) is not None:
                labels.register_hook(lambda gradient: gradient + earlier)
        loss = self.compare(queries, labels, *self.rule.compared(self, batch)) * self.shares[self.done]
        self.done += 1
        return loss, queries, labels[:, : queries.shape[1]]

    def compare(self, queries: Tensor, labels: Tensor, positives: Positives, ignored: Positives | None) -> Tensor:
        """The loss of these queries, `[B, D]`, over each of the matrices that stand side by side in `labels`."""
        if self.log_weights is not None:  # labels have them as a column
            queries = torch.cat([queries, torch.ones_like(queries[:, :1])], 1)
        views = zip(self.encoder.view_weights, labels.split(queries.shape[1], 1), strict=True)
        return sum(weight * self.criterion(queries, view, positives, ignored=ignored) for weight, view in views)

    def queries(self, batch: Batch) -> Tensor:
        """Embeddings of a micro-batch with gradients, `[B, D]`; a rank may have run out of queries."""
        if len(batch["row"]):
            return self.encoder.queries(batch, self.tokens)
        width = self.encoder.model.width("query")
        # With a gradient where the other ranks' have one: they sum theirs.
        return torch.zeros(0, width, device=batch["row"].device, requires_grad=self.encoder.trains_queries)

    def open(self, queries: Tensor) -> None:
        """Choose the candidates, encode them, and count what the window's mean divides by."""
        self.candidates = self.rule.choose(self, queries)
        count = self.num_labels if self.candidates is None else len(self.candidates)
        own = self.encoder.part(self.candidates, count, self.ranks)
        ids = self.candidates
        if self.ranks.group is not None:
            ids = torch.arange(own.start, own.stop, device=queries.device) if ids is None else ids[own]
        if ids is None or len(ids):
            labels = self.encoder.candidates(ids)
        else:  # fewer labels than ranks
            width = self.encoder.model.width("label") * len(self.encoder.view_weights)
            labels = torch.zeros(0, width, device=queries.device, requires_grad=True)
        width = queries.shape[1]
        self.rule.fresh(ids, labels[:, :width].detach())
        if self.log_weights is not None:
            column = self.log_weights[own, None] * self.criterion.temperature
            labels = torch.cat([x for view in labels.split(width, 1) for x in (view, column)], 1)  # [c, V (D + 1)]
        if self.ranks.group is not None and not self.sharded:
            labels = GatherLabels.apply(labels, self.ranks, own)
        self.labels = labels
        self.detached = labels.detach().requires_grad_(labels.requires_grad)

        pairs = (self.rule.compared(self, batch) for batch in self.batches)  # one at a time: they may be many
        terms = torch.stack([self.criterion.num_terms(p, count, i) for p, i in pairs]).to(
            torch.float64
        )  # [micro-batches]
        everywhere = self.ranks.sum_(terms.clone())
        self.shares = ((everywhere if self.sharded else terms) / everywhere.sum().clamp(min=1)).float()

    def columns(self, batch: Batch) -> tuple[Positives, Positives | None]:
        """Positives and ignored pairs of a micro-batch; ids are columns of the candidates."""
        positives, ignored = unpack(batch, "positives"), unpack(batch, "ignored")
        assert positives is not None
        return self.to_columns(positives), None if ignored is None else self.to_columns(ignored)

    def to_columns(self, pairs: Positives) -> Positives:
        """Pairs of catalogue ids as columns of the candidates; those whose label is no candidate fall away."""
        return pairs if self.candidates is None else to_columns(pairs, self.candidates)

    def positives(self, count: int | None, seed: int) -> Positives:
        """Positives of the window, of all ranks, at most `count` a query; ids are those of the catalogue."""
        positives = self.own_pairs("positives")
        assert positives is not None
        if count is not None:
            rows = torch.cat([batch["row"] for batch in self.batches])
            positives = draw_pairs(positives, rows, count, seed, self.number, self.own_pairs("ignored"))
        return gather(positives, self.ranks)

    def own_pairs(self, name: str) -> Positives | None:
        """Positives or ignored pairs of this rank's queries in the window; ids are those of the catalogue."""
        found = [pairs for batch in self.batches if (pairs := unpack(batch, name)) is not None]
        return concatenate(found) if found else None

    def window_queries(self, queries: Tensor) -> Tensor:
        """Embeddings of this rank's queries in the window without gradients; those of the first micro-batch are given.

        With accumulation the others are encoded once more for this, as they are in an evaluation (no dropout).
        """
        with self.encoder.without_gradients():
            others = [self.queries(batch).detach() for batch in self.batches[1:]]
        return torch.cat([queries.detach(), *others])


class CandidateRule:
    """Which labels enter the loss of a step: the whole catalogue, which is exact; a subclass chooses.

    What a rule keeps between steps goes into checkpoints.
    """

    def choose(self, step: LabelStep, queries: Tensor) -> Tensor | None:
        """Sorted ids of the candidates, the same on all ranks, or None for all labels.

        Args:
            step: what is to be compared.
            queries: embeddings of its first micro-batch, `[B, D]`.
        """
        return None

    def compared(self, step: LabelStep, batch: Batch) -> tuple[Positives, Positives | None]:
        """The positives of a micro-batch that the loss runs over, and the pairs that it leaves out; all others are
        negatives. Ids are columns of the candidates."""
        return step.columns(batch)

    def fresh(self, ids: Tensor | None, labels: Tensor) -> None:
        """Told what this rank has encoded: ids `[c]` (all for None) and their embeddings `[c, D]`."""

    def due(self, epoch: int) -> bool:
        """Whether the rule wants fresh embeddings of all texts before this epoch."""
        return False

    def update(self, queries: Tensor, labels: Tensor, epoch: int) -> None:
        """Fresh embeddings of all training queries `[N, D]` and labels `[L, D]`, float32 on the CPU, which were asked
        for; the same on all ranks."""

    def report(self) -> dict[str, float]:
        """What goes into the log, over the steps since the last report."""
        return {}

    def reset(self) -> None:
        """Forget an earlier run."""

    def save(self, folder: Path) -> None:
        """Write into a checkpoint what the next step needs."""

    def load(self, folder: Path) -> None:
        """Read what `save` wrote."""
