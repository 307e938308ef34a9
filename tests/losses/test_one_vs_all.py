from __future__ import annotations

import pytest
import torch

from hf_xmc.losses import OneVsAllLoss


def dense(case):
    scores = case.queries @ case.labels.T / 0.05  # [B, C]
    zero = scores.new_zeros(())
    entries = torch.where(case.P, case.W * torch.logaddexp(zero, -scores), torch.logaddexp(zero, scores))
    return torch.where(case.I, 0.0, entries).sum() / (~case.I).sum()


def test_same_as_dense(same_as_dense):
    same_as_dense(OneVsAllLoss(), dense, sampled=False)
    same_as_dense(OneVsAllLoss(chunk_size=4), dense, sampled=False)


def test_it_takes_no_sampled_positives(case):
    batch = case(sampled=True)
    with pytest.raises(ValueError, match="takes no sampled"):
        OneVsAllLoss()(*batch.arguments)
