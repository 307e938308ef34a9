from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from hf_xmc.errors import SettingsError
from hf_xmc.losses import ConditionalTransportLoss


def dense(tokens: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """One query, written out as in the paper: tokens [T, D], labels [P, D]."""
    total = torch.zeros((), dtype=tokens.dtype)
    cos = torch.stack([torch.stack([torch.cosine_similarity(t, x, dim=0) for x in labels]) for t in tokens])
    for t in range(len(tokens)):
        weights = torch.stack([(cos[t, x] / temperature).exp() for x in range(len(labels))])
        total = total + (weights / weights.sum() * (1 - cos[t])).sum() / len(tokens) / 2
    for x in range(len(labels)):
        weights = torch.stack([(cos[t, x] / temperature).exp() for t in range(len(tokens))])
        total = total + (weights / weights.sum() * (1 - cos[:, x])).sum() / len(labels) / 2
    return total


def batch(sizes: list[tuple[int, int]], dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Queries of so many tokens and labels, padded with what must not count."""
    draw = torch.Generator().manual_seed(0)
    t, p = (max(each) for each in zip(*sizes, strict=True))
    tokens, labels = (torch.randn(len(sizes), n, 5, generator=draw, dtype=torch.float64).to(dtype) for n in (t, p))
    counts = torch.tensor(sizes)
    return tokens, torch.arange(t) < counts[:, :1], labels, torch.arange(p) < counts[:, 1:]


@pytest.mark.parametrize("temperature", [1.0, 0.1])
def test_same_as_dense_with_padding_in_value_and_gradient(temperature: float) -> None:
    sizes = [(4, 2), (1, 1), (2, 3), (1, 3)]
    tokens, mask, labels, label_mask = batch(sizes)
    tokens.requires_grad_()
    labels.requires_grad_()
    loss = ConditionalTransportLoss(temperature)(tokens, mask, labels, label_mask)
    parts = [dense(tokens[i, :t], labels[i, :p], temperature) for i, (t, p) in enumerate(sizes)]  # without padding
    expected = torch.stack(parts).mean()
    torch.testing.assert_close(loss, expected)
    found = torch.autograd.grad(loss, (tokens, labels))
    for gradient, reference in zip(found, torch.autograd.grad(expected, (tokens, labels)), strict=True):
        torch.testing.assert_close(gradient, reference)
    assert found[0][1, 1:].abs().sum() == 0


def test_one_token_and_one_label_cost_their_distance() -> None:
    tokens, labels = torch.tensor([[[2.0, 0.0]]]), torch.tensor([[[1.0, 1.0]]])
    loss = ConditionalTransportLoss()(tokens, torch.ones(1, 1), labels)
    assert loss.item() == pytest.approx(1 - math.sqrt(0.5))


def test_queries_without_labels_or_tokens_add_nothing() -> None:
    tokens, mask, labels, label_mask = batch([(3, 2), (2, 0), (0, 2)])
    alone = ConditionalTransportLoss()(tokens[:1], mask[:1], labels[:1], label_mask[:1])
    torch.testing.assert_close(ConditionalTransportLoss()(tokens, mask, labels, label_mask), alone)
    tokens.requires_grad_()
    for empty in (
        ConditionalTransportLoss()(tokens[1:], mask[1:], labels[1:], label_mask[1:]),
        ConditionalTransportLoss()(tokens, mask, labels[:, :0]),
    ):
        empty.backward()
        assert empty.item() == 0
        assert tokens.grad is not None
        assert tokens.grad.abs().sum() == 0


def test_half_precision_is_computed_in_float32() -> None:
    tokens, mask, labels, label_mask = batch([(4, 2), (3, 1)], torch.bfloat16)
    loss = ConditionalTransportLoss(0.1)(tokens, mask, labels, label_mask)
    assert loss.dtype == torch.float32
    exact = ConditionalTransportLoss(0.1)(tokens.double(), mask, labels.double(), label_mask)
    assert loss.item() == pytest.approx(exact.item(), abs=1e-6)


def test_what_does_not_fit_is_said() -> None:
    tokens, mask, labels, _ = batch([(4, 2)])
    with pytest.raises(ValueError, match=r"tokens \(1, 4, 5\), mask \(1, 3\)"):
        ConditionalTransportLoss()(tokens, mask[:, :3], labels)
    with pytest.raises(SettingsError, match="temperature is 0"):
        ConditionalTransportLoss(0)
