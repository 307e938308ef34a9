"""Which labels enter the loss of a step, by `label_strategy`."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from transformers.utils import logging

from hf_xmc.data.tokenized import TokenizedQueries
from hf_xmc.losses.sharding import Shard
from hf_xmc.sampling.candidates import by_gradient, hardest_negatives, in_batch
from hf_xmc.sampling.gradient_norms import label_gradient_norms
from hf_xmc.training.arguments import XMCTrainingArguments
from hf_xmc.training.candidates.label_bank import ROWS, LabelBank
from hf_xmc.training.candidates.mined import MinedLabels
from hf_xmc.training.distributed import gather, part
from hf_xmc.training.encoding import TextEncoder
from hf_xmc.training.label_step import CandidateRule, LabelStep

logger = logging.get_logger(__name__)


def make_rule(
    args: XMCTrainingArguments, encoder: TextEncoder, ranks: Shard, split: TokenizedQueries | None
) -> CandidateRule:
    """The rule that the arguments name; `split` are the training queries."""
    if args.label_strategy in ("selective", "hard"):
        return BankedLabels(args, encoder, ranks)
    if args.label_strategy in ("mined", "mixed"):
        return MinedLabels(args, encoder, ranks, split)
    return CandidateRule() if args.label_strategy == "all" else InBatchLabels(args)


class InBatchLabels(CandidateRule):
    """The positives of the window, at most `num_positives` a query, drawn anew at each step.

    The loss of a query runs over all its positives among these candidates, whichever query brought them. To run it
    over the drawn ones alone, and leave the others out, was worse where labels are frequent and made no difference
    where they are rare (frozen MiniLM and a trained projection, P@1 / P@5 on validation, per cent; as below):

                                    biotools_edam                    bible_xref
                                    drawn alone    all of them       drawn alone    all of them
        decoupled softmax, 1 drawn  33.1 / 19.8    43.7 / 24.4       26.1 / 13.6    26.2 / 13.5
        with 10 mined negatives     52.2 / 30.8    56.9 / 33.4       17.4 /  9.7    18.2 /  9.8
        triplet margin, 1 drawn     32.9 / 19.3    44.3 / 23.8       27.5 / 13.9    27.6 / 13.9
    """

    def __init__(self, args: XMCTrainingArguments) -> None:
        self.args = args

    def choose(self, step: LabelStep, queries: Tensor) -> Tensor | None:
        return in_batch(step.positives(self.args.num_positives, self.args.seed))


class BankedLabels(CandidateRule):
    """The positives of the window, and the labels that a bank of embeddings shows to matter to its queries.

    `selective`: half of the places that the positives leave in `label_budget` go to the labels of largest gradient
    norm, half to labels drawn at random that stand, with a weight, for all that are left over. `hard`: for each query
    its `num_hard_negatives` best-scoring labels that are no positives, beside the drawn positives. Each step encodes
    the `label_refresh` oldest rows of the bank as well, without gradients; what is encoded with gradients is fresh
    anyhow.

    Only what was encoded in the step enters the loss. Measured with a frozen MiniLM and a trained projection, one seed
    (P@1 / P@5 / PSP@5 on test, per cent; scripts/benchmarks/candidates.py compares the rules that are kept):

        biotools_edam, B = 64, 2 epochs, 221 positives a step      bible_xref, B = 32, 200 steps, 371 positives a step
        all 1,559 labels                     57.1 / 33.7 / 29.2    all 28,733 labels            27.2 / 14.7 / 14.8
        in_batch                             49.0 / 27.4 / 27.3    in_batch                     26.4 / 14.1 / 14.6
        320, largest gradients               56.7 / 32.9 / 30.0    512, largest gradients       25.9 / 14.1 / 14.4
        320, half of them at random          57.0 / 33.5 / 29.2    512, half of them at random  26.7 / 14.4 / 14.5
        320, half at random, no weight       56.2 / 32.3 / 29.8    512, half, root of weight    25.9 / 14.1 / 14.3
        256, largest gradients               55.5 / 31.5 / 29.5
        256, half of them at random          55.7 / 32.8 / 29.0
        320, all others stale in the sum     24.9 / 16.5 / 17.8

    So stale rows of the bank choose candidates, and are no candidates: nothing would push them away. How often rows
    are refreshed hardly matters (not at all: 56.6 / 33.3 / 28.9 in another run; each 12 steps: 56.7 / 33.4 / 29.0).

    All ranks hold the whole bank; each scores its part of it (where the loss can run on parts), and refreshes its
    part of the oldest.
    """

    def __init__(self, args: XMCTrainingArguments, encoder: TextEncoder, ranks: Shard) -> None:
        self.args = args
        self.encoder = encoder
        self.ranks = ranks
        self.bank: LabelBank | None = None
        self.covered: list[float] = []  # share of the gradient norm that the candidates had, a number a step
        self.number = 0  # of the step

    def choose(self, step: LabelStep, queries: Tensor) -> Tensor | None:
        self.number = step.number
        if self.bank is None:
            self.bank = self.first_bank()
        bank = self.bank
        if self.args.label_strategy == "selective" and self.args.label_budget >= len(bank):
            self.covered.append(1.0)
            return None
        self.refresh(bank, bank.oldest(self.args.label_refresh))
        queries = step.window_queries(queries)  # [B of this rank, D]
        count = self.args.num_positives if self.args.label_strategy == "hard" else None  # a budget has its own limit
        positives = in_batch(step.positives(count, self.args.seed))
        if self.args.label_strategy == "hard":
            pairs = [p for p in (step.own_pairs("positives"), step.own_pairs("ignored")) if p is not None]
            found = hardest_negatives(queries, bank.embeddings, pairs, self.args.num_hard_negatives)
            return torch.unique(torch.cat([positives, self.ranks.gather(found)]))
        if len(positives) >= self.args.label_budget and self.ranks.rank == 0:
            logger.warning_once(  # without the number of this step, or it would be said at each
                f"There are steps whose positive labels alone fill the label_budget of {self.args.label_budget:,}: no "
                "place is left for others, as with label_strategy in_batch. Give a larger label_budget."
            )
        norms = self.norms(step, bank, queries)  # [L]
        share = self.args.label_random_share if step.criterion.score_is_log_weight else 0.0
        seed = self.args.seed + 1_000_003 * step.number  # no state that a restart would have to restore
        chosen, log_weights = by_gradient(norms, positives, self.args.label_budget, share, seed)
        step.log_weights = log_weights if share else None
        self.covered.append(float(norms[chosen].sum() / norms.sum().clamp(min=1e-30)))
        return chosen

    def norms(self, step: LabelStep, bank: LabelBank, queries: Tensor) -> Tensor:
        """Gradient norm of every label, `[L]`, the same on all ranks."""
        positives, ignored = step.own_pairs("positives"), step.own_pairs("ignored")
        assert positives is not None
        if step.sharded:
            own = bank.embeddings[part(len(bank), self.ranks)]
            return self.ranks.gather(label_gradient_norms(step.criterion, queries, own, positives, ignored))
        positives, ignored = gather(positives, self.ranks), None if ignored is None else gather(ignored, self.ranks)
        queries = self.ranks.gather(queries)
        return label_gradient_norms(step.criterion, queries, bank.embeddings, positives, ignored)

    def fresh(self, ids: Tensor | None, labels: Tensor) -> None:
        assert self.bank is not None
        if self.ranks.group is not None:
            assert ids is not None
            ids, labels = self.ranks.gather(ids), self.ranks.gather(labels)
        self.bank.update(ids, labels, self.number)

    def refresh(self, bank: LabelBank, ids: Tensor) -> None:
        """Encode rows without gradients, each rank its part of them."""
        own = ids[self.encoder.part(ids, len(ids), self.ranks)].to(self.args.device)
        labels = self.encoder.labels_without_gradients(own)
        bank.update(self.ranks.gather(own), self.ranks.gather(labels), self.number)

    def first_bank(self) -> LabelBank:
        """A bank to begin with: every label encoded once, or random."""
        bank = self.empty_bank()
        if self.args.label_bank_init == "random":
            bank.fill_at_random(self.args.seed)
        elif self.args.label_strategy == "hard" or self.args.label_budget < len(bank):
            for ids in torch.arange(len(bank)).split(ROWS):
                self.refresh(bank, ids)
        return bank

    def empty_bank(self) -> LabelBank:
        args, model = self.args, self.encoder.model
        dtype = getattr(torch, args.label_bank_dtype)
        return LabelBank(len(self.encoder.label_tokens), model.width("label"), dtype, args.output_dir, args.device)

    def report(self) -> dict[str, float]:
        if self.bank is None:
            return {}
        covered, self.covered = self.covered, []
        shares = {"covered_gradient_mass": sum(covered) / len(covered)} if covered else {}
        return {**shares, "oldest_label_age": self.bank.oldest_age(self.number)}

    def reset(self) -> None:
        self.bank = None

    def save(self, folder: Path) -> None:
        if self.bank is not None:
            self.bank.save(folder)

    def load(self, folder: Path) -> None:
        bank = self.empty_bank()
        self.bank = bank if bank.load(folder) else None
