"""Losses that compare query embeddings with label embeddings."""

from hf_xmc.losses.decoupled import DecoupledSoftmaxLoss

__all__ = ["DecoupledSoftmaxLoss"]
