"""A tiny pipeline over the toy labels; with memory and confidence."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from hf_xmc import XMCDualEncoderModel, XMCPipeline, load_xmc_dataset
from hf_xmc.data.dataset import XMCDataset
from hf_xmc.retrieval.channels.query_memory import MemorySettings, QueryMemory
from hf_xmc.retrieval.confidence import Confidence
from tests.conftest import COLOURS, THINGS, write_lines


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


@pytest.fixture(scope="session")
def numbers_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Texts that name a colour and a thing, and labels that the random encoder knows nothing of: numbers."""
    made = tmp_path_factory.mktemp("numbers")
    names = [*COLOURS, *THINGS]
    write_lines(made / "lbl.jsonl", [{"uid": name, "text": f"number {i}"} for i, name in enumerate(names)])
    draw = random.Random(0)
    for stem, count in (("trn", 300), ("val", 120), ("tst", 150)):
        rows = []
        for i in range(count):
            colour, thing = draw.randrange(6), draw.randrange(6)
            text = f"a {COLOURS[colour]} {THINGS[thing]} {draw.choice(('is', 'was'))} here"
            labels = [colour, 6 + thing] if draw.random() < 0.8 else [draw.randrange(6), 6 + thing]
            rows.append({"uid": f"{stem}{i}", "text": text, "labels": labels})
        write_lines(made / f"{stem}.jsonl", rows)
    return made


@pytest.fixture(scope="session")
def numbers_data(numbers_folder: Path) -> XMCDataset:
    return load_xmc_dataset(numbers_folder)


@pytest.fixture(scope="session")
def numbers_pipeline(tiny_encoder: str, numbers_data: XMCDataset) -> XMCPipeline:
    return XMCPipeline.build(XMCDualEncoderModel.from_encoder(tiny_encoder, max_query_length=16), numbers_data.labels)
