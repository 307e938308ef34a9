"""States of a frozen encoder, kept on the disk in blocks: a run that is killed encodes no text twice."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm
from transformers.utils import logging

from hf_xmc.data.arrow import cache_path, cached_folder
from hf_xmc.data.files import replacing

logger = logging.get_logger(__name__)
STATES = "states.npy"
BLOCK = 2**11  # texts of a block; they are sorted by length when they are encoded


class StateBlocks:
    """States `[N, H]` of N texts in the cache of `datasets`: one file, or as long as some are missing one for each
    block of texts that is done.

    Args:
        key: everything that they depend on.
        count: number of texts.
        width: H.
        encode: numbers of texts, int64 `[n]`, to their states, float32 `[n, H]`.
    """

    def __init__(self, key: Sequence[Any], count: int, width: int, encode: Callable[[np.ndarray], Tensor]) -> None:
        self.key = list(key)
        self.count = count
        self.width = width
        self.encode = encode
        whole = cache_path("states", self.key)
        self.parts = whole.with_name(f"{whole.name}.parts")

    def load(
        self, title: str = "Encoding", progress: bool = False, on_encoded: Callable[[int], None] | None = None
    ) -> Tensor:
        """All states, float32 `[N, H]`; those that are not there are made. Without room on the disk they are not kept.

        Args:
            title: of the progress bar.
            progress: show one, for what takes more than two seconds.
            on_encoded: told how many texts each block has.
        """
        made: list[Tensor] = []

        def fill(folder: Path) -> None:
            made.append(self.all_blocks(title, progress, on_encoded))
            np.save(folder / STATES, made[0].numpy())

        try:
            folder = cached_folder("states", self.key, fill)
        except OSError as error:
            if not made:
                raise
            logger.warning(f"The states of the frozen encoder are not kept for the next run ({error}).")
            return made[0]
        shutil.rmtree(self.parts, ignore_errors=True)
        if not made and on_encoded is not None:
            on_encoded(self.count)
        return made[0] if made else torch.from_numpy(np.load(folder / STATES, allow_pickle=False))

    def all_blocks(self, title: str, progress: bool, on_encoded: Callable[[int], None] | None) -> Tensor:
        """The states of all blocks."""
        found = torch.empty(self.count, self.width)
        with tqdm(total=self.count, unit=" texts", desc=title, delay=2, disable=not progress) as bar:
            for start in range(0, self.count, BLOCK):
                some = np.arange(start, min(start + BLOCK, self.count))
                kept = self.kept(start // BLOCK, len(some))
                if kept is not None and not bar.disable:
                    bar.initial += len(some)  # no part of this run's rate
                found[start : start + len(some)] = self.made(start // BLOCK, some) if kept is None else kept
                bar.update(len(some))
                if on_encoded is not None:
                    on_encoded(len(some))
        return found

    def kept(self, number: int, count: int) -> Tensor | None:
        """The states of a block that an earlier run made, if it is there and whole."""
        path = self.parts / f"{number}.npy"
        try:
            found = torch.from_numpy(np.load(path, allow_pickle=False)) if path.is_file() else None
        except (OSError, ValueError):
            return None
        return found if found is not None and found.shape == (count, self.width) else None

    def made(self, number: int, some: np.ndarray) -> Tensor:
        """The states of a block, which are written if there is room."""
        states = self.encode(some)
        if self.count > BLOCK:  # a single block is the whole file
            try:
                self.parts.mkdir(parents=True, exist_ok=True)
                with replacing(self.parts / f"{number}.npy") as temporary, open(temporary, "wb") as file:
                    np.save(file, states.numpy())
            except OSError as error:
                logger.warning_once(f"Blocks of states are not kept ({error.strerror}).")
        return states
