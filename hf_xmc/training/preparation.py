"""What is done to a model before it is trained, and what its texts are tokenised by."""

from __future__ import annotations

from typing import Any

from torch import nn

from hf_xmc.data.tokenized import tokenizer_key
from hf_xmc.modeling import XMCDualEncoderModel
from hf_xmc.training.adapters import has_adapters, with_adapters
from hf_xmc.training.arguments import XMCTrainingArguments


def prepare(model: XMCDualEncoderModel, args: XMCTrainingArguments, peft_config: Any) -> XMCDualEncoderModel:
    """Make a model ready for training: dropout as the arguments say, adapters if there are any."""
    check_trainable(model, args)
    if args.freeze_encoder and (peft_config is not None or has_adapters(model)):
        raise ValueError("freeze_encoder leaves adapters nothing to do; leave out one of the two.")
    if args.disable_dropout:
        disable_dropout(model)
    return model if peft_config is None else with_adapters(model, peft_config)


def check_trainable(model: XMCDualEncoderModel, args: XMCTrainingArguments) -> None:
    """Refuse a run that would train nothing."""
    if args.freeze_encoder and model.query_projection is None:
        raise ValueError(
            "freeze_encoder leaves nothing to train: the model has no projection. "
            "Make it with projection_dim, as in XMCDualEncoderModel.from_encoder(..., projection_dim=384)."
        )


def disable_dropout(model: nn.Module) -> None:
    """Set every dropout to zero: modules, and the rates that attention layers keep as plain numbers."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name, value in vars(module).items():
            if "dropout" in name and isinstance(value, float):
                setattr(module, name, 0.0)


def tower_parameters(model: XMCDualEncoderModel) -> list[nn.Parameter]:
    """Weights of the towers, without the projections."""
    towers = (model.query_encoder, model.label_encoder)
    return [parameter for tower in towers if tower is not None for parameter in tower.parameters()]


def token_keys(model: XMCDualEncoderModel) -> list[str | None]:
    """Those of both sides."""
    return [token_key(model, "query"), token_key(model, "label")]


def token_key(model: XMCDualEncoderModel, side: str) -> str | None:
    """What `model.tokenize` depends on besides the texts: tokens are kept under it for the next run."""
    config = model.config
    if side == "query":
        return tokenizer_key(model.tokenizer, config.query_prefix, config.max_query_length, model.end_token())
    return tokenizer_key(model.tokenizer, config.label_prefix, config.max_label_length, model.end_token())
