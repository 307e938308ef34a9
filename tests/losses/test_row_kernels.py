"""The GPU kernels, in Triton's interpreter where there is no GPU; skipped where Triton is not installed."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed: pip install triton, or a CUDA build of torch")

from hf_xmc.losses import DecoupledSoftmaxLoss, SoftmaxLoss, SoftTopKLoss, row_kernels, soft_top_k, streaming

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
sizes = pytest.mark.parametrize(("b", "num_labels"), [(1, 1), (3, 4096), (2, 10_001), (0, 5), (2, 0)])
types = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])


def scores_of(b: int, num_labels: int, dtype: torch.dtype) -> torch.Tensor:
    random = torch.Generator().manual_seed(0)
    scores = torch.randn(b, num_labels, generator=random, dtype=torch.float64) * 8
    scores[scores < -12] = -torch.inf
    return scores.to(DEVICE, dtype)


@sizes
@types
def test_exponentials(b, num_labels, dtype):
    scores = scores_of(b, num_labels, dtype)
    top = scores.amax(1) if num_labels else scores.new_zeros(b)
    expected = (scores - top[:, None]).exp()
    sums = row_kernels.exponentials_(scores, top)
    torch.testing.assert_close(scores, expected)
    torch.testing.assert_close(sums, expected.sum(1))


@sizes
@types
def test_selection(b, num_labels, dtype):
    scores = scores_of(b, num_labels, dtype)
    t = torch.linspace(-9, 2, b, device=DEVICE, dtype=dtype)
    z = ((scores + t[:, None]) * 2).sigmoid()
    above = scores + t[:, None] > 0
    lacking = ((-scores - t[:, None]) * 2).sigmoid()
    parts = [above, lacking * above, z.where(~above, 0), z * lacking * above, (z * lacking).where(~above, 0)]
    expected = torch.stack([part.sum(1).to(dtype) for part in parts])
    torch.testing.assert_close(row_kernels.selection(scores, t, 2.0), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "loss", [DecoupledSoftmaxLoss(), SoftmaxLoss(), SoftTopKLoss(), SoftTopKLoss(k=None)], ids=str
)
def test_losses_on_the_kernels(loss, case, monkeypatch):
    """The same value and gradients by the kernels as by torch."""
    batch = case(weighted=True, ignored=True, sampled=True)
    queries, labels = (x.detach().to(DEVICE).requires_grad_() for x in (batch.queries, batch.labels))
    pairs = [pairs.torch(DEVICE) for pairs in (batch.positives, batch.sampled, batch.ignored)]
    found = []
    for kernels in (False, True):
        for module in (streaming, soft_top_k):
            monkeypatch.setattr(module, "has_kernels", lambda scores, kernels=kernels: kernels)
        value = loss(queries, labels, *pairs)
        found.append([value, *torch.autograd.grad(value, (queries, labels))])
    for ours, expected in zip(*found, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-7, atol=1e-9)
