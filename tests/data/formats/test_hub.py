from __future__ import annotations

from pathlib import Path

import pytest
from datasets import ClassLabel, Dataset, Features, List, Value

from hf_xmc import load_xmc_dataset
from hf_xmc.data.summary.card import write_card
from hf_xmc.data.summary.statistics import statistics
from tests.data.made import LABELS, TEST, TRAIN, text
from tests.data.reading import named


@pytest.mark.parametrize("card", [True, False], ids=["with a card", "nothing else"])
def test_a_folder_as_on_the_hub(card: bool, source: Path) -> None:
    features = Features({"text": Value("string"), "labels": List(ClassLabel(names=LABELS))})
    for split, rows in (("train", TRAIN), ("test", TEST)):
        columns = {"text": [t for t, _ in rows], "labels": [y for _, y in rows]}
        (source / "data").mkdir(exist_ok=True)
        Dataset.from_dict(columns, features=features).to_parquet(source / f"data/{split}-00000-of-00001.parquet")
    if card:
        text(source / "README.md", ["---", "license: mit", "---"])
    data = load_xmc_dataset(source)
    assert data.format == "hub"
    assert data.labels["text"][:] == LABELS
    assert named(data) == {t: [LABELS[i] for i in y] for t, y in TRAIN + TEST}


def test_a_pushed_folder_without_its_description(tmp_path: Path) -> None:
    data = load_xmc_dataset("sample")
    folder = data.save(tmp_path / "pushed")
    write_card(data, statistics(data), folder)
    (folder / "dataset.json").unlink()
    again = load_xmc_dataset(folder)
    assert again.format == "hub"
    assert again.name == "pushed"
    assert again.fingerprint() == data.fingerprint()
