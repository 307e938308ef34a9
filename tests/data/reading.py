"""How the tests read a data set, and look at what was read."""

from __future__ import annotations

from pathlib import Path

from hf_xmc import XMCDataset
from hf_xmc.data.dataset import prepare_xmc_dataset
from hf_xmc.errors import Problems


def prepared(folder: Path, tmp_path: Path) -> tuple[XMCDataset, Problems]:
    problems = Problems(stop=False)
    (tmp_path / "out").mkdir()
    return prepare_xmc_dataset(folder, tmp_path / "out", problems), problems


def named(data: XMCDataset) -> dict[str, list[str]]:
    """Text of each query -> the texts of its labels."""
    return {
        row["text"]: [data.labels[label]["text"] for label in row["labels"]]
        for table in data.queries.values()
        for row in table
    }
