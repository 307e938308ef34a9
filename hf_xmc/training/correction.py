"""Correction while training: unlabelled pairs that the model is sure of are set aside, or become soft positives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file, save_file
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils import logging

from hf_xmc.data.files import replacing
from hf_xmc.data.schemes import union
from hf_xmc.data.soft_positives import SoftPositives
from hf_xmc.metrics import search_depth
from hf_xmc.retrieval.search import exact_search
from hf_xmc.types import Positives

logger = logging.get_logger(__name__)
CORRECTION = "correction.safetensors"
MODES = ("ignore", "promote")
SOURCE = "corrected"
ROWS = 4096  # pairs whose scores are computed at a time


class LabelCorrection(TrainerCallback):
    """From an epoch on, finds before each epoch the unlabelled pairs that the model is sure of.

    After the corrector of COMIC ("Learning in Imperfect Environment", Zhang et al., ICCV 2023), with one change: dot
    products are no probabilities, so that a pair is sure where it scores higher than a share of the *given* pairs of
    labels that are about as frequent (`quantile`). Rare labels, whose scores are lower, thus have a threshold of their
    own. Every time it starts from the given pairs, so that an error is taken back when the model thinks better of it.

    The share of the pairs that are corrected is in the log (`corrected_share`, relative to the given pairs), and the
    pairs are in the checkpoints.

    Args:
        trainer: the [`XMCTrainer`] that it is added to: `trainer.add_callback(LabelCorrection(trainer))`.
        mode: `"ignore"`: sure pairs are neither positives nor negatives. `"promote"`: they are soft positives.
        start_epoch: the first epoch with corrections.
        quantile: of the scores of given pairs, 0 to 1: higher is more careful.
        most: corrected labels of a query at most.
        weight: of a promoted pair.

    Raises:
        ValueError: an unknown mode, or a quantile that is not from 0 to 1.
    """

    def __init__(
        self,
        trainer: Any,
        mode: str = "ignore",
        start_epoch: int = 1,
        quantile: float = 0.7,
        most: int = 5,
        weight: float = 0.5,
    ) -> None:
        if mode not in MODES:
            raise ValueError(f"mode is {mode!r}; expected one of {', '.join(MODES)}")
        if not 0 <= quantile <= 1:
            raise ValueError(f"quantile is {quantile}; it must be from 0 to 1")
        self.trainer, self.mode, self.start_epoch = trainer, mode, start_epoch
        self.quantile, self.most, self.weight = quantile, most, weight
        self.given: tuple[Positives, Positives | None] | None = None  # of the training split, as they were
        self.epoch = -1  # that `found` is of
        self.found = SoftPositives.empty()

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start from the given pairs, or from the corrections of a checkpoint."""
        split = self.trainer.train_dataset
        if self.given is None:
            self.given = split.positives, split.ignored
        self.epoch, self.found = -1, SoftPositives.empty()
        if self.trainer.resumed_from is not None:
            self.load(Path(self.trainer.resumed_from))
        self.apply()

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Correct anew; an epoch that is resumed keeps its corrections."""
        epoch = int(state.epoch or 0)
        if epoch < self.start_epoch or epoch == self.epoch:
            return
        self.epoch, self.found = epoch, self.sure_pairs(state.global_step)
        self.apply()
        assert self.given is not None
        share = len(self.found) / max(len(self.given[0].indices), 1)
        self.trainer.log({"corrected_pairs": len(self.found), "corrected_share": share})

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Write the corrections into the checkpoint."""
        folder = Path(str(args.output_dir)) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"
        if state.is_world_process_zero and folder.is_dir():
            self.save(folder)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """The data set is as it was."""
        assert self.given is not None
        split = self.trainer.train_dataset
        split.positives, split.ignored = self.given
        self.given = None

    def apply(self) -> None:
        """Give the corrected pairs to the training split."""
        assert self.given is not None
        split, (positives, ignored) = self.trainer.train_dataset, self.given
        if not len(self.found):
            split.positives, split.ignored = positives, ignored
        elif self.mode == "promote":
            split.positives = self.found.merged(positives)
        else:
            pairs = Positives.from_padded(as_table(self.found, len(positives)))
            split.ignored = union(ignored, pairs)

    @torch.no_grad()
    def sure_pairs(self, step: int) -> SoftPositives:
        """The unlabelled pairs that score above the threshold of their label, the best `most` of each query."""
        assert self.given is not None
        positives, ignored = self.given
        queries = self.trainer.table(self.trainer.train_dataset.tokens, "query").numpy()  # [N, D]
        labels = self.trainer.label_embeddings().numpy()  # [L, D]
        thresholds = self.thresholds(queries, labels, positives)  # [L]
        known = union(ignored, positives)
        assert known is not None
        depth = min(search_depth(self.most, known), len(labels))
        found = exact_search(queries, labels, depth)
        keep = (found.ids >= 0) & ~known.contains(found) & (found.scores >= thresholds[found.ids])
        keep &= keep.cumsum(1) <= self.most
        rows, place = np.nonzero(keep)
        return SoftPositives.of(rows, found.ids[rows, place], self.weight, SOURCE, step)

    def thresholds(self, queries: np.ndarray, labels: np.ndarray, positives: Positives) -> np.ndarray:
        """The score above which a pair of each label is sure, `[L]`; infinite for a label that nobody has."""
        pairs = positives.numpy()
        rows, scores = pairs.rows, np.empty(len(pairs.indices), np.float32)
        for start in range(0, len(rows), ROWS):
            part = slice(start, start + ROWS)
            scores[part] = np.einsum("ij,ij->i", queries[rows[part]], labels[pairs.indices[part]])
        counts = pairs.label_counts(len(labels))
        group = frequency_group(counts)
        found = np.full(len(labels), np.inf, np.float32)
        for number in np.unique(group[counts > 0]):
            found[(group == number) & (counts > 0)] = np.quantile(
                scores[group[pairs.indices] == number], self.quantile
            )
        return found

    def save(self, folder: Path) -> None:
        """Write `correction.safetensors` into a folder."""
        arrays = {"rows": self.found.rows, "labels": self.found.labels, "weights": self.found.weights}
        arrays |= {"steps": self.found.steps, "epoch": np.array([self.epoch])}
        with replacing(folder / CORRECTION) as temporary:
            save_file(arrays, temporary)

    def load(self, folder: Path) -> None:
        """Read the corrections of a checkpoint, if it has any."""
        if not (folder / CORRECTION).is_file():
            return
        arrays = load_file(folder / CORRECTION)
        sources = np.full(len(arrays["rows"]), SOURCE, dtype=object)
        found = SoftPositives(arrays["rows"], arrays["labels"], arrays["weights"], sources, arrays["steps"])
        found.validate(len(self.trainer.train_dataset), self.trainer.num_labels)
        self.epoch, self.found = int(arrays["epoch"][0]), found


def frequency_group(counts: np.ndarray) -> np.ndarray:
    """Labels that are about as frequent have one number: each group is four times as frequent as the one before.

    >>> frequency_group(np.array([0, 1, 3, 4, 15, 16, 1000])).tolist()
    [0, 0, 0, 1, 1, 2, 4]
    """
    found: np.ndarray = (np.log2(np.maximum(counts, 1)) // 2).astype(np.int64)
    return found


def as_table(pairs: SoftPositives, num_queries: int) -> np.ndarray:
    """The labels of each query, padded with -1, `[N, K]`."""
    order = np.lexsort((pairs.labels, pairs.rows))
    rows, labels = pairs.rows[order], pairs.labels[order]
    counts = np.bincount(rows, minlength=num_queries)
    table = np.full((num_queries, max(int(counts.max(initial=0)), 1)), -1, np.int64)
    table[rows, np.arange(len(rows)) - (counts.cumsum() - counts)[rows]] = labels
    return table
