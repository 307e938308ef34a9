"""From the arguments to a loss."""

from __future__ import annotations

from torch import nn

from hf_xmc.losses import DecoupledSoftmaxLoss, OneVsAllLoss, SoftmaxLoss, SoftTopKLoss, TripletMarginLoss
from hf_xmc.training.arguments import XMCTrainingArguments


def make_loss(args: XMCTrainingArguments, temperature: float) -> nn.Module:
    """The loss that the arguments name."""
    if args.loss == "soft_top_k":
        return SoftTopKLoss(temperature, k=args.soft_top_k or None)
    if args.loss == "triplet_margin":
        return TripletMarginLoss(num_negatives=args.num_hard_negatives)  # on raw dot products, without a temperature
    classes = {"decoupled_softmax": DecoupledSoftmaxLoss, "softmax": SoftmaxLoss, "one_vs_all": OneVsAllLoss}
    return classes[args.loss](temperature)
