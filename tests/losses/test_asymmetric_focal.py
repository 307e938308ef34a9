from __future__ import annotations

import numpy as np
import pytest
import torch

from hf_xmc.losses import AsymmetricFocalLoss, OneVsAllLoss
from hf_xmc.losses.asymmetric_focal import co_occurrence_of
from hf_xmc.types import Positives


def dense(positive=0.0, negative=4.0, clip=0.05, counts=None, together=None):
    def value(case):
        scores = case.queries @ case.labels.T / 0.05  # [B, C]
        p, miss = scores.sigmoid(), (-scores).sigmoid()
        gamma = torch.tensor(negative)
        if counts is not None:
            gamma = negative + (1 - (counts.clamp(min=1) / counts.max()).log()) ** (1 / 3)  # [C]
        q, log_p = miss + clip, torch.nn.functional.logsigmoid(scores)
        if together is not None:  # [C, C]
            share = case.P.double() @ together / case.P.sum(1, keepdim=True).clamp(min=1)  # [B, C]
            p, log_p = p * (1 - share), log_p + (1 - share).log()
            q = torch.where(share > 0, 1.2 * q, q)
        q = q.clamp(max=1)
        log_q = q.log() if clip else torch.nn.functional.logsigmoid(-scores)
        push = -((1 - q) ** gamma) * log_q
        pull = -((1 - p) ** positive) * log_p * case.W
        left = case.I | case.U
        return torch.where(case.P, pull, torch.where(left, 0.0, push)).sum() / (~left).sum()

    return value


@pytest.mark.parametrize("options", [(0.0, 4.0, 0.05), (1.0, 2.0, 0.0), (2.0, 1.0, 0.2)])
def test_same_as_dense(same_as_dense, options):
    for chunk_size in (None, 4):
        loss = AsymmetricFocalLoss(0.05, *options, chunk_size=chunk_size)
        same_as_dense(loss, dense(*options))


def test_the_multi_focal_modifier(same_as_dense):
    random = np.random.default_rng(0)
    counts = torch.tensor(random.integers(0, 40, 23)).double()
    matrix = np.triu((random.random((23, 23)) < 0.1) * random.random((23, 23)) * 0.9, 1)
    matrix += matrix.T
    rows = [np.flatnonzero(row).tolist() for row in matrix]
    table = Positives.from_lists(rows, [row[row > 0].tolist() for row in matrix])
    together = torch.tensor(matrix.astype(np.float32)).double()
    for positive, chunk_size in ((0.0, None), (1.0, 4)):
        loss = AsymmetricFocalLoss(0.05, positive, 3.0, 0.05, counts, table, chunk_size)
        same_as_dense(loss, dense(positive, 3.0, 0.05, counts, together))
        assert not loss.can_shard


def test_without_focus_it_is_one_vs_all(case):
    batch = case(ignored=True, weighted=True)
    args = (batch.queries, batch.labels, batch.positives, None, batch.ignored)
    torch.testing.assert_close(AsymmetricFocalLoss(0.05, 0.0, 0.0, 0.0)(*args), OneVsAllLoss()(*args))


def test_another_catalogue_is_an_error(case):
    batch = case()
    loss = AsymmetricFocalLoss(label_counts=torch.ones(7))
    with pytest.raises(ValueError, match="label_counts has 7 labels, but 23 label embeddings"):
        loss(*batch.arguments)


def test_co_occurrence():
    table = co_occurrence_of(Positives.from_lists([[0, 1], [0, 2], [0], [1]]), 4)
    assert table.indptr.tolist() == [0, 2, 3, 4, 4]
    assert table.indices.tolist() == [1, 2, 0, 0]
    assert table.weights.tolist() == [0.5, 1.0, 0.5, 1.0]
