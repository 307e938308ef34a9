"""Several catalogues in one set: what a query was not asked for counts neither in the loss, nor in metrics, nor in the
audit."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from hf_xmc import Positives, load_xmc_dataset
from hf_xmc.audit.pool import Pool
from hf_xmc.data.dataset import XMCDataset
from hf_xmc.errors import DataError
from hf_xmc.inference.evaluation.evaluate import score
from hf_xmc.types import TopK

LABELS = [("red", "colour"), ("blue", "colour"), ("car", "thing"), ("house", "thing"), ("misc", None)]
QUERIES = [
    ("a", "a red car", [0], ["colour"]),
    ("b", "a blue house", [3], ["thing"]),
    ("c", "a red house", [0, 3], None),  # with all of them
    ("d", "a blue car", [1, 2], ["colour"]),  # and with things, as it has one
]


def write(folder: Path, queries: list[tuple[str, str, list[int], list[str] | None]]) -> Path:
    folder.mkdir()
    labels = [{"uid": f"l{i}", "text": text, "scheme": scheme} for i, (text, scheme) in enumerate(LABELS)]
    lines = [{"uid": u, "text": t, "labels": ids, "schemes": s} for u, t, ids, s in queries]
    for name, rows in (("lbl", labels), ("trn", lines), ("val", lines[:2]), ("tst", lines[:2])):
        for row in rows if name != "lbl" else []:
            row["uid"] = f"{name}-{row['uid']}"
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(text.replace("trn-", "") if name == "trn" else text)
    return folder


@pytest.fixture
def data(tmp_path: Path) -> XMCDataset:
    return load_xmc_dataset(write(tmp_path / "raw", QUERIES))


def test_what_was_not_asked_for_is_ignored(data: XMCDataset) -> None:
    train = data.filters["train"]
    assert [train.row(i).tolist() for i in range(4)] == [[2, 3], [0, 1], [], []]
    assert Pool.of(data).ignored is not None
    found = TopK.from_lists([[2, 3, 0, 1, 4], [0, 1, 3, 2, 4]])
    assert score(found, data, "test")["P@1"] == 1.0  # the labels of the other catalogue are not predictions


def test_a_prepared_set_knows_them_too(data: XMCDataset, tmp_path: Path) -> None:
    data.save(tmp_path / "set")
    again = load_xmc_dataset(tmp_path / "set")
    assert again.queries["train"]["schemes"][:] == [row[3] for row in QUERIES]
    for split, pairs in data.filters.items():
        np.testing.assert_array_equal(again.filters[split].indptr, pairs.indptr)
        np.testing.assert_array_equal(again.filters[split].indices, pairs.indices)
    assert "filter_labels" not in again.queries["train"].column_names


def test_filter_lists_and_schemes_together(tmp_path: Path) -> None:
    folder = write(tmp_path / "raw", QUERIES)
    (folder / "filter_labels_trn.txt").write_text("2 4\n")
    both = load_xmc_dataset(folder)
    assert both.filters["train"].row(2).tolist() == [4]
    assert both.filters["train"].row(0).tolist() == [2, 3]
    both.save(tmp_path / "set")
    assert load_xmc_dataset(tmp_path / "set").filters["train"].row(2).tolist() == [4]


def test_the_loss_leaves_them_out(data: XMCDataset, tiny_encoder: str, tmp_path: Path) -> None:
    from hf_xmc import XMCDualEncoderModel, XMCTrainer, XMCTrainingArguments

    args = XMCTrainingArguments(str(tmp_path / "run"), report_to="none", use_cpu=True)
    queries, labels = data.queries["train"], data.labels
    filters = data.filters["train"]
    model = XMCDualEncoderModel.from_encoder(tiny_encoder)
    trainer = XMCTrainer(model, args, queries, label_dataset=labels, train_ignored=filters)
    assert trainer.train_dataset[0]["ignored"].tolist() == [2, 3]


def test_an_unknown_scheme_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="query 'a' has the scheme 'colr', which no label has"):
        load_xmc_dataset(write(tmp_path / "raw", [("a", "a red car", [0], ["colr"]), *QUERIES[1:]]))


def test_of_a_table(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,labels,schemes\na red car,red,colour\na blue car,blue|car,colour|thing\n")
    (tmp_path / "labels.csv").write_text("uid,text,scheme\nred,red,colour\nblue,blue,colour\ncar,car,thing\n")
    from hf_xmc.data.formats.source import Options

    table = load_xmc_dataset(tmp_path / "a.csv", Options(label_file=str(tmp_path / "labels.csv")))
    pairs = [table.filters.get(split, Positives.from_lists([])) for split in table.queries]
    assert sum(len(found.indices) for found in pairs) == 1
