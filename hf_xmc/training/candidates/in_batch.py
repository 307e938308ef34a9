"""`label_strategy in_batch`: the positives of the batch."""

from __future__ import annotations

from typing import Any, ClassVar

from hf_xmc.sampling.candidates import in_batch
from hf_xmc.training.candidates.rule import CandidateRule, Candidates, Demand, Sizes, Window


class InBatchLabels(CandidateRule):
    """The positives of the step's queries, at most `num_positives` per query, drawn again in each step.

    The loss of a query runs over all its positives among these candidates, also over those that another query brought
    in. Leaving those out was worse where labels are frequent (`docs/experiments.md`).
    """

    name: ClassVar[str] = "in_batch"
    description: ClassVar[str] = "the positives of the batch"

    @classmethod
    def demand(cls, args: Any, sizes: Sizes) -> Demand:
        return Demand(sizes.distinct_positives(args.num_positives))

    def choose(self, window: Window) -> Candidates:
        return Candidates(in_batch(window.positives(self.args.num_positives, self.args.seed)))
