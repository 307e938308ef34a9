"""Texts of several passages in the losses: a pool of the passages' scores, and then the loss as it is."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from hf_xmc.errors import SettingsError
from hf_xmc.losses import (
    LOSSES,
    AsymmetricFocalLoss,
    Loss,
    MultiLabelClusterLoss,
    PassagePooling,
    PositiveUnlabelledLoss,
    QueryBags,
)
from hf_xmc.losses.bags import dot_products
from hf_xmc.losses.streaming import StreamingLoss
from hf_xmc.retrieval.passages import Passages
from hf_xmc.sampling.candidates import hardest_negatives
from hf_xmc.sampling.gradient_norms import label_gradient_norms
from hf_xmc.types import Positives

ALL = {**LOSSES, "asymmetric_focal": AsymmetricFocalLoss, "cluster": MultiLabelClusterLoss}
POOLS = [PassagePooling("lse", 20.0), PassagePooling("max"), PassagePooling("mean")]
COUNTS = torch.tensor([1, 3, 2, 1, 5, 1, 4])
NUM_LABELS, DIM = 23, 8
POSITIVES = Positives.from_lists([[0, 3], [22], [], [5, 6, 7], [1], [2, 22], [9]]).torch()
IGNORED = Positives.from_lists([[1], [], [], [], [3], [], []]).torch()


def vectors(count: int, seed: int = 0) -> Tensor:
    drawn = torch.randn(count, DIM, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.nn.functional.normalize(drawn, dim=1).requires_grad_()


def dense_pool(pooling: PassagePooling, scores: Tensor) -> Tensor:
    """Scores of texts, `[B, C]`, from those of all passages, `[T, C]`, as the definition reads."""
    parts = scores.split(COUNTS.tolist())
    if pooling.kind == "max":
        return torch.stack([part.max(0).values for part in parts])
    if pooling.kind == "mean":
        return torch.stack([part.mean(0) for part in parts])
    r = pooling.sharpness
    return torch.stack([(part * r).exp().mean(0).log() / r for part in parts])


@pytest.mark.parametrize("pooling", POOLS, ids=[pool.kind for pool in POOLS])
@pytest.mark.parametrize("name", ALL)
def test_a_loss_over_bags_is_the_loss_of_pooled_scores(name: str, pooling: PassagePooling) -> None:
    """With the pooled scores as label embeddings, and unit vectors as queries, the loss sees the same matrix. Tiles of
    one query, of a few passages, and of all."""
    x, y = vectors(int(COUNTS.sum())), vectors(NUM_LABELS, 1)
    pooled = dense_pool(pooling, x @ y.T)
    expected = ALL[name]()(torch.eye(len(COUNTS), dtype=torch.float64), pooled.T, POSITIVES, ignored=IGNORED)
    wanted = torch.autograd.grad(expected, (x, y))
    for chunk_size in (1, 9, None):
        loss = ALL[name]()
        if isinstance(loss, StreamingLoss):
            loss.chunk_size = chunk_size
        found = loss(QueryBags(x, COUNTS, pooling), y, POSITIVES, ignored=IGNORED)
        torch.testing.assert_close(found, expected)
        for ours, theirs in zip(torch.autograd.grad(found, (x, y)), wanted, strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=1e-9)
        with torch.no_grad():
            torch.testing.assert_close(loss(QueryBags(x, COUNTS, pooling), y, POSITIVES, ignored=IGNORED), expected)


@pytest.mark.parametrize("name", ALL)
def test_one_passage_each_is_a_text_bit_for_bit(name: str) -> None:
    x, y = vectors(7).detach().float().requires_grad_(), vectors(NUM_LABELS, 1).detach().float().requires_grad_()
    found = []
    for queries in (x, QueryBags(x, torch.ones(7, dtype=torch.int64))):
        value = ALL[name]()(queries, y, POSITIVES)
        found.append((value, *torch.autograd.grad(value, (x, y))))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize("pooling", POOLS, ids=[pool.kind for pool in POOLS])
def test_training_pools_as_predictions_do(pooling: PassagePooling) -> None:
    x, y = vectors(int(COUNTS.sum())).detach(), vectors(NUM_LABELS, 1).detach()
    found = dot_products(QueryBags(x, COUNTS, pooling), y)
    settings = Passages(pooling.kind, pooling.sharpness)
    parts = np.split((x @ y.T).numpy(), COUNTS.cumsum(0)[:-1].tolist())
    np.testing.assert_allclose(found.numpy(), [settings.pooled(part) for part in parts], atol=1e-12)


def test_log_weights_stand_for_further_labels() -> None:
    """A label with the logarithm of 3 counts as three copies of it."""
    x, y, pooling = vectors(int(COUNTS.sum())), vectors(NUM_LABELS, 1), POOLS[0]
    log_weights = torch.zeros(NUM_LABELS, dtype=torch.float64)
    log_weights[20] = torch.log(torch.tensor(3.0, dtype=torch.float64))
    queries = QueryBags(x, COUNTS, pooling)
    found = LOSSES["decoupled_softmax"]()(queries, y, POSITIVES, log_weights=log_weights)
    copies = torch.cat([y, y[[20, 20]]])
    torch.testing.assert_close(found, LOSSES["decoupled_softmax"]()(queries, copies, POSITIVES))


def test_half_precision_is_near() -> None:
    x, y, loss = vectors(int(COUNTS.sum())), vectors(NUM_LABELS, 1), LOSSES["decoupled_softmax"]()
    found = loss(QueryBags(x.bfloat16(), COUNTS), y.bfloat16(), POSITIVES)
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(loss(QueryBags(x, COUNTS), y, POSITIVES).item(), rel=0.02)


def test_no_queries_give_no_loss_and_no_gradient() -> None:
    x, y = torch.zeros(0, DIM, requires_grad=True), torch.ones(3, DIM, requires_grad=True)
    value = LOSSES["decoupled_softmax"]()(
        QueryBags(x, torch.zeros(0, dtype=torch.int64)), y, Positives.from_lists([]).torch()
    )
    value.backward()
    assert value == 0
    assert y.grad is not None
    assert not y.grad.any()


def test_hard_negatives_and_gradient_norms_of_bags() -> None:
    x, y, pooling = vectors(int(COUNTS.sum())), vectors(NUM_LABELS, 1), POOLS[1]
    queries = QueryBags(x.float(), COUNTS, pooling)
    scores = dense_pool(pooling, x @ y.T).detach().clone()
    scores[POSITIVES.rows, POSITIVES.indices] = -torch.inf
    expected = scores.topk(2).indices.unique().tolist()
    assert hardest_negatives(queries, y.detach().float(), [POSITIVES], 2).tolist() == expected
    loss: Loss = LOSSES["softmax"]()
    labels = y.detach().float().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(queries.detach(), labels, POSITIVES), labels)
    torch.testing.assert_close(label_gradient_norms(loss, queries, labels.detach(), POSITIVES), gradient.norm(dim=1))


def test_positive_unlabelled_says_that_it_takes_no_bags() -> None:
    loss = PositiveUnlabelledLoss()
    assert not loss.takes_bags
    with pytest.raises(SettingsError, match=r"positive_unlabelled.*one vector per query"):
        loss(QueryBags(vectors(16), COUNTS), vectors(NUM_LABELS, 1), POSITIVES)
