"""Batches at the edge of what can be learned from: value and gradients of every loss stay finite."""

from __future__ import annotations

import pytest
import torch

from hf_xmc.errors import SettingsError
from hf_xmc.losses import LOSSES, make_loss
from hf_xmc.losses.decoupled import DecoupledSoftmaxLoss
from hf_xmc.training.arguments import XMCTrainingArguments
from hf_xmc.training.rows import unit_rows
from hf_xmc.types import Positives

BATCHES = {
    "zero queries": (torch.zeros(3, 4), torch.randn(5, 4), [[0], [1, 2], [4]], None),
    "zero labels": (torch.randn(3, 4), torch.zeros(5, 4), [[0], [1, 2], [4]], None),
    "equal scores": (torch.ones(3, 4), torch.ones(5, 4), [[0], [1, 2], [4]], None),
    "huge scores": (1e4 * torch.ones(3, 4), torch.eye(4).repeat(2, 1)[:5], [[0], [1, 2], [4]], None),
    "no positives": (torch.randn(3, 4), torch.randn(5, 4), [[], [], []], None),
    "all positive": (torch.randn(2, 4), torch.randn(3, 4), [[0, 1, 2], [0, 1, 2]], None),
    "all ignored": (torch.randn(2, 4), torch.randn(3, 4), [[0], [1]], [[1, 2], [0, 2]]),
    "everything ignored": (torch.randn(2, 4), torch.randn(3, 4), [[], []], [[0, 1, 2], [0, 1, 2]]),
    "one label": (torch.randn(2, 4), torch.randn(1, 4), [[0], []], None),
    "no queries": (torch.randn(0, 4), torch.randn(3, 4), [], None),
}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("batch", BATCHES)
def test_value_and_gradients_are_finite(name: str, batch: str) -> None:
    torch.manual_seed(0)
    queries, labels, positives, ignored = BATCHES[batch]
    if name == "prob_contrastive":  # which is for unit vectors
        queries, labels = (torch.nn.functional.normalize(x) for x in (queries, labels))
    loss = make_loss(XMCTrainingArguments("unused", loss=name, report_to="none"), temperature=0.05)
    x, y = queries.clone().requires_grad_(), labels.clone().requires_grad_()
    left_out = None if ignored is None else Positives.from_lists(ignored).torch()
    value = loss(x, y, Positives.from_lists(positives).torch(), ignored=left_out)
    value.backward()
    for found in (value, x.grad, y.grad):
        assert found is None or torch.isfinite(found).all()


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan"), float("inf")])
def test_temperature_is_a_number_above_zero(temperature: float) -> None:
    with pytest.raises(SettingsError, match="must be a number above 0"):
        DecoupledSoftmaxLoss(temperature)


def test_the_gradient_of_a_zero_row_is_zero() -> None:
    rows = torch.tensor([[0.0, 0.0], [3.0, 4.0]], requires_grad=True)
    unit_rows(rows).backward(torch.ones(2, 2))
    assert rows.grad is not None
    assert rows.grad[0].tolist() == [0, 0]
    assert rows.grad.abs().max() < 1
