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


def random_pairs(rng: np.random.Generator, num_rows: int, num_labels: int) -> Positives:
    rows = [rng.choice(num_labels, rng.integers(0, 6), replace=False).tolist() for _ in range(num_rows)]
    return Positives.from_lists(rows, [rng.random(len(row)).tolist() for row in rows])


def pair_set(pairs: Positives) -> set[tuple[int, int]]:
    return {(i, int(label)) for i in range(len(pairs)) for label in pairs.row(i)}


@pytest.mark.parametrize("on_torch", [False, True])
def test_set_algebra_agrees_with_python_sets(on_torch: bool) -> None:
    rng = np.random.default_rng(0)
    one, other = (random_pairs(rng, 50, 12) for _ in range(2))
    a, b = (one.torch(), other.torch()) if on_torch else (one, other)
    assert b.contains_pairs(a).tolist() == [
        (int(row), int(label)) in pair_set(other) for row, label in zip(one.rows, one.indices, strict=True)
    ]
    assert isinstance(a.minus(b).indices, type(a.indices))
    assert pair_set(a.minus(b)) == pair_set(one) - pair_set(other)
    assert a.keys(12).tolist() == sorted(a.keys(12).tolist())
    assert pair_set(a.without([3, 4])) == {pair for pair in pair_set(one) if pair[1] not in (3, 4)}
    padded = np.full((50, 6), -1)
    for i in range(50):
        padded[i, rng.permutation(6)[: len(one.row(i))]] = rng.permutation(one.row(i))
    made = Positives.from_padded(torch.from_numpy(padded) if on_torch else padded)
    assert (made.indptr.tolist(), made.indices.tolist()) == (one.indptr.tolist(), one.indices.tolist())


def test_weights_follow_the_pairs_that_are_kept() -> None:
    positives = Positives.from_lists([[5, 2], [], [1]], weights=[[0.5, 0.2], [], [1.0]])
    assert positives.without({5}).weights.tolist() == pytest.approx([0.2, 1.0])
    assert positives.minus(Positives.from_lists([[2], [1], []])).weights.tolist() == pytest.approx([0.5, 1.0])
    assert positives.minus(None) is positives


def test_contains_across_chunks_and_with_padding() -> None:
    rng = np.random.default_rng(0)
    positives = random_pairs(rng, 2500, 40)
    ids = rng.integers(-1, 40, (2500, 3))
    truth = pair_set(positives)
    expected = [[(i, int(label)) in truth for label in row] for i, row in enumerate(ids)]
    assert positives.contains(TopK(ids, np.zeros(ids.shape))).tolist() == expected
    with pytest.raises(ValueError, match="2,500 rows of pairs"):
        positives.contains(TopK(ids[:9], np.zeros((9, 3))))


def test_first_and_padded() -> None:
    topk = TopK(torch.tensor([[9, 3, 4]]), torch.tensor([[0.5, 0.4, 0.3]]))
    assert topk.first(2).ids.tolist() == [[9, 3]]
    assert topk.first(5).k == 3
    padded = topk.padded(4)
    assert padded.ids.tolist() == [[9, 3, 4, -1]]
    assert padded.scores[0, -1] == -np.inf
