"""Sharing a trained folder: the model card, and one repository with encoder, index and label table."""

from hf_xmc.hub.card import model_card, write_model_card
from hf_xmc.hub.push import push_to_hub

__all__ = ["model_card", "push_to_hub", "write_model_card"]
