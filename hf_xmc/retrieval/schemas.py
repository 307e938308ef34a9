"""Types and ranges of the JSON files of a trained folder that describe how labels are ranked.

Unknown keys are left alone: later versions may add some. This module is imported where a file is read, since pydantic
takes a while to import.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from hf_xmc.retrieval.factories import FACTORIES, REPLACED

Count = Annotated[int, Field(ge=0, le=2**40)]
Effort = Annotated[int, Field(ge=1, le=2**20)]
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Name = Annotated[str, Field(min_length=1, max_length=1000)]
Dimension = Annotated[int, Field(ge=1, le=2**16)]


class Document(BaseModel):
    """A JSON object whose values have the types of JSON: no text is read as a number, and no number is infinite."""

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)


class IndexParameters(Document):
    M: Annotated[int, Field(ge=2, le=2048)] | None = None
    efConstruction: Effort | None = None
    efSearch: Effort | None = None
    nlist: Annotated[int, Field(ge=1, le=2**31)] | None = None
    nprobe: Effort | None = None
    k_factor: Effort | None = None
    qb: Annotated[int, Field(ge=0, le=8)] | None = None


class PoolingDocument(Document):
    """How a label with several texts scores; see `hf_xmc.retrieval.pooling`."""

    pool: Literal["max", "mean", "logsumexp"]
    weights: dict[str, Annotated[float, Field(ge=0)]]
    temperature: Positive


class PassagesDocument(Document):
    """`passages.json`."""

    format: Annotated[int, Field(ge=1)]
    pool: Literal["lse", "max", "mean"]
    sharpness: Positive
    tokens: Annotated[int, Field(ge=8, le=2**20)] | None
    overlap: Annotated[int, Field(ge=0, le=2**20)]
    most: Annotated[int, Field(ge=1, le=2**20)]
    title: bool


class LateInteractionDocument(Document):
    """`reranker/late_interaction.json`."""

    first_stage_weight: float
    encoder_fingerprint: Name


class IndexDocument(Document):
    """`index/index.json`."""

    format: Annotated[int, Field(ge=1)]
    factory: Literal[(*FACTORIES, *REPLACED)]  # type: ignore[valid-type] # names are kept in one place
    parameters: IndexParameters = IndexParameters()
    texts: Literal["best", "mean", "rich"] = "best"
    pooling: PoolingDocument | None = None
    dimension: Dimension | None = None
    num_labels: Count | None = None
    num_rows: Count | None = None
    removed: list[Count]
    size_bytes: Count | None = None
    encoder_fingerprint: Name | None = None
    head_fingerprint: Name | None = None
    labels_fingerprint: Name | None = None


class MadeFor(Document):
    """What a channel belongs to."""

    encoder_fingerprint: Name
    catalogue: Name
    num_labels: Count


class MemorySettingsDocument(Document):
    combine: Literal["sum", "joint"]
    weight: Share
    num_neighbours: Annotated[int, Field(ge=1, le=10**6)]
    temperature: Positive | None


class MemoryDocument(Document):
    """`memory/memory.json`."""

    format: Annotated[int, Field(ge=1)]
    num_queries: Count
    num_labels: Count
    dimension: Dimension
    settings: MemorySettingsDocument
    made_for: MadeFor | None = None


class NamesDocument(Document):
    """`names/names.json`."""

    format: Annotated[int, Field(ge=1)]
    language: str
    weight: Share
    learned_from: str
    priors: list[float]
    coefficients: dict[str, float]
    ranges: dict[str, Annotated[list[float], Field(min_length=2, max_length=2)]]
    num_names: Count | None = None
    num_labels: Count | None = None
    made_for: MadeFor | None = None


class LexicalDocument(Document):
    """`lexical/lexical.json`."""

    format: Annotated[int, Field(ge=1)]
    num_labels: Count
    weight: Share
    language: str
    made_for: MadeFor | None = None


class FusionDocument(Document):
    """`fusion.json`."""

    format: Annotated[int, Field(ge=1)]
    channels: Annotated[list[Name], Field(min_length=1, max_length=100)]
    weights: dict[str, float]
    bias: float
    temperatures: dict[str, Positive]
    about: dict[str, Any] = Field(default_factory=dict)


class ScoreMapDocument(Document):
    method: Literal["isotonic", "platt", "temperature", "beta"]
    parameters: dict[str, float]


class ConfidenceSettings(Document):
    level: Annotated[float, Field(gt=0, lt=1)]
    depth: Annotated[int, Field(ge=1, le=2**31)]
    num_labels: Count
    num_queries: Count | None = None
    ranking: Name | None = None
    memory: bool | None = None
    channels: list[Name] | None = None
    encoder_fingerprint: Name | None = None
    head_fingerprint: Name | None = None


class ConfidenceDocument(Document):
    """`confidence.json`."""

    format: Annotated[int, Field(ge=1)]
    settings: ConfidenceSettings
    score_map: ScoreMapDocument
    candidate_map: ScoreMapDocument
    rank_weight: float
    num_candidates: Annotated[int, Field(ge=1, le=64)]
    queries: dict[Literal["fnr", "all", "head", "torso", "tail"], Count]


class RerankerDocument(Document):
    """`reranker/reranker.json`."""

    kind: Name
