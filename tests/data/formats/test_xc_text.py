from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp

from hf_xmc import load_xmc_dataset
from hf_xmc.data.formats.source import Options
from hf_xmc.errors import DataError
from tests.data.made import LABELS, TRAIN, dexml, old, text, xc_pairs
from tests.data.reading import named, prepared


@pytest.mark.parametrize(
    ("make", "label_file"), [(dexml, "raw/Y.txt"), (xc_pairs, "Y.txt"), (old, "Yf.txt")], ids=["npz", "pairs", "old"]
)
@pytest.mark.parametrize(("lines", "count"), [(["HEADER", *LABELS], 4), (LABELS[:2], 2)], ids=["more", "fewer"])
def test_the_label_file_has_as_many_labels_as_the_positives_declare(
    make: Any, label_file: str, lines: list[str], count: int, source: Path
) -> None:
    make(source)
    assert load_xmc_dataset(source).num_labels == 3
    text(source / label_file, lines)
    with pytest.raises(DataError, match=f"3 labels are declared, but the label file has {count}"):
        load_xmc_dataset(source)


def test_stored_zeros_are_no_positives(source: Path, tmp_path: Path) -> None:
    dexml(source)
    stored = sp.csr_matrix(([1.0, 0.0, 1.0, 2.0], [0, 1, 2, 1], [0, 2, 2, 3, 4]), shape=(4, 3))
    assert stored.nnz == 4
    sp.save_npz(source / "Y.trn.npz", stored)
    data, problems = prepared(source, tmp_path)
    found = named(data)
    assert [found[t] for t, _ in TRAIN] == [["red"], [], ["house"], ["dark blue"]]
    assert problems.counts["pairs of weight 0"] == 1
    assert "line 1: label id 1" in problems.found[0].message


def test_pairs_of_weight_zero_are_no_positives(source: Path, tmp_path: Path) -> None:
    xc_pairs(source)
    text(source / "trn_X_Y.txt", ["4 3", "0:1.0 2:0.0", "1:0 2:0", "", "1:3.5"])
    data, problems = prepared(source, tmp_path)
    found = named(data)
    assert [found[t] for t, _ in TRAIN] == [["red"], [], [], ["dark blue"]]
    assert problems.counts["pairs of weight 0"] == 3


def test_an_id_twice_in_a_coo_matrix_is_refused_and_its_weights_are_not_added_up(source: Path, tmp_path: Path) -> None:
    dexml(source)
    rows, columns = np.array([0, 1, 1, 3]), np.array([0, 2, 2, 1])
    sp.save_npz(source / "Y.trn.npz", sp.coo_matrix((np.ones(4), (rows, columns)), shape=(4, 3)))
    with pytest.raises(DataError, match="repeat an id"):
        load_xmc_dataset(source)
    data, problems = prepared(source, tmp_path)
    assert problems.counts["repeated ids"] == 1
    assert "weights" not in data.queries["train"].column_names


def test_feature_names_have_the_given_encoding(source: Path) -> None:
    old(source)
    path = source / "Xf.txt"
    path.write_bytes(path.read_text().replace("house", "häuser").encode("latin-1"))
    data = load_xmc_dataset(source, Options(encoding="latin-1"))
    assert "a dark blue häuser" in named(data)
