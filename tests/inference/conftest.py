"""A tiny pipeline over the toy labels; with memory and confidence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hf_xmc import XMCDualEncoderModel, XMCPipeline, load_xmc_dataset
from hf_xmc.retrieval.channels.query_memory import MemorySettings, QueryMemory
from hf_xmc.retrieval.confidence import Confidence


@pytest.fixture
def plain(tiny_encoder: str, toy: Path) -> XMCPipeline:
    """Labels alone; a new one for each test, so that its labels may be changed."""
    return XMCPipeline.build(XMCDualEncoderModel.from_encoder(tiny_encoder), load_xmc_dataset(toy).labels)


@pytest.fixture
def fitted(plain: XMCPipeline, toy: Path) -> XMCPipeline:
    """With the training queries as memory and a confidence fitted on the test queries."""
    data = load_xmc_dataset(toy)
    train = plain.model.encode_queries(data.queries["train"]["text"][:])
    settings = MemorySettings(weight=0.7, num_neighbours=10)
    memory = QueryMemory.build(train, data.positives("train"), data.num_labels, settings)
    made = XMCPipeline(plain.model, plain.index, memory=memory)
    topk = made.predict(data.queries["test"]["text"][:], data.num_labels)
    counts = np.asarray(data.train_label_counts)
    made.confidence = Confidence.fit(topk, data.positives("test"), counts, method="platt", memory=True)
    return made
