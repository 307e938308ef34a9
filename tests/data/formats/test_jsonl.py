from __future__ import annotations

from pathlib import Path

import pytest

from hf_xmc import load_xmc_dataset
from hf_xmc.errors import DataError
from tests.data.made import jsonl, text


def test_a_blank_line_among_labels_is_an_error_and_at_the_end_is_none(source: Path) -> None:
    jsonl(source)
    path = source / "lbl.jsonl"
    lines = path.read_text().splitlines()
    text(path, [*lines, "", ""])
    assert load_xmc_dataset(source).num_labels == 3
    text(path, [lines[0], "", *lines[1:]])
    with pytest.raises(DataError, match=r"lbl\.jsonl, line 2: the line is blank; remove it"):
        load_xmc_dataset(source)
