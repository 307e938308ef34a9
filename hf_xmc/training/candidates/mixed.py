"""`label_strategy mixed`: the positives of the batch, and hard negatives of each query."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor

from hf_xmc.data.tokenized import TokenizedQueries
from hf_xmc.errors import SettingsError
from hf_xmc.losses.sharding import Shard
from hf_xmc.sampling.candidates import hardest_negatives, in_batch
from hf_xmc.sampling.draws import draw_pairs
from hf_xmc.training.candidates.arguments import CandidateArguments
from hf_xmc.training.candidates.banked import BankedLabels
from hf_xmc.training.candidates.mined_negatives import MinedNegatives
from hf_xmc.training.candidates.rule import CandidateRule, Candidates, Demand, LabelEncoder, Sizes, Window, unique
from hf_xmc.types import Positives

if TYPE_CHECKING:
    from hf_xmc.retrieval.bags import Bags


class MixedLabels(CandidateRule):
    """The positives of the step's queries, and `num_hard_negatives` hard negatives of each query.

    Every query is compared with every candidate. With `negative_source index` the negatives of a query are drawn from
    the `mining_depth` best labels that a search of all labels found for it ([`MinedNegatives`]); with `label_bank` see
    [`MixedFromBank`].
    """

    name: ClassVar[str] = "mixed"
    description: ClassVar[str] = "the positives of the batch and hard negatives of each query (see negative_source)"
    aliases: ClassVar[dict[str, dict[str, Any]]] = {
        "hard": {"label_strategy": "mixed", "negative_source": "label_bank"}
    }

    @classmethod
    def make(
        cls, args: CandidateArguments, encoder: LabelEncoder, ranks: Shard, split: TokenizedQueries | None
    ) -> CandidateRule:
        return (MixedFromBank if args.negative_source == "label_bank" else cls)(args, encoder, ranks, split)

    @classmethod
    def check(cls, args: CandidateArguments) -> None:
        if args.negative_source == "label_bank":
            return
        from hf_xmc.retrieval.factories import FACTORIES  # which loads faiss

        if args.mining_factory not in (*FACTORIES, "auto"):
            raise SettingsError(
                f"mining_factory is {args.mining_factory!r}; expected one of {', '.join((*FACTORIES, 'auto'))}"
            )
        if args.mining_depth < args.num_hard_negatives:
            raise SettingsError(
                f"mining_depth is {args.mining_depth}, but num_hard_negatives, which are drawn from those mined, is "
                f"{args.num_hard_negatives}",
                hint="set mining_depth to at least num_hard_negatives",
            )

    @classmethod
    def demand(cls, args: Any, sizes: Sizes) -> Demand:
        distinct = sizes.distinct_positives(args.num_positives)
        candidates = min(distinct + sizes.window * args.num_hard_negatives, sizes.num_labels)
        if args.negative_source == "label_bank":
            return MixedFromBank.banked_demand(args, sizes, candidates)
        return Demand(
            candidates,
            kept={"mined negatives": sizes.num_queries * args.mining_depth * 4},
            # All queries and labels, and the labels once more in the index.
            between_epochs=(sizes.num_queries + 2 * sizes.num_labels) * sizes.dim * 4,
            search_every=args.mining_refresh_epochs,
        )

    def choose(self, window: Window) -> Candidates:
        positives = in_batch(window.positives(self.args.num_positives, self.args.seed))
        return Candidates(unique(positives, self.ranks.gather(self.negatives(window).indices)))

    def negatives(self, window: Window) -> Positives:
        """The negatives of this rank's queries that are drawn for this step, as catalogue ids."""
        mined = self.mined.of(window.rows)
        return draw_pairs(mined, window.rows, self.args.num_hard_negatives, self.args.seed, window.number)

    def due(self, epoch: int) -> bool:
        return self.mined.due(epoch)

    def update(self, queries: Tensor | Bags, labels: Tensor, epoch: int) -> None:
        self.mined.update(queries, labels, epoch)

    def report(self) -> dict[str, float]:
        return self.mined.report()

    def reset(self) -> None:
        self.mined = MinedNegatives(self.args, self.ranks, self.split, self.encoder.progress)

    def save(self, folder: Path) -> None:
        self.mined.save(folder)

    def load(self, folder: Path) -> None:
        self.mined.load(folder)


class MixedFromBank(BankedLabels):
    """The positives of the step's queries, and for each query the `num_hard_negatives` labels that score best in the
    label bank and are not its positives. It needs no search between epochs, but scores every label in each step."""

    def choose(self, window: Window) -> Candidates:
        assert self.bank is not None
        queries = window.queries  # [B of this rank, D]
        positives = in_batch(window.positives(self.args.num_positives, self.args.seed))
        excluded = [pairs for pairs in (window.true, window.ignored) if pairs is not None]
        found = hardest_negatives(queries, self.bank.embeddings, excluded, self.args.num_hard_negatives)
        return Candidates(unique(positives, self.ranks.gather(found)))
