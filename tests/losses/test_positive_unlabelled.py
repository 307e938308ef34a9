from __future__ import annotations

import math

import pytest
import torch

from hf_xmc.losses import PositiveUnlabelledLoss
from hf_xmc.types import Positives


def dense(alpha=1.0, gamma=0.55):
    """The formula of the docstring, label by label; spread and weight are taken out of the graph."""

    def value(case):
        scores = case.queries @ case.labels.T / 0.05  # [B, C]
        total = scores.sum() * 0
        for s, p, out, w in zip(scores.T, case.P.T, (case.U | case.I).T, case.W.T, strict=True):
            seen = s[~out]
            if not len(seen):
                continue
            t = (alpha * seen.detach().std()).clamp(0.01, 1) if len(seen) > 1 else 1.0
            log_mean = torch.nn.functional.logsigmoid(seen / t).logsumexp(0) - math.log(len(seen))
            total = total + (gamma * log_mean.detach()).exp() * log_mean
            if p.any():
                total = total - (w[p] * torch.nn.functional.logsigmoid(s[p] / t)).sum() / w[p].sum()
        return total / scores.shape[1]

    return value


@pytest.mark.parametrize(("alpha", "gamma"), [(1.0, 0.55), (0.02, 0.85)])
def test_same_as_dense(same_as_dense, alpha, gamma):
    for chunk_size in (None, 4):
        same_as_dense(PositiveUnlabelledLoss(0.05, alpha, gamma, chunk_size), dense(alpha, gamma))


def test_equal_scores_have_a_temperature():
    """No spread, or one query: nothing to divide by."""
    for queries in (torch.ones(3, 2), torch.ones(1, 2)):
        queries.requires_grad_()
        loss = PositiveUnlabelledLoss()
        value = loss(queries, torch.eye(2), Positives.from_lists([[0]] + [[]] * (len(queries) - 1)).torch())
        value.backward()
        assert torch.isfinite(value)
        assert torch.isfinite(queries.grad).all()


def test_a_label_is_learned_from_positives_alone():
    """The positives of a label rise and the rest falls, though no pair is called negative."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.eye(2, 8).repeat(20, 1)
    queries = torch.nn.functional.normalize(centres + 0.3 * torch.randn(40, 8, generator=generator))
    labels = torch.zeros(2, 8, requires_grad=True)
    truth = [[i % 2] for i in range(40)]
    hidden = [row if i % 4 < 2 else [] for i, row in enumerate(truth)]  # half of the pairs are missing
    loss, optimizer = PositiveUnlabelledLoss(0.2), torch.optim.Adam([labels], 0.1)
    for _ in range(100):
        optimizer.zero_grad()
        loss(queries, labels, Positives.from_lists(hidden).torch()).backward()
        optimizer.step()
    found = (queries @ labels.detach().T).argmax(1)
    assert found.tolist() == [row[0] for row in truth]


@pytest.mark.parametrize("options", [{"gamma": -0.1}, {"alpha": 0.0}])
def test_impossible_options(options):
    with pytest.raises(ValueError, match=f"{next(iter(options))} is "):
        PositiveUnlabelledLoss(**options)
