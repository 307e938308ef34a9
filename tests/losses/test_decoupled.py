from __future__ import annotations

import torch

from hf_xmc.losses import DecoupledSoftmaxLoss, SoftmaxLoss
from hf_xmc.types import Positives


def dense(case):
    """Each positive against the negatives, by the formula."""
    scores = case.queries @ case.labels.T / 0.05  # [B, C]
    terms = []
    for s, p, out, w in zip(scores, case.P, case.P | case.U | case.I, case.W, strict=True):
        rivals = torch.cat([s[p][:, None], s[~out].expand(int(p.sum()), -1)], 1)  # [|P_b|, 1 + negatives]
        term = rivals.logsumexp(1) - s[p]
        terms.append((w[p] * term).sum() / w[p].sum() if p.any() else s.sum() * 0)
    return torch.stack(terms).sum() / case.P.any(1).sum()


def test_same_as_dense(same_as_dense):
    same_as_dense(DecoupledSoftmaxLoss(), dense)
    same_as_dense(DecoupledSoftmaxLoss(chunk_size=4), dense)


def test_with_one_positive_a_query_it_is_softmax(case):
    batch = case(density=0.0, num_labels=12)

    one = batch.P & (batch.P.cumsum(1) == 1)
    positives = Positives.from_lists([row.nonzero()[:, 0].tolist() for row in one]).torch()
    args = (batch.queries, batch.labels, positives)
    torch.testing.assert_close(DecoupledSoftmaxLoss()(*args), SoftmaxLoss()(*args))


def test_a_positive_far_ahead_or_far_behind(case):
    """Margins at which exp overflows or a positive's share underflows."""
    queries = torch.tensor([[1.0], [1.0]], dtype=torch.float32, requires_grad=True)
    labels = torch.tensor([[500.0], [-500.0], [0.0]], dtype=torch.float32, requires_grad=True)
    loss = DecoupledSoftmaxLoss(temperature=1.0)
    value = loss(queries, labels, Positives.from_lists([[0], [1]]).torch())
    value.backward()
    assert value.item() == 500.0  # (0 + 1000) / 2
    torch.testing.assert_close(labels.grad, torch.tensor([[0.5], [-0.5], [0.0]]))
    torch.testing.assert_close(queries.grad, torch.tensor([[0.0], [500.0]]))
