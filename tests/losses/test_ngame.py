"""The losses of NGAME's second stage, beside formulas written as its code has them, on whole matrices."""

from __future__ import annotations

import math

import pytest
import torch

from hf_xmc.errors import SettingsError
from hf_xmc.losses import HardestPositivesTripletLoss, ProbContrastiveLoss


def hardest_positives(case, margin=0.2, num_positives=3, num_negatives=5):
    """`TripletMarginLossOHNMMulti` of ngame 5af3826, with masks for what their batches do not have."""
    output = case.queries @ case.labels.T
    sim_p, at_p = output.where(case.P, 100.0).topk(num_positives, dim=1, largest=False)
    sim_m, at_n = output.where(~(case.P | case.U | case.I), -100.0).topk(num_negatives, dim=1)
    loss = (output.gather(1, at_n)[:, None] - output.gather(1, at_p)[:, :, None] + margin).relu()
    loss = loss * ((sim_p < 100)[:, :, None] & (sim_m > -100)[:, None])
    prob = loss.clone().masked_fill(loss == 0, -100)
    loss = prob.softmax(-1) * loss
    return loss.mean((1, 2)).sum() / case.P.any(1).sum()


def prob_contrastive(case, c=0.75, d=3.0, threshold=0.05):
    """`ProbContrastiveLoss` of ngame 70d98e3, with a mask for what takes no part."""
    output, target = case.queries @ case.labels.T, case.P
    loss = torch.where(
        target,
        case.W * (-math.log(c) + (1 - output) * d),
        -torch.log(1 - torch.exp(d * output) * c / math.exp(d)),
    )
    loss = loss / d
    left = case.I | case.U
    loss = loss.masked_fill((~target & (loss < threshold)) | left, 0.0)
    return loss.sum() / (~left).sum()


@pytest.mark.parametrize("sampled", [False, True])
@pytest.mark.parametrize("ignored", [False, True])
@pytest.mark.parametrize(
    ("loss", "dense"), [(HardestPositivesTripletLoss(), hardest_positives), (ProbContrastiveLoss(), prob_contrastive)]
)
def test_same_as_their_code(loss, dense, sampled, ignored, case) -> None:
    weighted = dense is prob_contrastive
    batch = case(weighted=weighted, sampled=sampled, ignored=ignored, density=0.3)
    value, expected = loss(*batch.arguments), dense(batch)
    torch.testing.assert_close(value, expected, rtol=1e-9, atol=1e-12)
    both = [torch.autograd.grad(x, (batch.queries, batch.labels)) for x in (value, expected)]
    torch.testing.assert_close(both[0], both[1], rtol=1e-7, atol=1e-10)


def test_easy_negatives_count_nothing(case) -> None:
    """A threshold that no negative reaches leaves the positives alone."""
    batch = case()
    far = ProbContrastiveLoss(threshold=10.0)(*batch.arguments)
    torch.testing.assert_close(far, prob_contrastive(batch, threshold=10.0))
    assert far < ProbContrastiveLoss()(*batch.arguments)


def test_shares_of_a_window_count_all_entries(case) -> None:
    batch = case(ignored=True)
    terms = ProbContrastiveLoss().num_terms(batch.positives, len(batch.labels), batch.ignored)
    assert int(terms) == int((~batch.I).sum())


def test_settings_that_are_not_possible() -> None:
    with pytest.raises(SettingsError, match="num_negatives 0"):
        HardestPositivesTripletLoss(num_negatives=0)
    with pytest.raises(SettingsError, match="between 0 and 1"):
        ProbContrastiveLoss(c=1.0)
