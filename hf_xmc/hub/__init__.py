"""Sharing a trained folder: the model card, and one repository with encoder, index and label table."""

from hf_xmc.hub.card import model_card, write_model_card
from hf_xmc.hub.folder import files_to_push, load_parts, refresh, save_parts
from hf_xmc.hub.push import push_to_hub

__all__ = ["files_to_push", "load_parts", "model_card", "push_to_hub", "refresh", "save_parts", "write_model_card"]
