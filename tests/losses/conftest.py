"""Batches that every loss must get right, and the comparison with a dense reference on them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch

from hf_xmc.types import Positives


@dataclass
class Case:
    """A batch in two forms: as the losses take it, and as dense matrices `[B, C]` for the references."""

    queries: torch.Tensor
    labels: torch.Tensor
    positives: Positives
    sampled: Positives | None
    ignored: Positives | None
    P: torch.Tensor  # True at positives that the loss runs over
    U: torch.Tensor  # True at positives that were not sampled
    I: torch.Tensor
    W: torch.Tensor  # weights

    @property
    def arguments(self) -> tuple:
        return self.queries, self.labels, self.positives, self.sampled, self.ignored


def make_case(
    num_queries: int = 9,
    num_labels: int = 23,
    dim: int = 6,
    density: float = 0.15,
    weighted: bool = False,
    sampled: bool = False,
    ignored: bool = False,
    size: float = 1.0,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
) -> Case:
    """Random embeddings of length `size`; row 1 has no positive, row 2 has all, row 0 has the last label."""
    random = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.rand(*shape, generator=random, dtype=torch.float64)  # noqa: E731
    queries, labels = (
        torch.nn.functional.normalize(draw(n, dim) - 0.5).mul(size).to(dtype).requires_grad_()
        for n in (num_queries, num_labels)
    )
    shape = (num_queries, num_labels)
    truth = draw(*shape) < density
    truth[0, -1] = True
    truth[1:2], truth[2:3] = False, True
    weight = (draw(*shape) * 2).float() if weighted else torch.ones(shape)
    left = truth & (draw(*shape) < 0.4) if sampled else torch.zeros(shape, dtype=torch.bool)
    unknown = draw(*shape) < 0.2 if ignored else torch.zeros(shape, dtype=torch.bool)
    return Case(
        queries,
        labels,
        csr(truth, weight if weighted else None),
        csr(truth & ~left) if sampled else None,
        csr(unknown) if ignored else None,
        truth & ~left & ~unknown,
        left,
        unknown,
        weight.double(),
    )


def csr(mask: torch.Tensor, weight: torch.Tensor | None = None) -> Positives:
    rows = [row.nonzero()[:, 0].tolist() for row in mask]
    weights = None if weight is None else [weight[i, ids].tolist() for i, ids in enumerate(rows)]
    return Positives.from_lists(rows, weights).torch()


def gradients(value: torch.Tensor, case: Case) -> tuple[torch.Tensor, torch.Tensor]:
    d_queries, d_labels = torch.autograd.grad(value * 3, (case.queries, case.labels))
    return d_queries, d_labels


@pytest.fixture
def same_as_dense() -> Callable[..., None]:
    """Compare a loss with its dense reference on all kinds of batches: value and both gradients."""

    def compare(
        loss: torch.nn.Module, dense: Callable[[Case], torch.Tensor], sampled: bool = True, **sizes: int
    ) -> None:
        kinds = [{}, {"weighted": True}, {"ignored": True}, {"num_queries": 1}, {"size": 25.0}]
        kinds += [{"weighted": True, "ignored": True, "density": 0.6}, {"size": 3.0, "density": 0.02}]
        if sampled:
            kinds += [{"sampled": True}, {"sampled": True, "ignored": True, "weighted": True}]
        for seed, kind in enumerate(kinds):
            case = make_case(seed=seed, **{**sizes, **kind})
            value, expected = loss(*case.arguments), dense(case)
            assert torch.isfinite(value)
            torch.testing.assert_close(value, expected, rtol=1e-9, atol=1e-9, msg=lambda m, k=kind: f"{k}: {m}")
            for ours, theirs in zip(gradients(value, case), gradients(expected, case), strict=True):
                torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-8, msg=lambda m, k=kind: f"{k}: {m}")

    return compare


@pytest.fixture
def case() -> Callable[..., Case]:
    return make_case
