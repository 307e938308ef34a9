from __future__ import annotations

import pytest
import torch

from hf_xmc.losses import SoftTopKLoss, soft_top_k


class Threshold(torch.autograd.Function):
    """t with sum sigmoid(alpha (s + t)) = k by 200 bisections, and dt/ds = -v / sum v.

    The k highest scores lack as much to 1 as the others have: this compares small numbers, the sum would not.
    """

    @staticmethod
    def forward(ctx, s, k, alpha):
        finite = s[s > -torch.inf].sort(descending=True).values
        low, high = -finite[0] - 40, -finite[-1] + 40
        for _ in range(200):
            t = (low + high) / 2
            x = alpha * (finite + t)
            low, high = (t, high) if x[k:].sigmoid().sum() < (-x[:k]).sigmoid().sum() else (low, t)
        z = (alpha * (s + t)).sigmoid()
        ctx.save_for_backward(z * (1 - z))
        return t

    @staticmethod
    def backward(ctx, grad):
        (v,) = ctx.saved_tensors
        return -grad * v / v.sum().clamp(min=1e-300), None, None


def dense_of(k, alpha):
    def dense(case):
        scores = (case.queries @ case.labels.T / 0.05).masked_fill(case.U | case.I, -torch.inf)  # [B, C]
        terms = [scores.masked_fill(case.U | case.I, 0.0).sum() * 0]
        for s, p, u, w in zip(scores, case.P, case.U & ~case.I, case.W, strict=True):
            rank = int((p | u).sum()) if k is None else k
            if p.any() and rank < (s > -torch.inf).sum():
                logit = alpha * (s[p] + Threshold.apply(s, rank, alpha))
                terms.append((w[p] * torch.logaddexp(torch.zeros_like(logit), -logit)).sum() / w[p].sum())
        return torch.stack(terms).sum() / case.P.any(1).sum()

    return dense


@pytest.mark.parametrize(("k", "alpha"), [(5, 2.0), (1, 2.0), (3, 0.5), (None, 2.0), (50, 2.0)])
def test_same_as_dense(same_as_dense, k, alpha):
    same_as_dense(SoftTopKLoss(k=k, alpha=alpha), dense_of(k, alpha))
    same_as_dense(SoftTopKLoss(k=k, alpha=alpha, chunk_size=4), dense_of(k, alpha))


@pytest.mark.parametrize("num_labels", [3, 4])
def test_no_more_labels_than_k_selects_all(case, num_labels):
    """At k = the number of labels and above, everything is selected: nothing is left to learn."""
    batch = case(num_labels=num_labels)
    value = SoftTopKLoss(k=4)(*batch.arguments)
    value.backward()
    assert value.item() == 0.0
    assert not batch.queries.grad.any()
    assert not batch.labels.grad.any()


@pytest.mark.parametrize(("size", "most"), [(0.1, 4), (1.0, 12), (1.7, 16), (3.0, 20)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_few_passes(case, monkeypatch, size, most, dtype):
    """Far fewer passes over the scores than the 32 bisections of the paper's code, on flat rows and on steep ones."""
    passes = []
    count = soft_top_k._selection
    monkeypatch.setattr(soft_top_k, "_selection", lambda *args: passes.append(1) or count(*args))
    for k in (1, 5, 50, None):
        batch = case(num_queries=64, num_labels=2000, dim=16, density=0.003, size=size, dtype=dtype)
        SoftTopKLoss(k=k, temperature=0.05)(*batch.arguments)
        assert 1 <= len(passes) <= most
        passes.clear()
