"""A trained folder is a folder of sentence-transformers as well, without custom code and without a second copy."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from transformers import AutoTokenizer, pipeline

from hf_xmc import LabelIndex, XMCDualEncoderModel, XMCPipeline
from hf_xmc.errors import ModelFolderError
from hf_xmc.hub import refresh, save_parts
from hf_xmc.inference.export.sentence_transformers import export_sentence_transformers

sentence_transformers = pytest.importorskip("sentence_transformers")
TEXTS = ["a red car", "", "blue " * 40, "Ünïcode and a long text of more than eight tokens, surely"]
SETTINGS: list[dict[str, Any]] = [
    {},
    {"normalize": False, "pooling": "cls"},
    {"projection_dim": 16, "max_query_length": 12, "max_label_length": 6},
    {"projection_dim": 16, "share_projection": True, "query_prefix": "query: ", "label_prefix": "label: "},
]


def made(tiny_encoder: str, folder: Path, **settings: Any) -> XMCDualEncoderModel:
    """A model in a folder, whose projections are not the identity that they start as."""
    model = XMCDualEncoderModel.from_encoder(tiny_encoder, seed=0, **settings)
    for layer in (model.query_projection, model.label_projection):
        if layer is not None:
            layer.weight.data.normal_()
    save_parts(folder, {"model": model})
    return model


def check(encoder: Any, model: XMCDualEncoderModel) -> None:
    """Both sides, as sentence-transformers and we encode them."""
    np.testing.assert_allclose(encoder.encode_query(TEXTS), model.encode_queries(TEXTS), atol=1e-5)
    np.testing.assert_allclose(encoder.encode_document(TEXTS), model.encode_labels(TEXTS), atol=1e-5)


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_both_sides_are_equal(tiny_encoder: str, tmp_path: Path, settings: dict[str, Any]) -> None:
    model = made(tiny_encoder, tmp_path / "run", **settings)
    check(sentence_transformers.SentenceTransformer(str(tmp_path / "run"), device="cpu"), model)
    # A folder of its own has weights of its own.
    export_sentence_transformers(model, tmp_path / "own")
    check(sentence_transformers.SentenceTransformer(str(tmp_path / "own"), device="cpu"), model)


@pytest.mark.parametrize("with_encoder", [True, False])
def test_a_static_tower_needs_the_folders_code(tiny_encoder: str, tmp_path: Path, with_encoder: bool) -> None:
    model = XMCDualEncoderModel.from_encoder(
        tiny_encoder if with_encoder else None, static_dim=8, seed=0, query_prefix="query: "
    )
    model.grow_static_tower(model.static_tower.features(TEXTS))  # type: ignore[union-attr]
    save_parts(tmp_path / "run", {"model": model})
    with pytest.raises(ValueError, match="trust_remote_code"):
        sentence_transformers.SentenceTransformer(str(tmp_path / "run"), device="cpu")
    encoder = sentence_transformers.SentenceTransformer(str(tmp_path / "run"), device="cpu", trust_remote_code=True)
    loaded = XMCDualEncoderModel.from_pretrained(tmp_path / "run")
    check(encoder, loaded)
    assert encoder.get_embedding_dimension() == loaded.config.embedding_dim
    assert encoder.similarity_fn_name == "cosine"
    card = (tmp_path / "run/README.md").read_text()
    assert "trust_remote_code=True)\nsimilarities" in card
    assert "library_name: hf_xmc" in card, "the widget of the Hub would fail"


def test_two_towers_are_a_folder_of_their_own(tiny_encoder: str, tmp_path: Path) -> None:
    model = XMCDualEncoderModel.from_encoder(tiny_encoder, share_encoders=False, projection_dim=8, seed=0)
    model.label_encoder.get_input_embeddings().weight.data.normal_()  # type: ignore[union-attr]
    save_parts(tmp_path / "run", {"model": model})
    assert not (tmp_path / "run/modules.json").exists()
    export_sentence_transformers(model, tmp_path / "own")
    check(sentence_transformers.SentenceTransformer(str(tmp_path / "own"), device="cpu"), model)


@pytest.mark.parametrize("side", ["query", "label"])
def test_one_side_is_what_text_embeddings_inference_reads(tiny_encoder: str, tmp_path: Path, side: Any) -> None:
    model = made(tiny_encoder, tmp_path / "run", projection_dim=16, max_query_length=12, max_label_length=6)
    export_sentence_transformers(model, tmp_path / "own", side)
    encoder = sentence_transformers.SentenceTransformer(str(tmp_path / "own"), device="cpu")
    expected = model.encode_queries(TEXTS) if side == "query" else model.encode_labels(TEXTS)
    np.testing.assert_allclose(encoder.encode(TEXTS), expected, atol=1e-5)
    # It reads these names, at these places.
    read = lambda name: json.loads((tmp_path / "own" / name).read_text())  # noqa: E731
    modules = [(row["path"], row["type"].split(".")[-1]) for row in read("modules.json")]
    assert modules == [
        ("", "Transformer"),
        ("1_Pooling", "Pooling"),
        ("2_Dense", "Dense"),
        ("3_Normalize", "Normalize"),
    ]
    assert read("config.json")["model_type"] == "bert"
    assert read("1_Pooling/config.json")["pooling_mode_mean_tokens"] is True
    assert read("2_Dense/config.json")["activation_function"] == "torch.nn.modules.linear.Identity"
    assert read("sentence_bert_config.json")["max_seq_length"] == (12 if side == "query" else 6)
    with safe_open(tmp_path / "own/model.safetensors", "np") as file:
        assert "embeddings.word_embeddings.weight" in file.keys()  # noqa: SIM118, it is no dict


def test_the_layout_follows_the_model(tiny_encoder: str, tmp_path: Path) -> None:
    made(tiny_encoder, tmp_path, projection_dim=16)
    assert (tmp_path / "2_Router").is_dir()
    made(tiny_encoder, tmp_path)
    assert not (tmp_path / "2_Router").exists()
    (tmp_path / "modules.json").unlink()
    refresh(tmp_path)
    assert (tmp_path / "modules.json").is_file()


def test_tokenizer_and_features_without_our_pipeline(tiny_encoder: str, tmp_path: Path) -> None:
    model = made(tiny_encoder, tmp_path, projection_dim=16)
    ids = AutoTokenizer.from_pretrained(tmp_path, trust_remote_code=False)(TEXTS[0])["input_ids"]
    assert ids == model.tokenize(TEXTS[:1], "query")[0]
    found = pipeline("feature-extraction", model=str(tmp_path))(TEXTS[0])
    np.testing.assert_allclose(found, model.encode_queries(TEXTS[:1]), atol=1e-6)


ASKED = """
import sys
sys.modules["hf_xmc"] = None  # as if it were not installed
from transformers import AutoTokenizer
print(AutoTokenizer.from_pretrained(sys.argv[1], trust_remote_code=False)(sys.argv[2])["input_ids"])
for answer in ("no", "end of input"):
    print("\\n--", AutoTokenizer.from_pretrained(sys.argv[1])(sys.argv[2])["input_ids"])
