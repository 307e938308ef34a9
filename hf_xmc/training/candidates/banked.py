"""What the rules that keep a label bank share: when its rows are encoded, saved and reported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hf_xmc.training.candidates.label_bank import ROWS, LabelBank
from hf_xmc.training.candidates.rule import CandidateRule, Candidates, Demand, Sizes, Window


class BankedLabels(CandidateRule):
    """A rule that chooses by the last embedding of every label, which a [`LabelBank`] keeps.

    Each step also encodes the `label_refresh` oldest rows of the bank, without gradients. What a step encodes with
    gradients goes into the bank as well. Rows of the bank only choose candidates: they are never candidates
    themselves, since nothing would push a stale embedding away (`docs/experiments.md`).

    All ranks hold the whole bank. Each scores its part of it, where the loss can run on parts, and refreshes its part
    of the oldest rows.
    """

    bank: LabelBank | None
    reports: list[dict[str, float]]  # of each step since the last report
    number: int  # of the last step

    @classmethod
    def banked_demand(cls, args: Any, sizes: Sizes, candidates: int) -> Demand:
        """The demand of a rule with a label bank and this many candidates."""
        return Demand(
            candidates,
            refreshed=min(args.label_refresh, sizes.num_labels),
            scores_all=True,
            kept={"label bank": sizes.num_labels * (sizes.dim * sizes.bank_itemsize + 8)},
        )

    @property
    def is_exact(self) -> bool:
        """Whether all labels are candidates anyway, so that nothing has to be refreshed."""
        return False

    def prepare(self, window: Window) -> None:
        if self.bank is None:
            self.bank = self.first_bank(window.number)
        if not self.is_exact:
            self.refresh(self.bank, self.bank.oldest(self.args.label_refresh), window.number)

    def encoded(self, window: Window, candidates: Candidates, ids: Tensor | None, labels: Tensor) -> None:
        assert self.bank is not None
        if self.ranks.group is not None:
            assert ids is not None
            ids, labels = self.ranks.gather(ids), self.ranks.gather(labels)
        self.bank.update(ids, labels, window.number)
        self.number = window.number
        self.reports.append(candidates.report)

    def refresh(self, bank: LabelBank, ids: Tensor, number: int) -> None:
        """Encode rows of the bank without gradients; each rank encodes its part of them."""
        own = ids[self.encoder.part(ids, len(ids), self.ranks)].to(self.args.device)
        labels = self.encoder.labels_without_gradients(own)
        bank.update(self.ranks.gather(own), self.ranks.gather(labels), number)

    def first_bank(self, number: int) -> LabelBank:
        """The bank at the start: every label encoded once, or random."""
        bank = self.empty_bank()
        if self.args.label_bank_init == "random":
            bank.fill_at_random(self.args.seed)
        elif not self.is_exact:
            for ids in torch.arange(len(bank)).split(ROWS):
                self.refresh(bank, ids, number)
        return bank

    def empty_bank(self) -> LabelBank:
        args, encoder = self.args, self.encoder
        dtype = getattr(torch, args.label_bank_dtype)
        return LabelBank(encoder.num_labels, encoder.label_dim, dtype, args.output_dir, args.device)

    def report(self) -> dict[str, float]:
        if self.bank is None:
            return {}
        reports, self.reports = self.reports, []
        names = {name for values in reports for name in values}
        means = {name: sum(values[name] for values in reports) / len(reports) for name in sorted(names)}
        return {**means, "oldest_label_age": self.bank.oldest_age(self.number)}

    def reset(self) -> None:
        self.bank, self.reports, self.number = None, [], 0

    def save(self, folder: Path) -> None:
        if self.bank is not None:
            self.bank.save(folder)

    def load(self, folder: Path) -> None:
        bank = self.empty_bank()
        self.bank = bank if bank.load(folder) else None
