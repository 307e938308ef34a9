"""The encoders and the tokenizer that a dual encoder is made of: what must fit together, and how they are loaded."""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from typing import Any

from transformers import AutoModel, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from .configuration_xmc import XMCDualEncoderConfig

logger = logging.get_logger(__name__)
OFFSET_POSITIONS = ("roberta", "xlm-roberta", "camembert", "mpnet", "longformer")


def load_towers(
    name_or_folder: Any, label_encoder: Any | None, share: bool, **load: Any
) -> tuple[PreTrainedModel, PreTrainedModel | None]:
    """The towers of both sides, the second `None` where they share one and a copy where there is no other."""
    query_tower = AutoModel.from_pretrained(name_or_folder, **load)
    label_tower = None if label_encoder is None else AutoModel.from_pretrained(label_encoder, **load)
    if label_tower is None and not share:
        label_tower = copy.deepcopy(query_tower)
    for tower in (query_tower, label_tower):
        if tower is not None and os.path.exists(tower.config._name_or_path):
            tower.config._name_or_path = ""  # a path of this machine says nothing elsewhere
    return query_tower, label_tower


def as_tower(encoder: Any) -> Any:
    """Make a backbone a tower: no pooling layer, which some add and which, unused, breaks distributed runs; and no
    cache of keys and values, which decoders keep to go on writing."""
    if getattr(encoder, "pooler", None) is not None:
        encoder.pooler = None
    if getattr(encoder.config, "use_cache", None):
        encoder.config.use_cache = False
    return encoder


def end_token(tokenizer: PreTrainedTokenizerBase, pooling: str) -> int | None:
    """The token to put after each text: the end token, where the last token is what is pooled and the tokenizer ends
    texts with none of its own (as for E5-Mistral; Qwen3-Embedding's tokenizer adds one)."""
    if pooling != "last" or tokenizer.eos_token_id is None:
        return None
    ids = tokenizer("a")["input_ids"]
    return None if ids and ids[-1] in tokenizer.all_special_ids else tokenizer.eos_token_id


def check_dimensions(config: XMCDualEncoderConfig) -> None:
    """Two towers must end in one space.

    Raises:
        ValueError: their sizes differ, and no projection of each side's own brings them together.
    """
    label_config = config.label_encoder_config
    if label_config is None or label_config.hidden_size == config.hidden_size:
        return
    if config.projection_dim is None or config.share_projection:
        raise ValueError(
            f"The query tower has {config.hidden_size} dimensions and the label tower {label_config.hidden_size}; "
            "give projection_dim, and leave share_projection False."
        )


def cut_lengths(config: XMCDualEncoderConfig) -> None:
    """Cut the lengths in tokens to what the towers have positions for."""
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


def same_vocabulary(one: PreTrainedTokenizerBase | None, other: PreTrainedTokenizerBase | None) -> bool:
    """Whether two tokenizers give the same ids to the same tokens."""
    return one is not None and other is not None and one.get_vocab() == other.get_vocab()


def load_tokenizer(name_or_folder: Any, **options: Any) -> PreTrainedTokenizerBase | None:
    """The tokenizer beside a model; decoders without a padding token pad with their end token."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(name_or_folder, **options)
    except (OSError, ValueError):
        return None  # a checkpoint without tokenizer files: tokenize() says what to do
    if len(tokenizer) <= len(set(tokenizer.all_special_ids)):
        return None  # no vocabulary: what is made up where the files are missing
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def as_list(texts: Sequence[str]) -> list[str]:
    """A list of texts; a single string is most likely a mistake, since it would be taken letter by letter."""
    if isinstance(texts, str):
        raise TypeError(f"Found one string, expected a list of texts; pass [{texts[:40]!r}].")
    return list(texts)
