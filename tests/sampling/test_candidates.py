from __future__ import annotations

import torch

from hf_xmc import Positives
from hf_xmc.losses import DecoupledSoftmaxLoss
from hf_xmc.sampling.candidates import in_batch, to_columns
from hf_xmc.sampling.draws import draw_pairs


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


def test_a_positive_that_another_query_brought_is_no_negative() -> None:
    """Both queries have label 4, one of them draws it: it is a candidate, and a positive of both."""
    positives = Positives.from_lists([[4, 9], [2, 4]]).torch()
    rows = torch.tensor([10, 11])
    brought = [draw_pairs(positives, rows, 1, seed=0, step=step) for step in range(20)]
    wanted = next(pairs for pairs in brought if pairs.indices.tolist() == [9, 4])
    candidates = in_batch(wanted)
    assert candidates.tolist() == [4, 9]
    columns = to_columns(positives, candidates)
    assert [columns.row(row).tolist() for row in (0, 1)] == [[0, 1], [0]]
    loss, queries, labels = DecoupledSoftmaxLoss(temperature=1.0), torch.eye(2), torch.tensor([[0.3, 0.8], [0.9, 0.1]])
    first = Positives.from_lists([columns.row(0).tolist()]).torch()
    assert loss(queries[:1], labels, first).item() == 0, "no candidate is a negative of the first query"
    drawn = to_columns(wanted, candidates)
    alone = Positives.from_lists([drawn.row(0).tolist()]).torch()
    assert loss(queries[:1], labels, alone).item() > 0.1, "what would be if the drawn positives masked"
