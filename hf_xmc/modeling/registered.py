"""The classes of the dual encoder, registered with transformers.

`AutoModel.from_pretrained` works once hf_xmc is imported, and without it with `trust_remote_code=True`, for which
`save_pretrained` copies files of this folder next to the weights.
"""

from transformers import AutoConfig, AutoModel

from .configuration_xmc import XMCDualEncoderConfig
from .label_head_xmc import LabelHead, catalogue_fingerprint
from .modeling_xmc import XMCDualEncoderModel, XMCDualEncoderOutput

__all__ = [
    "LabelHead",
    "XMCDualEncoderConfig",
    "XMCDualEncoderModel",
    "XMCDualEncoderOutput",
    "catalogue_fingerprint",
]

AutoConfig.register("xmc_dual_encoder", XMCDualEncoderConfig)
AutoModel.register(XMCDualEncoderConfig, XMCDualEncoderModel)
XMCDualEncoderConfig.register_for_auto_class()
XMCDualEncoderModel.register_for_auto_class("AutoModel")
