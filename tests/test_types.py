from __future__ import annotations

import numpy as np
import pytest
import torch

from hf_xmc import Positives, TopK


def test_from_lists_sorts_ids_and_weights_follow() -> None:
    positives = Positives.from_lists([[5, 2], [], [1]], weights=[[0.5, 0.2], [], [1.0]])
    assert positives.indptr.tolist() == [0, 2, 2, 3]
    assert positives.indices.tolist() == [2, 5, 1]
    assert positives.weights.tolist() == pytest.approx([0.2, 0.5, 1.0])
    assert positives.counts.tolist() == [2, 0, 1]


def test_take_repeats_and_reorders_rows() -> None:
    positives = Positives.from_lists([[5, 2], [], [1]], weights=[[0.5, 0.2], [], [1.0]])
    taken = positives.take([2, 0, 2, 1])
    assert [taken.row(i).tolist() for i in range(4)] == [[1], [2, 5], [1], []]
    assert taken.weights.tolist() == pytest.approx([1.0, 0.2, 0.5, 1.0])
    assert len(positives.take([])) == 0


def test_label_counts() -> None:
    assert Positives.from_lists([[0, 2], [2]]).label_counts(4).tolist() == [1, 0, 2, 0]


def test_torch_and_back() -> None:
    positives = Positives.from_lists([[1], [0, 2]]).torch()
    assert isinstance(positives.indices, torch.Tensor)
    assert positives.numpy().indices.tolist() == [1, 0, 2]


@pytest.mark.parametrize(
    ("indptr", "indices", "message"),
    [
        ([0, 1, 3], [4, 2, 2], "Row 1 names label id 2 more than once"),
        ([0, 1, 3], [4, 3, 2], "row 1 are not sorted"),
        ([0, 1, 3], [4, 2, 9], r"Row 1 refers to label id 9; the label table has 5 rows"),
        ([0, 1, 3], [-1, 2, 3], "Row 0 refers to label id -1"),
        ([0, 1], [4, 2], "indptr runs from 0 to 1"),
        ([0, 2, 1, 2], [4, 2], "never fall"),
    ],
)
def test_validate_names_the_row(indptr: list[int], indices: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Positives(np.array(indptr), np.array(indices)).validate(num_labels=5)


def test_the_last_label_is_in_range() -> None:
    Positives.from_lists([[4]]).validate(num_labels=5)


def test_duplicates_and_missing_weights_are_refused() -> None:
    with pytest.raises(ValueError, match="more than once"):
        Positives.from_lists([[1, 1]])
    with pytest.raises(ValueError, match="1 weights for 2 positives"):
        Positives.from_lists([[1, 2]], weights=[[0.5]])


def test_topk_sorted_breaks_ties_by_id_and_puts_padding_last() -> None:
    topk = TopK(torch.tensor([[9, -1, 3, 4]]), torch.tensor([[0.5, 2.0, 0.5, 0.9]])).sorted()
    assert topk.ids.tolist() == [[4, 3, 9, -1]]
    assert topk.scores[0, -1] == -np.inf


def test_topk_refuses_other_shapes() -> None:
    with pytest.raises(ValueError, match="one shape"):
        TopK(np.zeros((2, 3), int), np.zeros((2, 4)))
