"""The dual encoder. Self-contained: its files are what is published as custom code on the Hub.

The classes load on first use: some modules of this folder need neither torch nor transformers.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .registered import LabelHead as LabelHead
    from .registered import XMCDualEncoderConfig as XMCDualEncoderConfig
    from .registered import XMCDualEncoderModel as XMCDualEncoderModel
    from .registered import XMCDualEncoderOutput as XMCDualEncoderOutput
    from .registered import catalogue_fingerprint as catalogue_fingerprint

__all__ = [
    "LabelHead",
    "XMCDualEncoderConfig",
    "XMCDualEncoderModel",
    "XMCDualEncoderOutput",
    "catalogue_fingerprint",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.registered"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
