"""`label_strategy mined`: each query compared with its own hard negatives alone."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from hf_xmc.data.tokenized import TokenizedQueries
from hf_xmc.errors import SettingsError
from hf_xmc.losses.sharding import Shard
from hf_xmc.training.candidates.arguments import CandidateArguments
from hf_xmc.training.candidates.mixed import MixedLabels
from hf_xmc.training.candidates.rule import CandidateRule, Candidates, LabelEncoder, Window


class MinedLabels(MixedLabels):
    """As `mixed` with an index, but a query is compared only with its positives and its own mined negatives.

    This is what the second stage of the NGAME recipes trains a classifier with. It suits small steps from a good
    model: all other labels move freely, and overtake the mined ones before these are mined again. Training from
    scratch with it fails (`docs/experiments.md`); use `mixed` there.
    """

    name: ClassVar[str] = "mined"
    description: ClassVar[str] = (
        "as mixed, with each query compared to its own mined negatives alone (only for small steps from a good model)"
    )
    aliases: ClassVar = {}

    @classmethod
    def make(
        cls, args: CandidateArguments, encoder: LabelEncoder, ranks: Shard, split: TokenizedQueries | None
    ) -> CandidateRule:
        return cls(args, encoder, ranks, split)

    @classmethod
    def check(cls, args: CandidateArguments) -> None:
        if args.negative_source != "index":
            raise SettingsError(
                f"negative_source is {args.negative_source!r}, but label_strategy mined needs an index",
                hint="use negative_source index, or label_strategy mixed",
            )
        if args.mining_start_epoch:
            raise SettingsError(
                f"mining_start_epoch is {args.mining_start_epoch}, but label_strategy mined compares with mined "
                "negatives alone, and would have none before",
                hint="use label_strategy mixed, or leave mining_start_epoch out",
            )
        super().check(args)

    def choose(self, window: Window) -> Candidates:
        return replace(super().choose(window), negatives=self.negatives(window))
