from __future__ import annotations

import torch

from hf_xmc import Positives
from hf_xmc.sampling.candidates import in_batch, to_columns


def test_columns_name_the_same_labels() -> None:
    positives = Positives.from_lists([[7, 2], [], [9, 2]], weights=[[0.7, 0.2], [], [0.9, 0.1]]).torch()
    candidates = in_batch(positives)
    columns = to_columns(positives, candidates)
    assert candidates.tolist() == [2, 7, 9]
    assert candidates[columns.indices].tolist() == positives.indices.tolist()
    assert columns.indptr.tolist() == [0, 2, 2, 4]
    assert torch.equal(columns.weights, positives.weights)


def test_pairs_that_are_no_candidates_fall_away() -> None:
    pairs = Positives.from_lists([[0, 7], [100], [], [9]]).torch()
    columns = to_columns(pairs, torch.tensor([2, 7, 9]))
    assert columns.indptr.tolist() == [0, 1, 1, 1, 2]
    assert columns.indices.tolist() == [1, 2]


def test_a_batch_without_positives_has_one_candidate() -> None:
    empty = Positives.from_lists([[], []]).torch()
    assert in_batch(empty).tolist() == [0]
    assert to_columns(empty, in_batch(empty)).indptr.tolist() == [0, 0, 0]
