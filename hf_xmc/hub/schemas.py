"""Types and ranges of the JSON files of a trained folder that say how it was made.

Unknown keys are left alone: later versions may add some. Imported where a file is read, since pydantic takes a while
to import.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from hf_xmc.modeling.settings_xmc import LABEL_HEADS, POOLINGS
from hf_xmc.retrieval.schemas import Count, Dimension, Document, Name, Positive

Length = Annotated[int, Field(ge=3, le=2**20)]
Text = Annotated[str, Field(max_length=100_000)]


class BackboneDocument(Document):
    """The configuration of a transformer inside that of the dual encoder: what sizes depend on."""

    model_type: Name
    hidden_size: Dimension | None = None
    intermediate_size: Annotated[int, Field(ge=1, le=2**20)] | None = None
    num_hidden_layers: Annotated[int, Field(ge=0, le=1024)] | None = None
    num_attention_heads: Annotated[int, Field(ge=1, le=1024)] | None = None
    vocab_size: Annotated[int, Field(ge=1, le=2**24)] | None = None
    max_position_embeddings: Annotated[int, Field(ge=1, le=2**24)] | None = None
    type_vocab_size: Annotated[int, Field(ge=0, le=2**16)] | None = None
    layer_norm_eps: Annotated[float, Field(ge=0, le=1)] | None = None


class ConfigDocument(Document):
    """`config.json` of a dual encoder."""

    model_type: Literal["xmc_dual_encoder"]
    encoder_config: BackboneDocument | None = None
    label_encoder_config: BackboneDocument | None = None
    share_encoders: bool = True
    pooling: Literal[POOLINGS] = "mean"  # type: ignore[valid-type] # names are kept in one place
    projection_dim: Dimension | None = None
    share_projection: bool = False
    normalize: bool = True
    temperature: Positive = 0.05
    query_prefix: Text = ""
    label_prefix: Text = ""
    max_query_length: Length = 128
    max_label_length: Length = 64
    label_head: Literal[LABEL_HEADS] | None = None  # type: ignore[valid-type] # as above
    static_dim: Dimension | None = None
    static_buckets: Annotated[int, Field(ge=1, le=2**31)] = 2**18
    static_weight: Annotated[float, Field(gt=0, le=1)] = 0.5
    static_rows: Count = 0
    auto_map: dict[str, Any] | None = None


class DataDocument(Document):
    name: Text = ""
    licence: Text | None = None
    source: Text | None = None
    counts: dict[str, Count] = Field(default_factory=dict)
    fingerprint: Text | None = None
    example: Text | None = None


class HardwareDocument(Document):
    device: Text
    count: Annotated[int, Field(ge=1, le=2**20)]
    watts: Annotated[float, Field(ge=0, le=2**30)]


class RunDocument(Document):
    """`run.json`."""

    encoder: Text = ""
    arguments: dict[str, Any] = Field(default_factory=dict)
    data: DataDocument = DataDocument()
    world_size: Annotated[int, Field(ge=1, le=2**20)] = 1
    hardware: HardwareDocument | None = None
    train_seconds: Annotated[float, Field(ge=0)] | None = None
    versions: dict[str, Text] = Field(default_factory=dict)
    reading: dict[str, Any] | None = None


class MetricsDocument(Document):
    """`metrics.json`."""

    split: Text = ""
    num_queries: Count = 0
    metrics: dict[str, float] = Field(default_factory=dict)
    baselines: dict[str, dict[str, float]] = Field(default_factory=dict)
    settings: dict[str, Any] = Field(default_factory=dict)
    train_seconds: Annotated[float, Field(ge=0)] | None = None
    versions: dict[str, Text] = Field(default_factory=dict)


class GraphConfigDocument(Document):
    """The settings of a model that an exported graph needs."""

    query_prefix: Text
    label_prefix: Text
    max_query_length: Length
    max_label_length: Length
    embedding_dim: Dimension
    static_dim: Annotated[int, Field(ge=0, le=2**16)] | None = None
    static_buckets: Annotated[int, Field(ge=0, le=2**31)] | None = None
    static_weight: Annotated[float, Field(ge=0, le=1)] | None = None


class GraphDocument(Document):
    """`onnx.json` and `openvino.json`."""

    format: Annotated[int, Field(ge=1)]
    config: GraphConfigDocument
    pad_token: Count | None
    end_token: list[Count]
    encoder_fingerprint: Name
    head_fingerprint: Name | None
    graphs: dict[Name, dict[Literal["query", "label"], Annotated[str, Field(pattern=r"^[\w-]+\.(onnx|xml)$")]]]
    default_precision: Name
