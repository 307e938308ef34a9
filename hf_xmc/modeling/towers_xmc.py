"""The towers (encoders) of a dual encoder: how they are loaded, and what must fit together."""

from __future__ import annotations

import copy
import os
from typing import Any

from transformers import AutoModel, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from .configuration_xmc import XMCDualEncoderConfig
from .errors_xmc import SettingsError
from .tokens_xmc import load_tokenizer, same_vocabulary

logger = logging.get_logger(__name__)
OFFSET_POSITIONS = ("roberta", "xlm-roberta", "camembert", "mpnet", "longformer")


def load_towers(
    name_or_folder: Any, label_encoder: Any | None, share: bool, hub: dict[str, Any], **load: Any
) -> tuple[PreTrainedModel, PreTrainedModel | None, PreTrainedTokenizerBase | None]:
    """The query tower, the label tower (`None` if shared, by default a copy), and their tokenizer.

    Args:
        hub: options for finding towers and tokenizer on the Hub.
        **load: further options for loading the towers.

    Raises:
        SettingsError: the two have different tokenizers.
    """
    query_tower = AutoModel.from_pretrained(name_or_folder, **load, **hub)
    label_tower = None if label_encoder is None else AutoModel.from_pretrained(label_encoder, **load, **hub)
    if label_tower is None and not share:
        label_tower = copy.deepcopy(query_tower)
    for tower in (query_tower, label_tower):
        if tower is not None and os.path.exists(tower.config._name_or_path):
            tower.config._name_or_path = ""  # a path on this machine is meaningless elsewhere
    tokenizer = load_tokenizer(name_or_folder, **hub)
    if label_encoder is not None and not same_vocabulary(tokenizer, load_tokenizer(label_encoder, **hub)):
        raise SettingsError(
            f"{name_or_folder} and {label_encoder} have different tokenizers; both towers need the same"
        )
    return query_tower, label_tower, tokenizer


def as_tower(encoder: Any) -> Any:
    """Make a backbone a tower: without its pooling layer, which would be unused and break distributed training, and
    without the key-value cache of decoders."""
    if getattr(encoder, "pooler", None) is not None:
        encoder.pooler = None
    if getattr(encoder.config, "use_cache", None):
        encoder.config.use_cache = False
    return encoder


def check_dimensions(config: XMCDualEncoderConfig) -> None:
    """Check that two towers produce embeddings of the same dimension.

    Raises:
        SettingsError: their hidden sizes differ, and there is no separate projection for each side.
    """
    label_config = config.label_encoder_config
    if config.encoder_config is None or label_config is None or label_config.hidden_size == config.hidden_size:
        return
    if config.projection_dim is None or config.share_projection:
        raise SettingsError(
            f"The query tower has {config.hidden_size} dimensions and the label tower {label_config.hidden_size}; "
            "give projection_dim, and leave share_projection False"
        )


def cut_lengths(config: XMCDualEncoderConfig) -> None:
    """Reduce the maximum lengths to the number of positions of the towers."""
    if config.encoder_config is None:
        return
    for side, tower in (("query", config.encoder_config), ("label", config.label_encoder_config)):
        tower = tower or config.encoder_config
        positions = getattr(tower, "max_position_embeddings", None)
        if positions is None:
            continue
        if tower.model_type in OFFSET_POSITIONS:
            positions -= tower.pad_token_id + 1  # they count positions from the padding id
        name = f"max_{side}_length"
        if getattr(config, name) > positions:
            logger.warning(f"{name} is cut from {getattr(config, name)} to {positions}, the positions of the encoder.")
            setattr(config, name, positions)
