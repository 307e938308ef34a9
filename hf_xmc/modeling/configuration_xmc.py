"""Configuration of the dual encoder."""

from __future__ import annotations

from typing import Any, ClassVar

from transformers import AutoConfig, PretrainedConfig

from .errors_xmc import SettingsError
from .settings_xmc import EMBEDDING_SETTINGS as EMBEDDING_SETTINGS
from .settings_xmc import LABEL_HEADS, POOLINGS
from .settings_xmc import SETTINGS as SETTINGS
from .settings_xmc import STATIC_SETTINGS as STATIC_SETTINGS


class XMCDualEncoderConfig(PretrainedConfig):
    """Configuration of an [`XMCDualEncoderModel`].

    It does not list the labels, of which there may be millions; they are in the label table next to the model.

    Args:
        encoder_config: configuration of the query encoder, or its dict; any model that `AutoModel` knows.
        label_encoder_config: the same for the label encoder; by default the query encoder's. Unused if shared.
        share_encoders: whether queries and labels use one encoder.
        pooling: `"mean"` over the tokens, the first token (`"cls"`) or the last one (`"last"`, for decoders).
        projection_dim: dimension of a linear projection after pooling; `None` for no projection.
        share_projection: whether queries and labels use one projection.
        normalize: whether embeddings have unit length, so that scores are cosine similarities; otherwise scores are
            raw dot products.
        temperature: the losses divide scores by it; predictions are ranked by undivided scores.
        query_prefix, label_prefix: text put before each query or label, such as an instruction.
        max_query_length, max_label_length: in tokens, special tokens included; longer texts are truncated.
        label_head: per-label vectors in addition to the label texts, in `label_head.safetensors`: `"residual"` vectors
            are added to the text embedding, the scores of a `"classifier"` are combined with those of the text; `None`
            for texts alone.
        static_dim: dimension of a static tower beside the encoder; `None` for none. With a static tower and without
            an `encoder_config` the model has no transformer.
        static_buckets: number of different hashes of its features, at most 2^31.
        static_weight: share of the static tower in a score, from 0 to 1: embeddings are those of encoder and static
            tower side by side, scaled so that a dot product is the weighted mean of both cosines. Without an encoder
            it has no meaning.
        static_rows: number of features that have a vector. Training sets it.
    """

    model_type = "xmc_dual_encoder"
    sub_configs: ClassVar[dict[str, Any]] = {"encoder_config": AutoConfig, "label_encoder_config": AutoConfig}

    encoder_config: Any = None  # a PretrainedConfig after initialisation; a dict in config.json
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
    static_dim: int | None = None
    static_buckets: int = 2**18
    static_weight: float = 0.5
    static_rows: int = 0

    def __post_init__(self, **kwargs: Any) -> None:
        self.check()
        if self.encoder_config is not None or self.static_dim is None:
            self.encoder_config = as_config(self.encoder_config or {"model_type": "bert"})
        if self.share_encoders or self.encoder_config is None:
            self.label_encoder_config = None
        else:
            given: Any = self.label_encoder_config or self.encoder_config
            self.label_encoder_config = as_config(given)
        super().__post_init__(**kwargs)

    def check(self) -> None:
        """Reject invalid values.

        Raises:
            SettingsError: an unknown pooling or label head, a temperature or projection dimension that is not
                positive, or maximum lengths that leave no room for text.
        """
        if self.pooling not in POOLINGS:
            raise SettingsError(f"pooling is {self.pooling!r}; expected one of {', '.join(POOLINGS)}")
        if self.label_head is not None and self.label_head not in LABEL_HEADS:
            raise SettingsError(
                f"label_head is {self.label_head!r}; expected one of {', '.join(LABEL_HEADS)}, or None."
            )
        if not self.temperature > 0:
            raise SettingsError(f"temperature is {self.temperature}; it divides the scores and must be above 0")
        if self.projection_dim is not None and self.projection_dim < 1:
            raise SettingsError(
                f"projection_dim is {self.projection_dim}; it must be at least 1, or None for no projection"
            )
        if min(self.max_query_length, self.max_label_length) < 3:
            raise SettingsError(
                f"max_query_length is {self.max_query_length} and max_label_length {self.max_label_length}; "
                "both must be at least 3 tokens, two of which are special"
            )
        self.check_static()

    def check_static(self) -> None:
        """Reject invalid settings of the static tower.

        Raises:
            SettingsError: sizes below 1, a weight outside 0 to 1, embeddings that are not of unit length, or settings
                of an encoder where there is none.
        """
        if self.static_dim is None:
            return
        if self.static_dim < 1:
            raise SettingsError(f"static_dim is {self.static_dim}; it must be at least 1, or None for no static tower")
        if not 1 <= self.static_buckets <= 2**31:
            raise SettingsError(f"static_buckets is {self.static_buckets}; it must be from 1 to 2^31")
        if not 0 < self.static_weight <= 1:
            raise SettingsError(f"static_weight is {self.static_weight}; it must be above 0, and at most 1")
        if not self.normalize:
            raise SettingsError("a static tower needs normalize=True; otherwise its share in a score is not known")
        if self.encoder_config is None and not (self.share_encoders and self.projection_dim is None):
            raise SettingsError("share_encoders and projection_dim are settings of an encoder, and there is none")

    @property
    def hidden_size(self) -> int:
        """Dimension of the query encoder's hidden states; 0 without an encoder."""
        return 0 if self.encoder_config is None else int(self.encoder_config.hidden_size)

    @property
    def dense_dim(self) -> int:
        """Dimension of the encoder's part of the embeddings."""
        return 0 if self.encoder_config is None else self.projection_dim or self.hidden_size

    @property
    def embedding_dim(self) -> int:
        """Dimension D of the embeddings."""
        return self.dense_dim + (self.static_dim or 0)


def as_config(config: PretrainedConfig | dict[str, Any]) -> PretrainedConfig:
    """A new configuration from a dict or a configuration, so that the two encoders never share one."""
    values = dict(config) if isinstance(config, dict) else config.to_dict()
    attention = None if isinstance(config, dict) else config._attn_implementation
    made = AutoConfig.for_model(values.pop("model_type"), **values)
    if attention is not None:
        made._attn_implementation = attention
    return made
