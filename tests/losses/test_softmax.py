from __future__ import annotations

import torch

from hf_xmc.losses import SoftmaxLoss
from hf_xmc.types import Positives


def dense(case):
    scores = case.queries @ case.labels.T / 0.05  # [B, C]
    log_softmax = scores.masked_fill(case.I, -torch.inf).log_softmax(1)
    terms = torch.where(case.P, -log_softmax * case.W, 0.0)
    return terms.sum() / case.P.any(1).sum()


def test_same_as_dense(same_as_dense):
    same_as_dense(SoftmaxLoss(), dense)
    same_as_dense(SoftmaxLoss(chunk_size=4), dense)


def test_it_is_the_cross_entropy_of_torch(case):
    batch = case(density=0.0, num_queries=2)
    positives = Positives.from_lists([[4], [9]]).torch()
    expected = torch.nn.functional.cross_entropy(batch.queries @ batch.labels.T / 0.05, torch.tensor([4, 9]))
    torch.testing.assert_close(SoftmaxLoss()(batch.queries, batch.labels, positives), expected)
