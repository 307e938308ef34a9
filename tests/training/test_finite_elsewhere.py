"""Nothing that is not finite is written by the trainings and fits beside the main training, or read by them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from shutil import copytree

import numpy as np
import pytest
import torch

from hf_xmc import LabelIndex, XMCDualEncoderModel, XMCPipeline, load_xmc_dataset
from hf_xmc.data.dataset import XMCDataset
from hf_xmc.data.documents import write_arrays, write_document
from hf_xmc.errors import DataError, DivergenceError, ModelFolderError
from hf_xmc.inference.fitting.late_interaction import train_late_interaction
from hf_xmc.inference.fitting.reranker import train_reranker
from hf_xmc.retrieval.channels.query_memory import QueryMemory
from hf_xmc.types import Positives


@pytest.fixture(scope="module")
def untrained(tiny_encoder: str, toy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = XMCDualEncoderModel.from_encoder(tiny_encoder, max_query_length=12, max_label_length=8)
    folder = tmp_path_factory.mktemp("untrained")
    XMCPipeline.build(model, load_xmc_dataset(toy).labels).save_pretrained(folder)
    return folder


@pytest.fixture
def folder(untrained: Path, tmp_path: Path) -> Iterator[Path]:
    """A tagger; afterwards its files are as they were."""
    made = copytree(untrained, tmp_path / "model")
    before = contents(made)
    yield made
    assert contents(made) == before


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name[0] != "."}


@pytest.fixture(scope="module")
def data(toy: Path) -> XMCDataset:
    return load_xmc_dataset(toy)


def test_a_reranker_that_diverges(folder: Path, data: XMCDataset, tiny_encoder: str) -> None:
    with pytest.raises(DivergenceError, match=r"stopped at step .*lower learning_rate"):
        train_reranker(folder, data, encoder=tiny_encoder, k=4, learning_rate=1e38, num_train_epochs=3, max_length=12)


def test_projections_that_diverge(folder: Path, data: XMCDataset) -> None:
    with pytest.raises(DivergenceError, match=r"stopped at step .*lower learning_rate"):
        train_late_interaction(folder, data, k=4, dim=4, learning_rate=1e38, num_train_epochs=3)


def test_a_model_whose_embeddings_overflow(folder: Path, data: XMCDataset) -> None:
    """As an encoder in fp16 may; neither predict nor index nor the saving of a tagger take it."""
    tagger = XMCPipeline.from_pretrained(folder)
    weight = next(tagger.model.parameters())
    with torch.no_grad():
        weight[:, 0] = torch.inf
    with pytest.raises(DataError, match="NaN or infinity"):
        tagger.predict(["a red car"], 3)
    with pytest.raises(DataError, match="NaN or infinity"):
        XMCPipeline.build(tagger.model, data.labels)
    with pytest.raises(DivergenceError, match="is not written"):
        tagger.save_pretrained(folder)


def test_embeddings_from_elsewhere(folder: Path, data: XMCDataset) -> None:
    tagger = XMCPipeline.from_pretrained(folder)
    vectors = np.array(tagger.index.vectors())
    vectors[3, 1] = np.nan
    with pytest.raises(DataError, match="row 3 holds NaN"):
        LabelIndex.build(vectors, tagger.index.labels)
    with pytest.raises(DataError, match="row 3 holds NaN"):
        QueryMemory.build(vectors, Positives.from_lists([[0]] * len(vectors)), 1)
    large = np.full((2, 4), 1e6, np.float32)  # finite, but not in half precision
    with pytest.raises(DataError, match="row 0 holds NaN or infinity"):
        QueryMemory.build(large, Positives.from_lists([[0], [0]]), 1)


def test_numbers_of_a_fit(tmp_path: Path) -> None:
    path = tmp_path / "x"
    with pytest.raises(ModelFolderError, match=r"fusion.json would hold NaN or infinity"):
        write_document({"bias": float("nan")}, path, "fusion.json")
    with pytest.raises(ModelFolderError, match=r"array 'x' of map.safetensors would hold NaN"):
        write_arrays({"x": np.array([1, np.inf])}, path, "map.safetensors")
    with pytest.raises(ModelFolderError, match="array 'x'"):
        write_arrays({"x": np.array([np.nan])}, path, "map.safetensors", infinite={"x"})
    assert not path.exists()
