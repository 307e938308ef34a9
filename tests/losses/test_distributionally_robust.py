from __future__ import annotations

import math

import pytest
import torch

from hf_xmc.losses import DecoupledSoftmaxLoss, LabelDistributionallyRobustLoss
from hf_xmc.types import Positives


def dense(margin=0.0, alpha=None, temperature=0.05):
    """The formula of the docstring on dot products, query by query and positive by positive."""

    def value(case):
        terms = []
        dots = case.queries @ case.labels.T  # [B, C]
        for d, p, out, w in zip(dots, case.P, case.P | case.U | case.I, case.W, strict=True):
            if not p.any():
                continue
            negatives = d[~out]
            k = 1 + len(negatives)
            # one row for each positive: itself, then the negatives over its score and the margin
            rivals = torch.stack([torch.cat([s[None] * 0, negatives - s + margin]) for s in d[p]])
            t = temperature
            if alpha is not None and k > 1:
                share = (rivals.detach() / t).softmax(1)
                divergence = (share * (share * k).log().nan_to_num(neginf=0.0)).sum(1)
                t = t * (1 - (w[p] * divergence).sum() / w[p].sum() / (alpha * math.log(k)))
            losses = t * ((rivals / t).logsumexp(1) - math.log(k))
            terms.append((w[p] * losses).sum() / w[p].sum())
        return torch.stack(terms).sum() / case.P.any(1).sum()

    return value


@pytest.mark.parametrize("margin", [0.0, 0.3])
@pytest.mark.parametrize("alpha", [None, 2.0])
def test_same_as_dense(same_as_dense, margin, alpha):
    for chunk_size in (None, 4):
        same_as_dense(LabelDistributionallyRobustLoss(0.05, margin, alpha, chunk_size), dense(margin, alpha))


def test_at_margin_0_it_is_decoupled_softmax(case):
    """Times the temperature, less the mean of log K."""
    batch = case(ignored=True, weighted=True)
    args = (batch.queries, batch.labels, batch.positives, None, batch.ignored)
    ours, theirs = LabelDistributionallyRobustLoss(0.2)(*args), DecoupledSoftmaxLoss(0.2)(*args)
    log_k = (1 + (~(batch.P | batch.I)).sum(1)).double().log()
    torch.testing.assert_close(ours, 0.2 * (theirs - log_k[batch.P.any(1)].mean()), rtol=0, atol=1e-12)
    gradients = [torch.autograd.grad(value, (batch.queries, batch.labels)) for value in (ours, theirs)]
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, 0.2 * theirs, rtol=0, atol=1e-15)


def test_the_limits_of_the_temperature(case):
    """Near 0 it is the hinge to the hardest negative, at infinity the difference of the means."""
    batch = case(num_queries=1)
    dots = (batch.queries @ batch.labels.T)[0]
    positives = Positives.from_lists([[3]]).torch()
    negatives = torch.cat([dots[:3], dots[4:]])
    low = LabelDistributionallyRobustLoss(1e-6, margin=0.3)(batch.queries, batch.labels, positives)
    torch.testing.assert_close(low, (negatives.max() - dots[3] + 0.3).clamp(min=0), atol=1e-5, rtol=0)
    high = LabelDistributionallyRobustLoss(1e6, margin=0.3)(batch.queries, batch.labels, positives)
    torch.testing.assert_close(high, (negatives - dots[3] + 0.3).sum() / len(dots), atol=1e-6, rtol=0)


def test_alpha_sharpens_confident_queries():
    """Far ahead of equal negatives, a query is sure; all scores equal, it is not, and keeps the temperature."""
    labels = torch.tensor([[1.0], [0.0], [0.0], [0.0]])
    positives = Positives.from_lists([[0]]).torch()
    sure, unsure = torch.ones(1, 1) * 5, torch.zeros(1, 1)
    fixed, adaptive = (LabelDistributionallyRobustLoss(0.5, alpha=alpha) for alpha in (None, 2.0))
    assert adaptive(unsure, labels, positives) == fixed(unsure, labels, positives) == 0
    halved = LabelDistributionallyRobustLoss(0.25)(sure, labels, positives)
    torch.testing.assert_close(adaptive(sure, labels, positives), halved, rtol=1e-2, atol=0)
    mild = LabelDistributionallyRobustLoss(0.5, alpha=1e9)
    torch.testing.assert_close(mild(sure, labels, positives), fixed(sure, labels, positives))


def test_log_weights_count_in_k():
    generator = torch.Generator().manual_seed(0)
    queries, labels = (torch.randn(n, 4, generator=generator) for n in (2, 4))
    positives, ignored = Positives.from_lists([[0], [1]]).torch(), Positives.from_lists([[2], []]).torch()
    loss = LabelDistributionallyRobustLoss(0.7, margin=0.1)
    thrice = torch.cat([labels, labels[2:3], labels[2:3]])
    repeated = Positives.from_lists([[2, 4, 5], []]).torch()
    weights = torch.tensor([1.0, 1.0, 3.0, 1.0]).log()
    for pairs, same in ((None, None), (ignored, repeated)):
        found = loss(queries, labels, positives, None, pairs, log_weights=weights)
        torch.testing.assert_close(found, loss(queries, thrice, positives, None, same))


@pytest.mark.parametrize("options", [{"margin": -0.1}, {"alpha": 1.0}, {"temperature": 0.0}])
def test_impossible_options(options):
    with pytest.raises(ValueError, match=f"{next(iter(options))} is "):
        LabelDistributionallyRobustLoss(**options)
