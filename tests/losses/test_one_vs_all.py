from __future__ import annotations

import torch

from hf_xmc.losses import OneVsAllLoss


def dense(case):
    scores = case.queries @ case.labels.T / 0.05  # [B, C]
    zero = scores.new_zeros(())
    entries = torch.where(case.P, case.W * torch.logaddexp(zero, -scores), torch.logaddexp(zero, scores))
    left = case.I | case.U
    return torch.where(left, 0.0, entries).sum() / (~left).sum()


def test_same_as_dense(same_as_dense):
    same_as_dense(OneVsAllLoss(), dense)
    same_as_dense(OneVsAllLoss(chunk_size=4), dense)
