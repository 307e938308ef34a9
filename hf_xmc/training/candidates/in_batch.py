"""`label_strategy in_batch`: the positives of the batch."""

from __future__ import annotations

from typing import Any, ClassVar

import torch

from hf_xmc.errors import SettingsError
from hf_xmc.losses import Loss
from hf_xmc.sampling.candidates import in_batch
from hf_xmc.training.candidates.arguments import CandidateArguments
from hf_xmc.training.candidates.rule import CandidateRule, Candidates, Demand, Sizes, Window


class InBatchLabels(CandidateRule):
    """The positives of the step's queries, at most `num_positives` per query, drawn again in each step.

    The loss of a query runs over all its positives among these candidates, also over those that another query brought
    in. Leaving those out was worse where labels are frequent (`docs/experiments.md`).

    With `drawn_pairs` they are left out, as in the code of NGAME: a query is compared with its drawn positives alone,
    among the drawn positives of all queries, in which a label stands as often as it was drawn.
    """

    name: ClassVar[str] = "in_batch"
    description: ClassVar[str] = "the positives of the batch"

    @classmethod
    def demand(cls, args: Any, sizes: Sizes) -> Demand:
        return Demand(sizes.distinct_positives(args.num_positives))

    @classmethod
    def check(cls, args: CandidateArguments) -> None:
        if args.drawn_pairs and args.num_positives is None:
            raise SettingsError("drawn_pairs needs num_positives", hint="NGAME draws one: --num_positives 1")
        if args.drawn_pairs and args.query_keys:
            raise SettingsError(
                "drawn_pairs compares with drawn labels alone, and query_keys with queries", hint="use one"
            )

    @property
    def draws_for_loss(self) -> bool:
        return self.args.drawn_pairs

    def check_loss(self, loss: Loss) -> None:
        super().check_loss(loss)
        if self.args.drawn_pairs and loss.sharded:
            raise SettingsError(
                f"drawn_pairs repeats labels, which the loss {loss.called} cannot hold in parts",
                hint="train with one process, or with the loss triplet_margin",
            )

    def choose(self, window: Window) -> Candidates:
        positives = window.positives(self.args.num_positives, self.args.seed)
        if not self.args.drawn_pairs:
            return Candidates(in_batch(positives))
        ids, counts = torch.unique(positives.indices, return_counts=True)
        return Candidates(ids, counts=counts) if len(ids) else Candidates(in_batch(positives))
