"""What a candidate rule is: it chooses the labels that enter the loss of a training step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import torch
from torch import Tensor

from hf_xmc.data.tokenized import TokenizedQueries
from hf_xmc.errors import SettingsError
from hf_xmc.losses import Loss
from hf_xmc.losses.bags import Queries
from hf_xmc.losses.sharding import Shard
from hf_xmc.sampling.draws import draw_pairs
from hf_xmc.training.candidates.arguments import CandidateArguments
from hf_xmc.training.distributed import gather
from hf_xmc.types import Positives

if TYPE_CHECKING:
    from hf_xmc.retrieval.bags import Bags


class CandidateRule:
    """Chooses which labels the queries of a step are compared with.

    A rule is one file in this folder. It sets `name`, which `label_strategy` selects it by, and `description`, which
    `hf-xmc train --help` shows; it overrides `choose`, and whatever else it needs of the methods below. Importing the
    module is enough to register it, also where it is part of another package.

    Args:
        args: the training arguments.
        encoder: encodes labels without gradients.
        ranks: the processes of the run.
        split: the training queries, if there are any.
    """

    name: ClassVar[str] = ""  # left empty by classes that only share code
    description: ClassVar[str] = ""
    aliases: ClassVar[dict[str, dict[str, Any]]] = {}  # deprecated name -> the arguments that replace it

    def __init__(
        self,
        args: CandidateArguments,
        encoder: LabelEncoder,
        ranks: Shard,
        split: TokenizedQueries | None = None,
    ) -> None:
        self.args = args
        self.encoder = encoder
        self.ranks = ranks
        self.split = split
        self.reset()

    @classmethod
    def make(
        cls, args: CandidateArguments, encoder: LabelEncoder, ranks: Shard, split: TokenizedQueries | None
    ) -> CandidateRule:
        """The rule for these arguments."""
        return cls(args, encoder, ranks, split)

    @classmethod
    def check(cls, args: CandidateArguments) -> None:
        """Check the arguments that only this rule reads.

        Raises:
            SettingsError: they are not possible.
        """

    @classmethod
    def demand(cls, args: Any, sizes: Sizes) -> Demand:
        """What the rule needs of memory and work, for `hf-xmc plan`. `args` has the names of `CandidateArguments`."""
        raise NotImplementedError

    def choose(self, window: Window) -> Candidates:
        """The candidates of a step. Changes nothing: neither the rule nor the window."""
        raise NotImplementedError

    @property
    def draws_for_loss(self) -> bool:
        """Whether the loss runs over the `num_positives` drawn positives alone. Otherwise they choose candidates, and
        the loss of a query runs over all of its positives among these."""
        return False

    def check_loss(self, loss: Loss) -> None:
        """Check that this loss can be used.

        Raises:
            SettingsError: it cannot.
        """
        if self.args.num_positives is not None and self.draws_for_loss and not loss.takes_sampled:
            raise SettingsError(
                f"num_positives is {self.args.num_positives}, but the loss {loss.called} has no argument 'sampled' "
                f"for the drawn positives, which label_strategy {self.name} passes to it",
                hint="add the argument to the loss, or leave num_positives out",
            )

    def prepare(self, window: Window) -> None:
        """Called before `choose`, to bring the state of the rule up to date."""

    def encoded(self, window: Window, candidates: Candidates, ids: Tensor | None, labels: Tensor) -> None:
        """Called after `choose`, with the labels that this rank has encoded: ids `[c]` (None for all labels) and
        their embeddings `[c, D]`."""

    def due(self, epoch: int) -> bool:
        """Whether the rule needs embeddings of all texts before this epoch."""
        return False

    def update(self, queries: Tensor | Bags, labels: Tensor, epoch: int) -> None:
        """Take the embeddings of all training queries `[N, D]` and labels `[L, D]`, float32 on the CPU, the same on
        all ranks."""

    def report(self) -> dict[str, float]:
        """Values to log, over the steps since the last report."""
        return {}

    def reset(self) -> None:
        """Forget an earlier run."""

    def save(self, folder: Path) -> None:
        """Write the state of the rule into a checkpoint."""

    def load(self, folder: Path) -> None:
        """Read what `save` wrote."""


@dataclass(frozen=True)
class Candidates:
    """The labels that a step compares its queries with.

    Args:
        ids: label ids, sorted, int64 `[C]`, the same on all ranks; None for the whole catalogue.
        log_weights: `[C]`, the logarithm of how many labels each candidate stands for; None where each stands for
            itself.
        counts: int64 `[C]`, how often each candidate stands among those that queries are compared with; None for once.
        negatives: label ids for each query of this rank: it is compared with these and its positives alone. None to
            compare it with all candidates.
        report: values to log.
    """

    ids: Tensor | None
    log_weights: Tensor | None = None
    counts: Tensor | None = None
    negatives: Positives | None = None
    report: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Window:
    """The queries of one optimizer step, on this rank: those of all micro-batches of gradient accumulation.

    Args:
        number: optimizer steps before this one.
        rows: of the queries in the training split, int64 `[B]`.
        true: positives of each query, as catalogue ids.
        ignored: pairs that take no part in the loss.
        loss: the loss of the run.
        embed: gives the embeddings of the queries, without gradients.
        ranks: the processes of the run.
    """

    number: int
    rows: Tensor
    true: Positives
    ignored: Positives | None
    loss: Loss
    embed: Callable[[], Queries]
    ranks: Shard

    @cached_property
    def queries(self) -> Queries:
        """Embeddings of the queries without gradients, `[B, D]`."""
        return self.embed()

    def drawn(self, count: int | None, seed: int) -> Positives:
        """Positives of the queries of this rank, catalogue ids; at most `count` per query, drawn for this step."""
        if count is None:
            return self.true
        return draw_pairs(self.true, self.rows, count, seed, self.number, self.ignored)

    def positives(self, count: int | None, seed: int) -> Positives:
        """What `drawn` gives, for the queries of all ranks."""
        return gather(self.drawn(count, seed), self.ranks)


class LabelEncoder(Protocol):
    """What a rule may ask of the encoder."""

    progress: bool

    @property
    def num_labels(self) -> int:
        """Labels in the catalogue."""

    @property
    def label_dim(self) -> int:
        """Dimension of label embeddings."""

    def labels_without_gradients(self, ids: Tensor) -> Tensor:
        """Embeddings of labels, `[c, D]`."""

    def part(self, ids: Tensor | None, count: int, ranks: Shard) -> slice:
        """Which of these sorted label ids this rank encodes."""


@dataclass(frozen=True)
class Sizes:
    """What `hf-xmc plan` knows before a training runs.

    Args:
        num_queries, num_labels, dim: of the data and the embeddings.
        window: queries of one optimizer step, of all processes.
        bank_itemsize: bytes of one number of the label bank.
        distinct_positives: how many labels the queries of a step have as positives, on average; at most so many per
            query as its argument says.
    """

    num_queries: int
    num_labels: int
    dim: int
    window: int
    bank_itemsize: int
    distinct_positives: Callable[[int | None], int]


@dataclass(frozen=True)
class Demand:
    """What a rule needs, in addition to what every training needs.

    Args:
        candidates: labels that a step encodes with gradients, in all processes.
        refreshed: labels that a step encodes without gradients, in all processes.
        scores_all: a step also compares its queries with a stored embedding of every label.
        kept: memory held for the whole training, and its bytes in each process.
        between_epochs: bytes in each process while embeddings of all texts are worked on.
        search_every: epochs between two searches of all queries in all labels; None for no search.
    """

    candidates: int
    refreshed: int = 0
    scores_all: bool = False
    kept: dict[str, int] = field(default_factory=dict)
    between_epochs: int = 0
    search_every: int | None = None


def unique(*ids: Tensor) -> Tensor:
    """Label ids, each once, sorted."""
    return torch.unique(torch.cat(ids))
