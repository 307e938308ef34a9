"""Configuration of the dual encoder."""

from __future__ import annotations

from typing import Any, ClassVar

from transformers import AutoConfig, PretrainedConfig

POOLINGS = ("mean", "cls", "last")
LABEL_HEADS = ("residual", "classifier")


class XMCDualEncoderConfig(PretrainedConfig):
    """Configuration of an [`XMCDualEncoderModel`].

    Labels are not part of it: a catalogue of a million names has no place in a config file. They stand in the label
    table beside the model.

    Args:
        encoder_config: configuration of the query tower, or its dict; any model that `AutoModel` knows.
        label_encoder_config: the same for the label tower; by default the query tower's. Unused if shared.
        share_encoders: one tower for both sides.
        pooling: `"mean"` over the tokens, the first token (`"cls"`) or the last one (`"last"`, for decoders).
        projection_dim: dimension of a linear map after pooling; `None` for no map.
        share_projection: one map for both sides.
        normalize: unit-length embeddings, so that scores are cosines; otherwise raw dot products.
        temperature: the losses divide scores by it; predictions are ranked by the undivided ones.
        query_prefix, label_prefix: text put before each query or label, as an instruction.
        max_query_length, max_label_length: in tokens, special tokens included; longer texts are cut.
        label_head: a learned vector a label beside its text, in `label_head.safetensors`: `"residual"`, added to the
            text's embedding, or `"classifier"`, whose score is fused with the text's; `None` for texts alone.
    """

    model_type = "xmc_dual_encoder"
    sub_configs: ClassVar[dict[str, Any]] = {"encoder_config": AutoConfig, "label_encoder_config": AutoConfig}

    encoder_config: Any = None  # a PretrainedConfig once made; dicts come from config.json
    label_encoder_config: Any = None
    share_encoders: bool = True
    pooling: str = "mean"
    projection_dim: int | None = None
    share_projection: bool = False
    normalize: bool = True
    temperature: float = 0.05
    query_prefix: str = ""
    label_prefix: str = ""
    max_query_length: int = 128
    max_label_length: int = 64
    label_head: str | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        self.check()
        self.encoder_config = as_config(self.encoder_config or {"model_type": "bert"})
        if self.share_encoders:
            self.label_encoder_config = None
        else:
            self.label_encoder_config = as_config(self.label_encoder_config or self.encoder_config)
        super().__post_init__(**kwargs)

    def check(self) -> None:
        """Refuse values that cannot work.

        Raises:
            ValueError: an unknown pooling, a temperature that is not above 0, lengths without room for text, a
                projection to nothing, an unknown label head.
        """
        if self.pooling not in POOLINGS:
            raise ValueError(f"pooling is {self.pooling!r}; expected one of {', '.join(POOLINGS)}.")
        if self.label_head is not None and self.label_head not in LABEL_HEADS:
            raise ValueError(f"label_head is {self.label_head!r}; expected one of {', '.join(LABEL_HEADS)}, or None.")
        if not self.temperature > 0:
            raise ValueError(f"temperature is {self.temperature}; it divides the scores and must be above 0.")
        if self.projection_dim is not None and self.projection_dim < 1:
            raise ValueError(f"projection_dim is {self.projection_dim}; give 1 or more, or None for no projection.")
        if min(self.max_query_length, self.max_label_length) < 3:
            raise ValueError(
                f"max_query_length is {self.max_query_length} and max_label_length {self.max_label_length}; "
                "both need at least 3 tokens, two of which are special."
            )

    @property
    def hidden_size(self) -> int:
        """Dimension of the query tower's hidden states."""
        return self.encoder_config.hidden_size

    @property
    def embedding_dim(self) -> int:
        """Dimension D of the embeddings."""
        return self.projection_dim or self.hidden_size


def as_config(config: PretrainedConfig | dict[str, Any]) -> PretrainedConfig:
    """A configuration from its dict; a configuration is copied, so that the two towers never share one."""
    values = dict(config) if isinstance(config, dict) else config.to_dict()
    attention = None if isinstance(config, dict) else config._attn_implementation
    made = AutoConfig.for_model(values.pop("model_type"), **values)
    if attention is not None:
        made._attn_implementation = attention
    return made
