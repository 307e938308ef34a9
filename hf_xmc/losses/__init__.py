"""Losses that compare query embeddings with label embeddings."""

from hf_xmc.losses.decoupled import DecoupledSoftmaxLoss
from hf_xmc.losses.one_vs_all import OneVsAllLoss
from hf_xmc.losses.soft_top_k import SoftTopKLoss
from hf_xmc.losses.softmax import SoftmaxLoss
from hf_xmc.losses.triplet import TripletMarginLoss

__all__ = ["DecoupledSoftmaxLoss", "OneVsAllLoss", "SoftTopKLoss", "SoftmaxLoss", "TripletMarginLoss"]
