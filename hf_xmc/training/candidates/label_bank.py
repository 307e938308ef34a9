"""The label bank: the last embedding of every label, and when it was made."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from hf_xmc.errors import SettingsError

BANK = "label_bank.safetensors"
MAPPED_BYTES = 2**30  # a bank from this size on lies in a file that is mapped, not in memory
ROWS = 2**14  # rows worked on at a time, so that no float32 copy of all is made


class LabelBank:
    """Embeddings `[L, D]` in half precision, each as old as its last encoding.

    Args:
        num_labels, dim: L and D.
        dtype: of the embeddings.
        folder: where a large bank puts its file. The file has no name there (it is unlinked while mapped), so that
            nothing is left over however the run ends; a checkpoint holds a copy.
        device: of a bank that is not mapped.

    Raises:
        OSError: the bank is to be mapped, and the disk has no room for it.

    >>> bank = LabelBank(3, 2)
    >>> bank.update(torch.tensor([2, 0]), torch.eye(2), step=5)
    >>> bank.embeddings[2].tolist(), bank.oldest(2).tolist(), bank.oldest_age(step=7)
    ([1.0, 0.0], [0, 1], 8)
    """

    def __init__(
        self,
        num_labels: int,
        dim: int,
        dtype: torch.dtype = torch.float16,
        folder: str | os.PathLike[str] | None = None,
        device: torch.device | None = None,
    ) -> None:
        if folder is not None and num_labels * dim * dtype.itemsize >= MAPPED_BYTES:
            self.embeddings = mapped(Path(folder), num_labels * dim, dtype).view(num_labels, dim)
        else:
            self.embeddings = torch.zeros(num_labels, dim, dtype=dtype, device=device)
        # Step of the last encoding, -1 before the first; int64 [L].
        self.encoded_at = torch.full((num_labels,), -1, device=self.embeddings.device)

    def __len__(self) -> int:
        return len(self.embeddings)

    def update(self, ids: Tensor | None, embeddings: Tensor, step: int) -> None:
        """Fresh embeddings `[c, D]` of labels `[c]` (of all for None), made at this step."""
        rows = slice(None) if ids is None else ids.to(self.encoded_at.device)
        self.embeddings[rows] = embeddings.to(self.embeddings)
        self.encoded_at[rows] = step

    def oldest(self, count: int) -> Tensor:
        """Ids of the rows whose turn it is: oldest first, of equals the lower id; sorted, `[count]`."""
        turn = self.encoded_at * len(self) + torch.arange(len(self), device=self.encoded_at.device)  # no two are equal
        return turn.topk(min(count, len(self)), largest=False).indices.sort().values

    def oldest_age(self, step: int) -> int:
        """Steps since the oldest row was encoded."""
        return step - int(self.encoded_at.min())

    def fill_at_random(self, seed: int) -> None:
        """Random unit vectors, to be replaced by the refresh row by row."""
        generator = torch.Generator().manual_seed(seed)
        for rows in self.embeddings.split(ROWS):
            noise = torch.randn(rows.shape, generator=generator)
            rows.copy_(torch.nn.functional.normalize(noise, dim=-1))
        self.encoded_at.fill_(-1)

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write the bank into a checkpoint."""
        save_file({"embeddings": self.embeddings, "encoded_at": self.encoded_at}, Path(folder) / BANK)

    def load(self, folder: str | os.PathLike[str]) -> bool:
        """Read the bank of a checkpoint; False where it has none, as another strategy was in use.

        Raises:
            SettingsError: it is of another shape or dtype.
        """
        path = Path(folder) / BANK
        if not path.is_file():
            return False
        found = load_file(path)
        shapes = [(tuple(x.shape), x.dtype) for x in (found["embeddings"], self.embeddings)]
        if shapes[0] != shapes[1]:
            raise SettingsError(
                f"{path} holds a label bank of {shapes[0]}, but this run has one of {shapes[1]}; resume with the "
                "label table, the model and the label_bank_dtype of the run that wrote it."
            )
        self.embeddings.copy_(found["embeddings"])
        self.encoded_at.copy_(found["encoded_at"])
        return True


def mapped(folder: Path, size: int, dtype: torch.dtype) -> Tensor:
    """Zeros `[size]` in a file without a name in this folder."""
    folder.mkdir(parents=True, exist_ok=True)
    needed, free = size * dtype.itemsize, shutil.disk_usage(folder).free
    if free < needed:  # the file is sparse: a write that finds no room would be the end of the process, unexplained
        raise OSError(
            errno.ENOSPC,
            f"The label bank needs {needed / 2**30:.1f} GiB on the disk of {folder}, where {free / 2**30:.1f} are "
            "free; make room, choose another output_dir, or a smaller label_bank_dtype",
        )
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".label_bank.") as file:  # no two processes share a name
        return torch.from_file(file.name, shared=True, size=size, dtype=dtype)
