"""Preparing a model for training, and the keys of its token caches."""

from __future__ import annotations

from typing import Any

from datasets import Dataset
from torch import nn

from hf_xmc.data.tokenized import TokenBags, TokenTable, table_of, tokenizer_key
from hf_xmc.errors import SettingsError
from hf_xmc.modeling import XMCDualEncoderModel
from hf_xmc.modeling.modeling_xmc import Side
from hf_xmc.training.adapters import has_adapters, with_adapters
from hf_xmc.training.arguments import XMCTrainingArguments
from hf_xmc.training.features import feature_table


def prepare(model: XMCDualEncoderModel, args: XMCTrainingArguments, peft_config: Any) -> XMCDualEncoderModel:
    """Make a model ready for training: dropout as the arguments say, adapters if there are any."""
    check_trainable(model, args)
    if args.freeze_encoder and (peft_config is not None or has_adapters(model)):
        raise SettingsError("freeze_encoder leaves nothing for adapters to train; use one of the two")
    if model.query_encoder is None and peft_config is not None:
        raise SettingsError("the model has no encoder that adapters could be put on; leave them out")
    if args.disable_dropout:
        disable_dropout(model)
    return model if peft_config is None else with_adapters(model, peft_config)


def check_trainable(model: XMCDualEncoderModel, args: XMCTrainingArguments) -> None:
    """Refuse a run that would train nothing."""
    frozen = args.freeze_encoder or model.query_encoder is None
    words = model.static_tower is not None and args.static_learning_rate > 0
    if frozen and model.query_projection is None and model.config.label_head is None and not words:
        raise SettingsError(
            "freeze_encoder leaves nothing to train: the model has no projection, no label head and no static tower. "
            "Make it with one, as in XMCDualEncoderModel.from_encoder(..., projection_dim=384) or "
            'label_head="residual".'
        )
    if args.fp16 and (classifier_alone(model, args) or (frozen and model.query_projection is None)):
        raise SettingsError("fp16 has nothing to scale when the optimizer trains no weights; use bf16, or neither")


def disable_dropout(model: nn.Module) -> None:
    """Set every dropout to zero: modules, and the rates that attention layers keep as plain numbers."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name, value in vars(module).items():
            if "dropout" in name and isinstance(value, float):
                setattr(module, name, 0.0)


def classifier_alone(model: XMCDualEncoderModel, args: XMCTrainingArguments) -> bool:
    """Whether a classifier is all that is trained."""
    return args.freeze_encoder and model.config.label_head == "classifier" and args.label_head_loss_weight == 1


def frozen_parameters(model: XMCDualEncoderModel, args: XMCTrainingArguments) -> list[nn.Parameter]:
    """Weights that `freeze_encoder` leaves as they are: the towers, and the projections too where a classifier is
    trained alone, which would carry the queries away from the label texts."""
    if not args.freeze_encoder:
        return []
    return list(model.parameters()) if classifier_alone(model, args) else tower_parameters(model)


def tower_parameters(model: XMCDualEncoderModel) -> list[nn.Parameter]:
    """Weights of the encoders, without projections and static tower."""
    towers = (model.query_encoder, model.label_encoder)
    return [parameter for tower in towers if tower is not None for parameter in tower.parameters()]


def token_table(model: XMCDualEncoderModel, texts: Dataset, side: Side) -> TokenTable:
    """The `text` column of a table, tokenised; with features if the model has a static tower."""
    tokens = TokenTable.build(texts, lambda some: model.token_ids(some, side), token_key(model, side))
    with_features(model, tokens, texts)
    return tokens


def with_features(model: XMCDualEncoderModel, tokens: TokenTable | TokenBags, texts: Dataset) -> None:
    """Give a table what the static tower reads of its texts (or passages), if the model has one."""
    table = table_of(tokens)
    if model.static_tower is not None and table.features is None:
        table.features = feature_table(texts, model.config.static_buckets)


def grow_static_tower(
    model: XMCDualEncoderModel,
    queries: TokenTable | TokenBags,
    labels: TokenTable,
    texts: Dataset,
    args: XMCTrainingArguments,
) -> None:
    """Give the static tower, if there is one, a vector for each feature of training queries and labels that it does
    not know yet. Of features that fewer than `static_min_texts` texts have, the words and stems of labels get one too:
    by them a label is found that no training query has.

    Args:
        texts: the label table.
    """
    if model.static_tower is None:
        return
    words = feature_table(texts, model.config.static_buckets, pairs=False)
    found = (queries.features, labels.features)
    model.grow_static_tower(*found, least=args.static_min_texts, always=words, seed=args.seed)


def token_keys(model: XMCDualEncoderModel) -> list[str | None]:
    """The keys of both sides."""
    return [token_key(model, "query"), token_key(model, "label")]


def token_key(model: XMCDualEncoderModel, side: str) -> str | None:
    """What `model.token_ids` depends on apart from the texts: the key of the token cache."""
    config = model.config
    if model.query_encoder is None:
        return "no tokens"
    if side == "query":
        known = "" if model.knowledge is None else model.knowledge.fingerprint()
        return tokenizer_key(model.tokenizer, config.query_prefix + known, config.max_query_length, model.end_token())
    return tokenizer_key(model.tokenizer, config.label_prefix, config.max_label_length, model.end_token())
