"""The losses reproduce the stored values, which independent code computed: value and both gradients."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from hf_xmc.losses import DecoupledSoftmaxLoss, OneVsAllLoss, SoftmaxLoss, SoftTopKLoss, TripletMarginLoss
from hf_xmc.types import Positives

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "losses_a.npz")
ALL = ["softmax", "softmax_sampled1", "decoupled", "decoupled_sampled1", "decoupled_sampled2"]
ALL += ["topk5", "topk5_sampled5", "topk_numpos", "bce"]
TRIPLETS = ["triplet_inbatch", "triplet_inbatch_detached_weights", "triplet_inbatch_unweighted"]


def from_mask(mask: np.ndarray) -> Positives:
    return Positives.from_lists([np.flatnonzero(row).tolist() for row in mask]).torch()


def run(name: str, dtype: torch.dtype, chunk_size: int | None = None) -> tuple[float, np.ndarray, np.ndarray]:
    """Value, d queries and d labels of one of the stored losses."""
    queries = torch.tensor(GOLDEN["x"], dtype=dtype, requires_grad=True)  # [16, 24]
    labels = torch.tensor(GOLDEN["y"], dtype=dtype, requires_grad=True)  # [101, 24]
    settings = {"temperature": float(GOLDEN["tau"]), "chunk_size": chunk_size}
    positives, sampled = Positives(GOLDEN["pos_indptr"], GOLDEN["pos_indices"]).torch(), None
    if "_sampled" in name:
        sampled = from_mask(GOLDEN[f"sampled{name[-1]}_mask"])
    if name.startswith("triplet"):
        loss = TripletMarginLoss(
            margin=float(GOLDEN["margin"]),
            weight_temperature=None if name.endswith("unweighted") else 0.1,
            detach_weights=name.endswith("detached_weights"),
        )
        pool = torch.tensor(GOLDEN["pool_labels"]).long()  # column j holds the label that was sampled for row j
        paired = Positives.from_lists([[i] for i in range(len(pool))]).torch()
        value = loss(queries, labels[pool], from_mask(GOLDEN["pool_target"]), paired)
    else:
        losses = {
            "softmax": lambda: SoftmaxLoss(**settings),
            "decoupled": lambda: DecoupledSoftmaxLoss(**settings),
            "topk5": lambda: SoftTopKLoss(k=5, alpha=float(GOLDEN["alpha"]), **settings),
            "topk_numpos": lambda: SoftTopKLoss(k=None, alpha=float(GOLDEN["alpha"]), **settings),
            "bce": lambda: OneVsAllLoss(**settings),
        }
        value = losses[name.split("_sampled")[0]]()(queries, labels, positives, sampled)
    value.backward()
    assert queries.grad is not None
    assert labels.grad is not None
    return value.item(), queries.grad.numpy(), labels.grad.numpy()


@pytest.mark.parametrize("name", ALL + TRIPLETS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_golden(name: str, dtype: torch.dtype) -> None:
    tolerance = 1e-5 if dtype == torch.float32 else 1e-8 if "topk" in name else 1e-9
    value, d_queries, d_labels = run(name, dtype)
    assert value == pytest.approx(float(GOLDEN[f"{name}_value"]), abs=tolerance, rel=tolerance)
    np.testing.assert_allclose(d_queries, GOLDEN[f"{name}_dx"], rtol=0, atol=tolerance)
    np.testing.assert_allclose(d_labels, GOLDEN[f"{name}_dy"], rtol=0, atol=tolerance)


@pytest.mark.parametrize("name", ALL)
def test_every_chunk_size_gives_the_same(name: str) -> None:
    whole = run(name, torch.float64)
    for chunk_size in (1, 7, 20, 50, 100, 101, 1000):
        for part, expected in zip(run(name, torch.float64, chunk_size), whole, strict=True):
            np.testing.assert_allclose(part, expected, rtol=0, atol=1e-12)
