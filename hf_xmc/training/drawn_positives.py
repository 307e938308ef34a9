"""Some of the positives of each query, drawn anew at each step."""

from __future__ import annotations

import os

from torch import Tensor

from hf_xmc.data.collator import unpack
from hf_xmc.losses.sharding import Shard
from hf_xmc.sampling.candidates import in_batch
from hf_xmc.sampling.draws import draw_pairs
from hf_xmc.sampling.pairs import among, keep, union
from hf_xmc.training.arguments import XMCTrainingArguments
from hf_xmc.training.distributed import concatenate, gather
from hf_xmc.training.label_step import Batch, CandidateRule, LabelStep
from hf_xmc.types import Positives


class DrawnPositives(CandidateRule):
    """What the rules share that know `num_positives`: so many of each query enter the step, and its loss runs over
    them.
    """

    def __init__(self, args: XMCTrainingArguments, ranks: Shard) -> None:
        self.args = args
        self.ranks = ranks
        self.num_positives = args.num_positives

    def drawn(self, step: LabelStep, batch: Batch) -> Positives:
        """The positives of a micro-batch that take part in this step; ids are those of the catalogue."""
        positives = unpack(batch, "positives")
        assert positives is not None
        if self.num_positives is None:
            return positives
        ignored = unpack(batch, "ignored")
        return draw_pairs(positives, batch["row"], self.num_positives, self.args.seed, step.number, ignored)

    def brought(self, step: LabelStep) -> Tensor:
        """The labels that the queries of the window bring as positives, of all ranks, each once; sorted, `[C]`."""
        return in_batch(gather(concatenate([self.drawn(step, batch) for batch in step.batches]), self.ranks))

    def compared(self, step: LabelStep, batch: Batch) -> tuple[Positives, Positives | None]:
        positives, ignored = step.columns(batch)
        if self.num_positives is None or os.environ.get("XMC_A"):
            return positives, ignored
        drawn = step.to_columns(self.drawn(step, batch))
        others = keep(positives, ~among(positives, drawn))  # positive, hence never negatives
        return drawn, others if ignored is None else union(ignored, others)
