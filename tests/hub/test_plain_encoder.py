"""A plain encoder in the layout of published checkpoints is a tagger after one command."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer, DistilBertConfig, DistilBertModel
from typer.testing import CliRunner

from hf_xmc import XMCPipeline, evaluate
from hf_xmc.cli.main import app
from hf_xmc.errors import ModelFolderError
from hf_xmc.hub.folder import load_model


@pytest.fixture
def checkpoint(tiny_encoder: str, tmp_path: Path) -> Path:
    """What `quicktensor/dexml_*` are: a DistilBERT with its tokenizer, and nothing else."""
    folder = tmp_path / "dexml_toy"
    tokenizer = AutoTokenizer.from_pretrained(tiny_encoder)
    sizes = {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64, "max_position_embeddings": 64}
    torch.manual_seed(0)
    DistilBertModel(DistilBertConfig(vocab_size=len(tokenizer), **sizes)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def run(*arguments: object) -> str:
    done = CliRunner().invoke(app, [*map(str, arguments)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def test_index_evaluate_and_predict(checkpoint: Path, toy: Path, tmp_path: Path) -> None:
    before = {path.name for path in checkpoint.iterdir()}
    with pytest.raises(ModelFolderError, match=r"a plain encoder, which has no labels to predict; .*hf-xmc index"):
        XMCPipeline.from_pretrained(checkpoint)
    run("index", checkpoint, "--dataset", toy, "--output_dir", tmp_path / "tagger")
    assert {path.name for path in checkpoint.iterdir()} == before, "it is left as it was"
    run("evaluate", tmp_path / "tagger", "--dataset", toy, "--output_dir", tmp_path / "evaluation")
    assert run("predict", tmp_path / "tagger", "--text", "a red car").count("the ") >= 5
    # In one step, the same figures.
    found = evaluate(checkpoint, toy, output_dir=tmp_path / "direct", baselines=False)
    assert found.metrics == json.loads((tmp_path / "evaluation/metrics.json").read_text())["metrics"]


def test_it_embeds_as_its_authors_do(checkpoint: Path) -> None:
    texts = ["a red car", "blue " * 30]
    tokens = AutoTokenizer.from_pretrained(checkpoint)(texts, padding=True, truncation=True, return_tensors="pt")
    mask = tokens["attention_mask"][..., None]
    hidden = AutoModel.from_pretrained(checkpoint)(tokens["input_ids"], tokens["attention_mask"]).last_hidden_state
    expected = torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1)).detach()
    model = load_model(checkpoint)
    np.testing.assert_allclose(model.encode_queries(texts), expected, atol=1e-6)
    np.testing.assert_allclose(model.encode_labels(texts), expected, atol=1e-6)


def test_what_sentence_transformers_says_is_followed(checkpoint: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(checkpoint, tmp_path / "other"))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling/config.json").write_text('{"pooling_mode_cls_token": true}')
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 20}')
    modules = [{"path": "", "type": "a.Transformer"}, {"path": "1_Pooling", "type": "a.Pooling"}]
    (folder / "modules.json").write_text(json.dumps(modules))
    config = load_model(folder).config
    assert (config.pooling, config.normalize, config.max_query_length) == ("cls", False, 20)
    (folder / "modules.json").write_text(json.dumps([*modules, {"path": "2_Dense", "type": "a.Dense"}]))
    with pytest.raises(ModelFolderError, match="an encoder with Dense"):
        load_model(folder)
