"""One optimizer step over the labels: candidates chosen once, encoded once, differentiated once.

The window of a step is all that goes into one update: the micro-batches of gradient accumulation, on all processes.
Its candidates and its normaliser are those of one large batch, so that 1 x 8 = 8 x 1 = two processes of 4.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hf_xmc.data.collator import unpack
from hf_xmc.data.tokenized import TokenBags, TokenTable
from hf_xmc.losses import Loss
from hf_xmc.losses.bags import Queries, QueryBags, joined
from hf_xmc.losses.sharding import Shard
from hf_xmc.sampling.candidates import all_but, left_out, repeat_columns, to_columns
from hf_xmc.sampling.draws import draw_pairs
from hf_xmc.training.candidates.rule import CandidateRule, Candidates, Window
from hf_xmc.training.distributed import GatherLabels, concatenate
from hf_xmc.training.encoding import TextEncoder
from hf_xmc.training.query_keys import QueryKeys
from hf_xmc.types import Positives

Batch = dict[str, Tensor]


class LabelStep:
    """The loss of each micro-batch of a window, with gradients that reach the labels in the last one's backward pass.

    The first micro-batch encodes the labels (this rank's part of them). All but the last see a detached copy, which
    gathers their gradients; in the last one's backward pass the sum flows on into the encoder. With gradient caching
    labels are thus encoded twice per step, however many micro-batches there are.

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
        tokens: TokenTable | TokenBags,
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
        self.candidates = Candidates(None)
        self.log_weights: Tensor | None = None  # of this rank's labels, `[c]`
        self.keys: QueryKeys | None = None  # with `query_keys`: the window's queries, behind the labels
        self.num_rows = 0  # of `labels` that are labels
        # [c, D] for each of the encoder's V views; this rank's part, of all where the loss is not sharded
        self.labels: Tensor | None = None
        self.detached: Tensor | None = None
        self.shares: Tensor | None = None  # of each micro-batch in the mean of the window

    def loss(self) -> tuple[Tensor, Queries, Tensor]:
        """The next micro-batch's part of the window's loss, its queries `[B, D]` and the labels.

        The parts add up to the mean over the window. Where the loss is not sharded, those of the ranks do so too.
        """
        queries = self.queries(self.done)
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
        loss = self.compare(queries, labels, self.pairs(self.done)) * self.shares[self.done]
        self.done += 1
        return loss, queries, labels[: self.num_rows, : queries.shape[1]]

    def open(self, queries: Queries) -> None:
        """Choose the candidates, encode them, and count what the window's mean divides by.

        Args:
            queries: embeddings of the first micro-batch, `[B, D]`.
        """
        window = self.window(queries)
        self.rule.prepare(window)
        self.candidates = self.rule.choose(window)
        ids, log_weights = self.candidates.ids, self.candidates.log_weights
        count = self.num_labels if ids is None else len(ids)
        counts = self.candidates.counts
        own = self.encoder.part(ids, count, self.ranks)
        if self.ranks.group is not None:
            ids = torch.arange(own.start, own.stop, device=queries.device) if ids is None else ids[own]
        if ids is None or len(ids):
            labels = self.encoder.candidates(ids)
        else:  # fewer labels than ranks
            width = self.encoder.model.width("label") * len(self.encoder.view_weights)
            labels = torch.zeros(0, width, device=queries.device, requires_grad=True)
        width = queries.shape[1]
        self.rule.encoded(window, self.candidates, ids, labels[:, :width].detach())
        self.log_weights = log_weights if log_weights is None or not self.sharded else log_weights[own]
        if self.ranks.group is not None and not self.sharded:
            labels = GatherLabels.apply(labels, self.ranks, own)
        self.num_rows = len(labels)
        if self.rule.args.query_keys:
            labels = self.with_query_keys(labels, queries, own, window.true)
            assert self.keys is not None
            count = self.keys.num_columns
        self.labels = labels
        self.detached = labels.detach().requires_grad_(labels.requires_grad)
        self.shares = self.count_shares(count if counts is None else int(counts.sum()))

    def with_query_keys(self, labels: Tensor, queries: Queries, own: slice, true: Positives) -> Tensor:
        """The label embeddings and behind them the window's queries as further keys, with gradients.

        The queries of a single micro-batch are at hand. With accumulation all of them are encoded once more, within
        the memory of a chunk where `gradient_caching` says so.
        """
        self.keys = QueryKeys(true, own.stop - own.start, self.ranks, self.sharded)
        keys: Any = queries
        if len(self.batches) > 1 and len(true):
            rows = torch.cat([batch["row"] for batch in self.batches])
            keys = self.encoder.queries(rows, self.tokens, self.encoder.args.gradient_caching)
        if self.ranks.group is not None and not self.sharded:
            first = self.keys.layout.first_query
            keys = GatherLabels.apply(keys, self.ranks, slice(first, first + len(true)))
        if self.log_weights is not None:
            self.log_weights = torch.cat([self.log_weights, self.log_weights.new_zeros(len(keys))])
        return torch.cat([labels, keys.to(labels.dtype).repeat(1, len(self.encoder.view_weights))])

    def window(self, queries: Queries) -> Window:
        """What the rule sees of this step; `queries` are the embeddings of the first micro-batch."""
        positives = self.all_pairs("positives")
        assert positives is not None
        return Window(
            number=self.number,
            rows=torch.cat([batch["row"] for batch in self.batches]),
            true=positives,
            ignored=self.all_pairs("ignored"),
            loss=self.criterion,
            embed=lambda: self.window_queries(queries),
            ranks=self.ranks,
        )

    def count_shares(self, count: int) -> Tensor:
        """The share of each micro-batch in the mean over the window, `[micro-batches]`, for this many candidates."""
        pairs = (self.pairs(i) for i in range(len(self.batches)))  # one at a time: they may be many
        terms = torch.stack([self.criterion.num_terms(p.true, count, p.left_out) for p in pairs]).double()
        everywhere = self.ranks.sum_(terms.clone())
        return ((everywhere if self.sharded else terms) / everywhere.sum().clamp(min=1)).float()

    def compare(self, queries: Queries, labels: Tensor, pairs: StepPairs) -> Tensor:
        """The loss of these queries, `[B, D]`, over each of the matrices that stand side by side in `labels`."""
        given: dict[str, Any] = {"ignored": pairs.ignored}
        if pairs.drawn is not None:
            given["sampled"] = pairs.drawn
        if self.log_weights is not None:
            given["log_weights"] = self.log_weights
        if self.candidates.counts is not None:
            labels = labels.repeat_interleave(self.candidates.counts, 0)
        views = zip(self.encoder.view_weights, labels.split(queries.shape[1], 1), strict=True)
        return sum(weight * self.criterion(queries, view, pairs.true, **given) for weight, view in views)

    def queries(self, index: int) -> Queries:
        """Embeddings of a micro-batch with gradients, `[B, D]`; a rank may have run out of queries."""
        rows = self.batches[index]["row"]
        if len(rows):
            return self.encoder.queries(rows, self.tokens)
        width = self.encoder.model.width("query")
        # With a gradient where the other ranks' have one: they sum theirs.
        none = torch.zeros(0, width, device=rows.device, requires_grad=self.encoder.trains_queries)
        return none if isinstance(self.tokens, TokenTable) else QueryBags(none, rows, self.encoder.pooling)

    def window_queries(self, queries: Queries) -> Queries:
        """Embeddings of this rank's queries in the window without gradients; those of the first micro-batch are given.

        With accumulation the others are encoded once more for this, as they are in an evaluation (no dropout).
        """
        with self.encoder.without_gradients():
            others = [self.queries(index).detach() for index in range(1, len(self.batches))]
        return joined([queries.detach(), *others])

    def pairs(self, index: int) -> StepPairs:
        """The pairs of a micro-batch; all others are negatives. Ids are columns of the candidates, and of the queries
        behind them; pairs whose label is no candidate fall away."""
        found, keys = self.label_pairs(index), self.keys
        if keys is None:
            return found
        start = sum(len(batch["row"]) for batch in self.batches[:index])
        shared = keys.shared(start, start + len(self.batches[index]["row"]))
        ignored = None if found.ignored is None else keys.labels(found.ignored)
        drawn = None if found.drawn is None else keys.labels(found.drawn)
        return StepPairs(keys.labels(found.true), left_out(ignored, shared), drawn)

    def label_pairs(self, index: int) -> StepPairs:
        """The pairs of a micro-batch with columns of the candidates."""
        batch, ids = self.batches[index], self.candidates.ids
        positives, ignored = (self.to_columns(unpack(batch, name)) for name in ("positives", "ignored"))
        assert positives is not None
        if self.candidates.negatives is None:
            return StepPairs(positives, ignored, self.drawn(index))
        assert ids is not None
        start = sum(len(batch["row"]) for batch in self.batches[:index])
        negatives = self.to_columns(cut(self.candidates.negatives, start, start + len(batch["row"])))
        assert negatives is not None
        return StepPairs(positives, all_but([positives, negatives], len(ids), ignored))

    def drawn(self, index: int) -> Positives | None:
        """The positives of a micro-batch that the loss runs over, as columns; None for all of them."""
        args = self.rule.args
        if not self.rule.draws_for_loss or args.num_positives is None:
            return None
        batch = self.batches[index]
        positives, ignored = unpack(batch, "positives"), unpack(batch, "ignored")
        assert positives is not None
        drawn = draw_pairs(positives, batch["row"], args.num_positives, args.seed, self.number, ignored)
        return self.to_columns(drawn, first=True)

    def to_columns(self, pairs: Positives | None, first: bool = False) -> Positives | None:
        """Pairs of catalogue ids as columns of the candidates; of those that are repeated all copies, or the `first`
        ones."""
        if pairs is None or self.candidates.ids is None:
            return pairs
        columns, counts = to_columns(pairs, self.candidates.ids), self.candidates.counts
        return columns if counts is None else repeat_columns(columns, counts, first)

    def all_pairs(self, name: str) -> Positives | None:
        """Positives or ignored pairs of this rank's queries in the window, as catalogue ids."""
        found = [pairs for batch in self.batches if (pairs := unpack(batch, name)) is not None]
        return concatenate(found) if found else None


@dataclass(frozen=True)
class StepPairs:
    """The pairs of a micro-batch, as columns of the candidates.

    Args:
        true: the positives.
        ignored: pairs that take no part in the loss.
        drawn: the positives that the loss runs over; None for all of them.
    """

    true: Positives
    ignored: Positives | None = None
    drawn: Positives | None = None

    @property
    def left_out(self) -> Positives | None:
        """The ignored pairs, and the positives that were not drawn."""
        return self.ignored if self.drawn is None else left_out(self.ignored, self.true.minus(self.drawn))


def cut(pairs: Positives, start: int, stop: int) -> Positives:
    """The pairs of the rows from `start` to before `stop`.

    >>> cut(Positives.from_lists([[4], [7, 9], [2]]), 1, 3).indices.tolist()
    [7, 9, 2]
    """
    first, last = int(pairs.indptr[start]), int(pairs.indptr[stop])
    return Positives(pairs.indptr[start : stop + 1] - first, pairs.indices[first:last])
