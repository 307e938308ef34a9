"""Losses that compare query embeddings with label embeddings."""

from typing import Any

from hf_xmc.losses.asymmetric_focal import AsymmetricFocalLoss
from hf_xmc.losses.bags import PassagePooling, QueryBags
from hf_xmc.losses.cluster import MultiLabelClusterLoss
from hf_xmc.losses.conditional_transport import ConditionalTransportLoss
from hf_xmc.losses.decoupled import DecoupledSoftmaxLoss
from hf_xmc.losses.distributionally_robust import LabelDistributionallyRobustLoss
from hf_xmc.losses.loss import Loss, as_loss
from hf_xmc.losses.one_vs_all import OneVsAllLoss
from hf_xmc.losses.positive_unlabelled import PositiveUnlabelledLoss
from hf_xmc.losses.prob_contrastive import ProbContrastiveLoss
from hf_xmc.losses.soft_top_k import SoftTopKLoss
from hf_xmc.losses.softmax import SoftmaxLoss
from hf_xmc.losses.triplet import TripletMarginLoss
from hf_xmc.losses.triplet_hardest import HardestPositivesTripletLoss

# The losses that `--loss` knows, in the order of its help text. A new one is its own file and its lines here. Those
# that do not pay (docs/experiments.md) are for `XMCTrainer(..., loss=...)` alone.
LOSSES: dict[str, type[Loss]] = {
    loss.name: loss
    for loss in (
        DecoupledSoftmaxLoss,
        SoftTopKLoss,
        SoftmaxLoss,
        OneVsAllLoss,
        TripletMarginLoss,
        HardestPositivesTripletLoss,
        ProbContrastiveLoss,
        LabelDistributionallyRobustLoss,
    )
}


def make_loss(arguments: Any, temperature: float) -> Loss:
    """The loss that `arguments.loss` names, with its options from [`XMCTrainingArguments`]."""
    return LOSSES[arguments.loss].from_arguments(arguments, temperature)


__all__ = [
    "LOSSES",
    "AsymmetricFocalLoss",
    "ConditionalTransportLoss",
    "DecoupledSoftmaxLoss",
    "HardestPositivesTripletLoss",
    "LabelDistributionallyRobustLoss",
    "Loss",
    "MultiLabelClusterLoss",
    "OneVsAllLoss",
    "PassagePooling",
    "PositiveUnlabelledLoss",
    "ProbContrastiveLoss",
    "QueryBags",
    "SoftTopKLoss",
    "SoftmaxLoss",
    "TripletMarginLoss",
    "as_loss",
    "make_loss",
]
