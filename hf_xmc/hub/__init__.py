"""Sharing a trained folder: the model card, and one repository with encoder, index and label table.

The functions load on first use: to read a folder, nothing is needed that cards and the Hub need.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hf_xmc.hub.card import model_card as model_card
    from hf_xmc.hub.card import write_model_card as write_model_card
    from hf_xmc.hub.folder import files_to_push as files_to_push
    from hf_xmc.hub.folder import load_parts as load_parts
    from hf_xmc.hub.folder import refresh as refresh
    from hf_xmc.hub.folder import save_parts as save_parts
    from hf_xmc.hub.push import push_to_hub as push_to_hub

_PUBLIC = {
    "files_to_push": "folder",
    "load_parts": "folder",
    "model_card": "card",
    "push_to_hub": "push",
    "refresh": "folder",
    "save_parts": "folder",
    "write_model_card": "card",
}
__all__ = ["files_to_push", "load_parts", "model_card", "push_to_hub", "refresh", "save_parts", "write_model_card"]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_PUBLIC[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})
