"""The numpy model: it computes what the model of torch computes, or leaves it to that."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import RobertaConfig, RobertaModel

from hf_xmc import XMCDualEncoderModel, XMCPipeline
from hf_xmc.inference.numpy_model import NumpyModel
from hf_xmc.modeling import LabelHead, catalogue_fingerprint
from hf_xmc.retrieval.fingerprint import encoder_fingerprint, head_fingerprint, same_encoder

TEXTS = ["a red car", "", "the blue house " * 30, "Änderung 東京 x²", "river"]
LABELS = ["red", "blue house", "river", "green"]


def check(model: XMCDualEncoderModel, folder: Path) -> NumpyModel:
    """Save a model and compare its embeddings and fingerprints."""
    model.save_pretrained(folder)
    loaded = XMCDualEncoderModel.from_pretrained(folder)
    made = NumpyModel.of(folder)
    assert made is not None
    assert made.config.embedding_dim == model.config.embedding_dim
    np.testing.assert_allclose(made.encode_queries(TEXTS), loaded.encode_queries(TEXTS).numpy(), atol=2e-5)
    assert made.encode_queries([]).shape == (0, model.config.embedding_dim)
    assert same_encoder(encoder_fingerprint(made), encoder_fingerprint(loaded))
    assert head_fingerprint(made) == head_fingerprint(loaded)
    return made


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"pooling": "cls", "query_prefix": "query: ", "projection_dim": 8, "max_query_length": 7},
        {"normalize": False, "projection_dim": 16, "share_projection": True},
        {"share_encoders": False},
    ],
)
def test_bert(tiny_encoder: str, tmp_path: Path, settings: dict[str, Any]) -> None:
    check(XMCDualEncoderModel.from_encoder(tiny_encoder, seed=0, **settings), tmp_path)


def test_roberta_counts_positions_from_its_padding(tiny_encoder: str, tmp_path: Path) -> None:
    model = XMCDualEncoderModel.from_encoder(tiny_encoder, max_query_length=20)
    size = model.config.encoder_config.vocab_size
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    config = RobertaConfig(vocab_size=size, pad_token_id=0, max_position_embeddings=40, **sizes)
    RobertaModel(config).save_pretrained(tmp_path / "encoder")
    assert model.tokenizer is not None
    model.tokenizer.save_pretrained(tmp_path / "encoder")
    check(XMCDualEncoderModel.from_encoder(str(tmp_path / "encoder"), max_query_length=20), tmp_path / "model")


@pytest.mark.parametrize("alone", [False, True])
def test_static_tower(tiny_encoder: str, tmp_path: Path, alone: bool) -> None:
    encoder = None if alone else tiny_encoder
    model = XMCDualEncoderModel.from_encoder(encoder, static_dim=12, static_weight=1.0 if alone else 0.3)
    assert model.static_tower is not None
    model.grow_static_tower(model.static_tower.features([*LABELS, *TEXTS[:2], "red red red"]))
    made = check(model, tmp_path)
    repeated = ["red red red car", "unknown"]
    np.testing.assert_allclose(made.encode_queries(repeated), model.encode_queries(repeated).numpy(), atol=2e-5)


@pytest.mark.parametrize("kind", ["residual", "classifier"])
def test_label_head(tiny_encoder: str, tmp_path: Path, kind: str) -> None:
    model = XMCDualEncoderModel.from_encoder(tiny_encoder)
    vectors = torch.randn(4, 32, generator=torch.Generator().manual_seed(0)).half()
    fusion = {"text": 1.0, "classifier": 2.0} if kind == "classifier" else None
    uids = catalogue_fingerprint(["0", "1", "2", "3"])
    model.label_head = LabelHead(kind, vectors, torch.arange(4), uids, fusion)
    made = check(model, tmp_path)
    assert made.label_head is not None
    made.label_head.check_catalogue(["0", "1", "2", "3", "added later"])
    with pytest.raises(ValueError, match="another order"):
        made.label_head.check_catalogue(["1", "0", "2", "3"])


def test_a_pipeline_predicts_the_same_with_it(tiny_encoder: str, tmp_path: Path) -> None:
    from datasets import Dataset

    model = XMCDualEncoderModel.from_encoder(tiny_encoder, seed=0)
    tagger = XMCPipeline.build(model, Dataset.from_dict({"uid": list("abcd"), "text": LABELS}))
    tagger.save_pretrained(tmp_path)
    quick: Any = NumpyModel.of(tmp_path)
    found = XMCPipeline.from_pretrained(tmp_path, model=quick)(TEXTS, k=3)
    for tags, expected in zip(found, tagger(TEXTS, k=3), strict=True):
        assert [tag["uid"] for tag in tags] == [tag["uid"] for tag in expected]
        assert [tag["score"] for tag in tags] == pytest.approx([tag["score"] for tag in expected], abs=1e-5)


@pytest.mark.parametrize(
    "change",
    [
        {"pooling": "last"},
        {"model_type": "bert"},
        {"encoder_config": {"model_type": "mpnet"}},
        {"encoder_config": {"hidden_act": "relu"}},
        {"encoder_config": {"is_decoder": True}},
    ],
)
def test_models_of_other_kinds_are_left_to_torch(tiny_encoder: str, tmp_path: Path, change: dict[str, Any]) -> None:
    XMCDualEncoderModel.from_encoder(tiny_encoder).save_pretrained(tmp_path)
    assert NumpyModel.of(tmp_path) is not None
    config = json.loads((tmp_path / "config.json").read_text())
    for name, value in change.items():
        config[name] = {**config[name], **value} if isinstance(value, dict) else value
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert NumpyModel.of(tmp_path) is None


def test_so_are_folders_that_lack_files_or_hold_other_numbers(tiny_encoder: str, tmp_path: Path) -> None:
    assert NumpyModel.of(tmp_path) is None
    model = XMCDualEncoderModel.from_encoder(tiny_encoder)
    model.half().save_pretrained(tmp_path / "half")
    assert NumpyModel.of(tmp_path / "half") is None
    for name in ("tokenizer.json", "model.safetensors"):
        model.float().save_pretrained(tmp_path / name)
        (tmp_path / name / name).write_bytes(b"\xff")
        assert NumpyModel.of(tmp_path / name) is None
