from __future__ import annotations

import torch

from hf_xmc.losses import MultiLabelClusterLoss


def dense(case):
    """Two separate sums for each query, each with a one in it."""
    scores = case.queries @ case.labels.T / 0.05  # [B, C]
    terms = []
    for s, p, out, w in zip(scores, case.P, case.P | case.U | case.I, case.W, strict=True):
        if p.any():
            zero = s.new_zeros(1)
            pull = torch.cat([zero, w[p].log() - s[p]]).logsumexp(0)
            terms.append(pull + torch.cat([zero, s[~out]]).logsumexp(0))
    return torch.stack(terms).sum() / case.P.any(1).sum()


def test_same_as_dense(same_as_dense):
    same_as_dense(MultiLabelClusterLoss(), dense)
    same_as_dense(MultiLabelClusterLoss(chunk_size=4), dense)
