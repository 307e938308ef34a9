"""Types and ranges of `dataset.json` and `manifest.json`.

Imported where they are read, since pydantic takes a while to import.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

Count = Annotated[int, Field(ge=0, le=2**40)]
Name = Annotated[str, Field(min_length=1, max_length=1000)]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class PropensityDocument(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)

    a: Annotated[float, Field(ge=0)]
    b: Annotated[float, Field(gt=0)]


class DatasetDocument(BaseModel):
    """`dataset.json` of a prepared data set; unknown keys are left alone."""

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)

    format: Annotated[int, Field(ge=1)]
    name: str
    licence: str
    source: str
    propensity: PropensityDocument
    num_train_queries: Count
    max_lengths: dict[str, Count] = Field(default_factory=dict)
    counts: dict[str, Any] = Field(default_factory=dict)


class ManifestDocument(BaseModel):
    """`manifest.json`."""

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)

    format: Annotated[int, Field(ge=1)]
    files: dict[Name, Sha256]
    sizes: dict[Name, Count] = Field(default_factory=dict)
    generation: Count = 0
    made_from: dict[Name, dict[Name, str]] = Field(default_factory=dict)
