"""`label_strategy all`: the whole catalogue."""

from __future__ import annotations

from typing import Any, ClassVar

from hf_xmc.training.candidates.rule import CandidateRule, Candidates, Demand, Sizes, Window


class AllLabels(CandidateRule):
    """Compares every query with every label: exact, as in DEXML, at the price of encoding every label in each step."""

    name: ClassVar[str] = "all"
    description: ClassVar[str] = "every label of the catalogue (DEXML; exact, and encodes every label in each step)"

    @classmethod
    def demand(cls, args: Any, sizes: Sizes) -> Demand:
        return Demand(sizes.num_labels)

    @property
    def draws_for_loss(self) -> bool:
        return True

    def choose(self, window: Window) -> Candidates:
        return Candidates(None)
