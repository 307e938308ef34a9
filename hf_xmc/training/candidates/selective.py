"""`label_strategy selective`: the positives of the batch, and the labels that its gradient would move most."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor
from transformers.utils import logging

from hf_xmc.losses.bags import Queries, QueryBags
from hf_xmc.sampling.candidates import by_gradient, in_batch, left_out
from hf_xmc.sampling.gradient_norms import label_gradient_norms
from hf_xmc.training.candidates.banked import BankedLabels
from hf_xmc.training.candidates.label_bank import LabelBank
from hf_xmc.training.candidates.rule import Candidates, Demand, Sizes, Window
from hf_xmc.training.distributed import gather, part

logger = logging.get_logger(__name__)


class SelectiveLabels(BankedLabels):
    """The positives of the step's queries, and the labels of largest gradient norm, `label_budget` in all.

    Of the places that the positives leave, `label_random_share` goes to labels drawn at random that stand, with a
    weight, for all labels that are left over; the rest goes to the labels whose gradient, estimated from the label
    bank, has the largest norm. A budget of all labels is the exact method. `docs/experiments.md` has the
    measurements.
    """

    name: ClassVar[str] = "selective"
    description: ClassVar[str] = "the positives of the batch and the labels with the largest gradient"

    @classmethod
    def demand(cls, args: Any, sizes: Sizes) -> Demand:
        candidates = min(max(args.label_budget, sizes.distinct_positives(args.num_positives)), sizes.num_labels)
        return cls.banked_demand(args, sizes, candidates)

    @property
    def is_exact(self) -> bool:
        return self.args.label_budget >= self.encoder.num_labels

    @property
    def draws_for_loss(self) -> bool:
        return True

    def choose(self, window: Window) -> Candidates:
        if self.is_exact:
            return Candidates(None, report={"covered_gradient_mass": 1.0})
        assert self.bank is not None
        queries = window.queries  # [B of this rank, D]
        positives = in_batch(window.positives(self.args.num_positives, self.args.seed))
        if len(positives) >= self.args.label_budget and self.ranks.rank == 0:
            logger.warning_once(  # without the number of the step, which would make it another message in each step
                f"The positives of a step can fill the label_budget of {self.args.label_budget:,} by themselves. No "
                "place is left for other labels then, as with label_strategy in_batch. Use a larger label_budget."
            )
        norms = self.norms(window, self.bank, queries)  # [L]
        share = self.args.label_random_share if window.loss.score_is_log_weight else 0.0
        seed = self.args.seed + 1_000_003 * window.number  # no state that a restart would have to restore
        chosen, log_weights = by_gradient(norms, positives, self.args.label_budget, share, seed)
        covered = float(norms[chosen].sum() / norms.sum().clamp(min=1e-30))
        return Candidates(chosen, log_weights if share else None, report={"covered_gradient_mass": covered})

    def norms(self, window: Window, bank: LabelBank, queries: Queries) -> Tensor:
        """Gradient norm of every label, `[L]`, the same on all ranks."""
        positives = window.drawn(self.args.num_positives, self.args.seed)
        ignored = left_out(window.ignored, window.true.minus(positives))
        if window.loss.sharded:
            own = bank.embeddings[part(len(bank), self.ranks)]
            return self.ranks.gather(label_gradient_norms(window.loss, queries, own, positives, ignored))
        positives, ignored = gather(positives, self.ranks), None if ignored is None else gather(ignored, self.ranks)
        queries = queries.gathered(self.ranks) if isinstance(queries, QueryBags) else self.ranks.gather(queries)
        return label_gradient_norms(window.loss, queries, bank.embeddings, positives, ignored)