print("--", [name for name in sys.modules if name.startswith("transformers_modules")])
"""


def test_the_tokenizer_runs_no_code_of_the_folder(tiny_encoder: str, tmp_path: Path, python: str) -> None:
    model = made(tiny_encoder, tmp_path / "run")
    command = [python, "-c", ASKED, str(tmp_path / "run"), TEXTS[0]]
    done = subprocess.run(command, input="n\n", capture_output=True, text=True, cwd=tmp_path, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    told, refused, closed, imported = done.stdout.split("--")
    ids = str(model.tokenize(TEXTS[:1], "query")[0])
    assert told.split("\n")[0] == ids, "nobody is asked"
    assert refused.split("\n")[0].strip() == closed.split("\n")[0].strip() == ids
    assert imported.strip() == "[]"


def test_a_part_that_was_changed_is_refused(trained_folder: Path) -> None:
    XMCPipeline.from_pretrained(trained_folder).save_pretrained(trained_folder)
    for name in ("model.safetensors", "labels.parquet", "index/index.faiss", "tokenizer.json", "config.json"):
        path = trained_folder / name
        before = path.read_bytes()
        path.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
        with pytest.raises(ModelFolderError, match=rf"{name}: not as saved, by the checksums of manifest.json; "):
            XMCPipeline.from_pretrained(trained_folder)
        part = LabelIndex if name.startswith(("labels", "index")) else XMCDualEncoderModel
        with pytest.raises(ModelFolderError, match=rf"{name}: not as saved, by the checksums of manifest.json; "):
            part.from_pretrained(trained_folder)
        path.write_bytes(before)
    XMCPipeline.from_pretrained(trained_folder)
    (trained_folder / "README.md").write_text("People edit it.")
    XMCPipeline.from_pretrained(trained_folder)
