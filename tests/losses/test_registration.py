"""A loss is found by its name, with what the training arguments say of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from hf_xmc import Positives, XMCTrainingArguments
from hf_xmc.errors import SettingsError
from hf_xmc.losses import LOSSES, Loss, SoftTopKLoss, TripletMarginLoss, as_loss, make_loss

RAW = ("triplet_margin", "triplet_hardest", "prob_contrastive")  # on dot products without a temperature


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_is_found_by_its_name(name: str, tmp_path: Path) -> None:
    loss = make_loss(XMCTrainingArguments(str(tmp_path), loss=name), temperature=0.2)
    assert loss.name == name
    assert loss.summary in XMCTrainingArguments.__dataclass_fields__["loss"].metadata["help"]
    assert name in RAW or loss.temperature == 0.2
    assert as_loss(loss) is loss


def test_options_of_a_loss(tmp_path: Path) -> None:
    top_k = make_loss(XMCTrainingArguments(str(tmp_path), loss="soft_top_k", soft_top_k=0), 0.1)
    assert isinstance(top_k, SoftTopKLoss)
    assert top_k.k is None
    options = {"loss": "soft_top_k", "soft_top_k_alpha": 0.5}
    assert make_loss(XMCTrainingArguments(str(tmp_path), **options), 0.1).alpha == 0.5
    options = {"num_hard_negatives": 7, "triplet_margin": 0.2, "triplet_temperature": 0.3}
    triplet = make_loss(XMCTrainingArguments(str(tmp_path), loss="triplet_margin", **options), 0.1)
    assert isinstance(triplet, TripletMarginLoss)
    assert (triplet.num_negatives, triplet.temperature) == (7, 1.0)
    assert (triplet.margin, triplet.weight_temperature) == (0.2, 0.3)
    unweighted = make_loss(XMCTrainingArguments(str(tmp_path), loss="triplet_margin", triplet_temperature=0), 0.1)
    assert unweighted.weight_temperature is None
    hardest = make_loss(XMCTrainingArguments(str(tmp_path), loss="triplet_hardest", **options), 0.1)
    assert (hardest.margin, hardest.num_positives, hardest.num_negatives) == (0.2, 3, 7)
    clipped = XMCTrainingArguments(str(tmp_path), loss="prob_contrastive", prob_contrastive_threshold=0.1)
    assert make_loss(clipped, 0.1).threshold == 0.1
    with pytest.raises(SettingsError, match="triplet_margin is -1"):
        XMCTrainingArguments(str(tmp_path), triplet_margin=-1)


class Pull(Loss):
    """A loss of a user's own, with the defaults of `Loss`."""

    name = "pull"
    summary = "a test"

    def forward(
        self,
        queries: Tensor,
        labels: Tensor,
        positives: Positives,
        sampled: Positives | None = None,
        ignored: Positives | None = None,
    ) -> Tensor:
        return -(queries[positives.rows] * labels[positives.indices]).sum() / self.temperature


def test_a_new_loss_is_one_class_and_one_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LOSSES, Pull.name, Pull)
    arguments = XMCTrainingArguments(str(tmp_path), loss="pull")
    loss = make_loss(arguments, temperature=0.5)
    positives = Positives.from_lists([[0], [], [1]]).torch()
    assert loss(torch.ones(3, 2), torch.ones(2, 2), positives).item() == -8
    assert loss.num_terms(positives, 2).item() == 2
    loss.shard(None)
    assert not loss.sharded


def test_a_module_is_given_what_it_takes() -> None:
    class Plain(nn.Module):
        def forward(self, queries: Tensor, labels: Tensor, positives: Positives) -> Tensor:
            return queries.sum()

    loss = as_loss(Plain())
    assert loss(torch.ones(1, 2), torch.ones(1, 2), Positives.from_lists([[0]]).torch()).item() == 2
    assert not loss.can_shard
    assert not loss.score_is_log_weight


def test_losses_and_models_have_one_default_temperature() -> None:
    """The modeling folder is published by itself, so it cannot import the constant of the losses."""
    from hf_xmc.losses.loss import TEMPERATURE
    from hf_xmc.modeling import XMCDualEncoderConfig

    assert XMCDualEncoderConfig.temperature == TEMPERATURE == LOSSES["softmax"]().temperature


def test_log_weights_count_labels_several_times() -> None:
    """A label of log weight log 3 counts as three labels, in value and gradient."""
    generator = torch.Generator().manual_seed(0)
    queries, labels = (torch.randn(n, 4, generator=generator) for n in (2, 3))
    positives = Positives.from_lists([[0], [1]]).torch()
    for name in ("decoupled_softmax", "softmax"):
        loss = LOSSES[name](temperature=1.0)
        thrice = torch.cat([labels, labels[2:], labels[2:]]).requires_grad_()
        one = labels.clone().requires_grad_()
        expected = loss(queries, thrice, positives)
        found = loss(queries, one, positives, log_weights=torch.tensor([1.0, 1.0, 3.0]).log())
        torch.testing.assert_close(found, expected)
        expected.backward()
        found.backward()
        assert one.grad is not None
        assert thrice.grad is not None
        torch.testing.assert_close(one.grad[2], thrice.grad[2:].sum(0))
