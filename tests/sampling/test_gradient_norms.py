from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from hf_xmc import Positives
from hf_xmc.losses import DecoupledSoftmaxLoss, OneVsAllLoss, SoftmaxLoss, SoftTopKLoss, TripletMarginLoss
from hf_xmc.sampling import gradient_norms
from hf_xmc.sampling.candidates import by_gradient, hardest_negatives
from hf_xmc.sampling.gradient_norms import label_gradient_norms

LOSSES = [DecoupledSoftmaxLoss(), SoftTopKLoss(), SoftmaxLoss(0.1), OneVsAllLoss(), TripletMarginLoss()]
POSITIVES = Positives.from_lists([[0, 7], [], [3], [2, 3, 11]]).torch()
IGNORED = Positives.from_lists([[1], [0], [], [5]]).torch()


def embeddings() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    queries, labels = (torch.randn(n, 6, generator=generator) for n in (4, 12))
    return nn.functional.normalize(queries, dim=1), nn.functional.normalize(labels, dim=1)


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: type(loss).__name__)
@pytest.mark.parametrize("tile", [5, 100])
def test_norms_are_those_of_the_gradient(loss: nn.Module, tile: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gradient_norms, "LABELS_PER_TILE", tile)
    queries, labels = embeddings()
    found = label_gradient_norms(loss, queries, labels, POSITIVES, IGNORED)
    labels.requires_grad_()
    loss(queries, labels, POSITIVES, ignored=IGNORED).backward()
    assert labels.grad is not None
    torch.testing.assert_close(found, labels.grad.norm(dim=1), atol=1e-6, rtol=1e-4)


def test_norms_from_half_precision_under_autocast() -> None:
    queries, labels = embeddings()
    exact = label_gradient_norms(LOSSES[0], queries, labels, POSITIVES)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        half = label_gradient_norms(LOSSES[0], queries, labels.half(), POSITIVES)
    torch.testing.assert_close(half, exact, atol=1e-3, rtol=1e-1)


def test_the_largest_norms_beside_the_positives() -> None:
    norms = torch.tensor([0.5, 0.0, 0.4, 0.3, 0.2, 0.1])
    assert by_gradient(norms, torch.tensor([1, 5]), budget=4)[0].tolist() == [0, 1, 2, 5]
    assert by_gradient(norms, torch.tensor([1, 3, 5]), budget=2)[0].tolist() == [1, 3, 5]
    assert by_gradient(norms, torch.tensor([1]), budget=100, random_share=0.5)[0].tolist() == list(range(6))


def test_a_random_share_stands_for_the_labels_left_over() -> None:
    norms, positives = torch.arange(100.0), torch.tensor([3, 50])
    drawn = set()
    for seed in range(200):
        ids, log_weights = by_gradient(norms, positives, budget=12, random_share=0.4, seed=seed)
        assert {3, 50, 99, 98, 97, 96, 95, 94} <= set(ids.tolist())
        assert len(ids.unique()) == 12
        extra = ids[log_weights > 0].tolist()
        assert len(extra) == 4
        assert log_weights.max().item() == pytest.approx(math.log(92 / 4))
        drawn |= set(extra)
    assert drawn == set(range(94)) - {3, 50}
    again = by_gradient(norms, positives, budget=12, random_share=0.4, seed=199)
    assert torch.equal(again[0], ids)


@pytest.mark.parametrize("tile", [5, 100])
def test_hardest_negatives(tile: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hf_xmc.sampling.candidates.LABELS_PER_TILE", tile)
    queries, labels = embeddings()
    scores = queries @ labels.T
    for pairs in (POSITIVES, IGNORED):
        for row in range(4):
            scores[row, pairs.row(row)] = -torch.inf
    for count in (1, 3, 7):
        expected = scores.topk(count, dim=1).indices.unique().tolist()
        assert hardest_negatives(queries, labels.double(), [POSITIVES, IGNORED], count).tolist() == expected
    all_true = Positives.from_lists([list(range(12))] * 4).torch()
    assert hardest_negatives(queries, labels, [all_true], 3).tolist() == []
    assert len(hardest_negatives(queries, labels, [POSITIVES], 50)) == 12
