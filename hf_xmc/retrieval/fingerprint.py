"""Fingerprints of an encoder and its label head, so that embeddings of two models are never mixed."""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING, Any

from hf_xmc.modeling.settings_xmc import EMBEDDING_SETTINGS, STATIC_SETTINGS

if TYPE_CHECKING:
    from torch import Tensor, nn

WHOLE = 2**20  # numbers of a tensor that are read; of a larger one about as many, evenly spaced
# Settings of a backbone that its embeddings depend on beside its weights; the order is fixed.
BACKBONE_SETTINGS = (
    *("model_type", "hidden_act", "hidden_activation", "activation_function", "layer_norm_eps", "layer_norm_epsilon"),
    *("rms_norm_eps", "norm_eps", "num_attention_heads", "num_heads", "num_key_value_heads"),
)


def encoder_fingerprint(model: nn.Module) -> str:
    """A fingerprint of a model's weights and settings: the same on every device, after save and load, and when it is
    loaded in bfloat16 or half precision (`same_encoder` compares).

    >>> from torch import nn
    >>> layer = nn.Linear(3, 2)
    >>> same_encoder(encoder_fingerprint(layer), encoder_fingerprint(layer.half()))
    True
    >>> same_encoder(encoder_fingerprint(layer), encoder_fingerprint(nn.Linear(3, 2)))
    False
    """
    own = getattr(model, "encoder_fingerprint", None)
    if own is not None:  # no torch module
        return own()
    import torch

    config: Any = getattr(model, "config", None)
    names = EMBEDDING_SETTINGS if getattr(config, "static_dim", None) is None else EMBEDDING_SETTINGS + STATIC_SETTINGS
    settings = repr([(name, getattr(config, name, None)) for name in names]).encode()
    digests = [blake2b(settings, digest_size=12), blake2b(settings, digest_size=12)]
    for name, tensor in sorted(model.state_dict().items()):
        part = tensor.detach().flatten()[:: max(tensor.numel() // WHOLE, 1)]
        for digest, dtype in zip(digests, (torch.bfloat16, torch.float16), strict=True):
            digest.update(f"{name} {tuple(tensor.shape)}".encode())
            digest.update(as_bytes(part.to(dtype) if part.is_floating_point() else part))
    parts = [digest.hexdigest() for digest in digests]
    backbones = [getattr(config, name, None) for name in ("encoder_config", "label_encoder_config")]
    if backbones[0] is not None:
        used = [[(name, getattr(one, name, None)) for name in BACKBONE_SETTINGS] for one in backbones]
        parts.append(blake2b(repr(used).encode(), digest_size=6).hexdigest())
    return "-".join(parts)


def head_fingerprint(model: nn.Module) -> str | None:
    """A fingerprint of a model's per-label vectors and of how they are used; None if it has none."""
    own = getattr(model, "head_fingerprint", None)
    if own is not None:
        return own()
    head: Any = getattr(model, "label_head", None)
    return None if head is None else head.fingerprint()


def same_encoder(one: str | None, other: str | None) -> bool:
    """Whether two fingerprints may belong to the same encoder: they agree after rounding to bfloat16 or to half
    precision, and in the settings of the backbone, which those of version 0.1 do not have; or one of them is unknown.
    """
    if one is None or other is None:
        return True
    a, b = one.split("-"), other.split("-")
    return any(x == y for x, y in zip(a[:2], b[:2], strict=False)) and (a[2:] == b[2:] or not (a[2:] and b[2:]))


def as_bytes(tensor: Tensor) -> bytes:
    import torch

    return tensor.cpu().contiguous().view(torch.uint8).numpy().tobytes()
