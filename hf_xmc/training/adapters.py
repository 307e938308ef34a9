"""LoRA and its relatives, through peft: adapters around the towers, and the plain model back out of them."""

from __future__ import annotations

import copy
import re
from typing import Any, cast

from torch import nn

from hf_xmc.errors import SettingsError
from hf_xmc.modeling import XMCDualEncoderModel


def with_adapters(model: XMCDualEncoderModel, config: Any) -> XMCDualEncoderModel:
    """Freeze a dual encoder and put adapters on it, in place; a `peft.PeftModel` around it is returned.

    Where the configuration (a `peft.PeftConfig`) leaves them open, adapters go on all linear layers of the towers (as
    QLoRA, Dettmers et al. 2023, advises), and projections are trained in full.

    Raises:
        SettingsError: the method cannot be merged into the weights (as prompts), so that training would give no plain
            model.
    """
    from peft import get_peft_model

    if config.is_prompt_learning:
        raise SettingsError(
            f"{config.peft_type} cannot be merged into the weights; use LoRA or another kind of adapter."
        )
    config = copy.copy(config)
    if getattr(config, "target_modules", None) in (None, "all-linear"):
        config.target_modules = all_linear(model)
    projections = [name for name in ("query_projection", "label_projection") if getattr(model, name) is not None]
    if projections and getattr(config, "modules_to_save", None) is None:
        config.modules_to_save = projections
    # A PeftModel hands on every attribute of the model in it.
    return cast(XMCDualEncoderModel, get_peft_model(cast(Any, model), config))


def has_adapters(model: Any) -> bool:
    """Whether this is a `peft.PeftModel`."""
    return hasattr(model, "peft_config") and hasattr(model, "get_base_model")


def plain_model(model: Any) -> XMCDualEncoderModel:
    """The dual encoder itself, also where adapters are around it."""
    return cast(XMCDualEncoderModel, model.get_base_model() if has_adapters(model) else model)


def merged(model: Any) -> XMCDualEncoderModel:
    """A copy with the adapters added into the weights: a plain dual encoder, which loads without peft.

    A copy, for merging and taking out again would round the weights that are still in training.
    """
    return cast(XMCDualEncoderModel, copy.deepcopy(model).merge_and_unload())


def all_linear(model: XMCDualEncoderModel) -> str:
    """A pattern for the linear layers of the towers, as peft matches it against whole names."""
    towers = {"query_encoder": model.query_encoder, "label_encoder": model.label_encoder}
    names = {
        re.escape(name.rsplit(".", 1)[-1])
        for tower in towers.values()
        if tower is not None
        for name, module in tower.named_modules()
        if isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"  # GPT-2's linear layer
    }
    return rf"(query_encoder|label_encoder)\.(.*\.)?({'|'.join(sorted(names))})"
