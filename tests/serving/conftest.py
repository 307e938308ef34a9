"""A tiny tagger with a hierarchy of labels, a memory, names and probabilities, and services over it."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import pytest
from datasets import Dataset

from hf_xmc import XMCDualEncoderModel, XMCPipeline
from hf_xmc.retrieval.channels import LabelNames, QueryMemory
from hf_xmc.retrieval.channels.query_memory import MemorySettings
from hf_xmc.retrieval.confidence import Confidence
from hf_xmc.serving.service import TaggingService
from hf_xmc.types import Positives
from tests.conftest import COLOURS, THINGS

MEANING = "what is called so by everybody"
EXAMPLE = "a red car is here and a green house is there"


def label_rows() -> list[dict[str, object]]:
    """Two roots, and below each six labels, whose texts are made of name and definition."""
    rows: list[dict[str, object]] = [
        {"uid": root, "text": f"{root}: {MEANING}", "parents": [], "uri": None} for root in ("colour", "thing")
    ]
    for root, names in (("colour", COLOURS), ("thing", THINGS)):
        for name in names:
            uri = f"http://example.org/{name}"
            rows.append({"uid": name, "text": f"{name}: a {root} {MEANING}", "parents": [root], "uri": uri})
    return rows


@pytest.fixture(scope="session")
def parts(tiny_encoder: str) -> tuple[XMCDualEncoderModel, Dataset, list[str], Positives]:
    """Model, label table, training texts and their labels."""
    draw = random.Random(0)
    pairs = [(draw.randrange(6), draw.randrange(6)) for _ in range(120)]
    texts = [f"a {COLOURS[colour]} {THINGS[thing]}" for colour, thing in pairs]
    truth = Positives.from_lists([[2 + colour, 8 + thing] for colour, thing in pairs])
    model = XMCDualEncoderModel.from_encoder(tiny_encoder, max_query_length=16)
    return model, Dataset.from_list(label_rows()), texts, truth


@pytest.fixture(scope="session")
def new_pipeline(parts: tuple[XMCDualEncoderModel, Dataset, list[str], Positives]) -> Callable[[], XMCPipeline]:
    """Makes a pipeline whose labels may be changed."""
    model, labels, texts, truth = parts
    embeddings = model.encode_queries(texts)

    def make() -> XMCPipeline:
        made = XMCPipeline.build(model, labels)
        memory = QueryMemory.build(embeddings, truth, len(labels), MemorySettings(weight=0.1, num_neighbours=10))
        names = LabelNames.of(labels)
        names.weight = 0.6
        made.channels = [memory, names]
        made.run = {"data": {"name": "toys", "example": EXAMPLE}, "encoder": "/home/somebody/encoder"}
        topk = made.predict(texts, len(labels))
        ranking = {"ranking": made.ranking_fingerprint()}
        counts = truth.label_counts(len(labels))
        made.confidence = Confidence.fit(topk, truth, np.asarray(counts), method="platt", **ranking)
        return made

    return make


@pytest.fixture(scope="session")
def shared_service(new_pipeline: Callable[[], XMCPipeline]) -> TaggingService:
    """For tests that change nothing."""
    return TaggingService(new_pipeline(), name="toys")


@pytest.fixture
def service(new_pipeline: Callable[[], XMCPipeline]) -> TaggingService:
    """For a test that changes labels."""
    return TaggingService(new_pipeline(), name="toys")
