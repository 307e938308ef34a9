"""`transformers.pipeline("xmc-tagging")`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import pipeline as make_pipeline

import hf_xmc
from hf_xmc import XMCPipeline

TEXTS = ["a red car", "the river", "two blue birds in a brown house " * 3]


@pytest.fixture
def folder(fitted: XMCPipeline, tmp_path: Path) -> str:
    fitted.save_pretrained(tmp_path / "model")
    return str(tmp_path / "model")


def test_it_is_our_pipeline(folder: str, fitted: XMCPipeline) -> None:
    tagger = make_pipeline("xmc-tagging", model=folder, device="cpu")
    assert tagger(TEXTS[0]) == fitted(TEXTS[0])
    assert tagger(TEXTS, top_k=2, batch_size=2) == fitted(TEXTS, k=2, batch_size=2)
    assert tagger(TEXTS, k=12, threshold=0.3) == fitted(TEXTS, k=12, threshold=0.3)
    assert tagger(TEXTS, conformal=0.9) == fitted(TEXTS, conformal=0.9)
    stream = tagger((text for text in TEXTS), top_k=1)
    first = next(stream)
    assert [first, *stream] == fitted(TEXTS, k=1)
    assert tagger([]) == []


def test_ids_and_labels_as_transformers_names_them(folder: str) -> None:
    tagger = make_pipeline("xmc-tagging", model=folder, device="cpu")
    [best] = tagger(TEXTS[0], top_k=1)
    assert tagger.id2label[best["id"]] == best["label"]
    assert tagger.label2id[best["label"]] == best["id"]
    config = json.loads((Path(folder) / "config.json").read_text())
    assert "id2label" not in config, "a million labels would be 58 MB"
    [new] = tagger.tagger.add_labels(["a bridge"])
    assert tagger.id2label[new] == "a bridge"
    assert tagger.label2id["a bridge"] == new == len(tagger.id2label) - 1
    tagger.tagger.remove_labels([int(new)])
    assert new not in tagger.id2label
    assert "a bridge" not in tagger.label2id


def test_arguments_may_be_given_at_the_start(folder: str, fitted: XMCPipeline, tmp_path: Path) -> None:
    tagger = make_pipeline("xmc-tagging", model=folder, device="cpu", top_k=3, batch_size=2)
    assert tagger(TEXTS) == fitted(TEXTS, k=3, batch_size=2)
    assert tagger(TEXTS, top_k=1) == fitted(TEXTS, k=1, batch_size=2)
    tagger.save_pretrained(tmp_path / "copy")
    assert XMCPipeline.from_pretrained(tmp_path / "copy")(TEXTS) == fitted(TEXTS)


@pytest.mark.parametrize(
    "imports",
    [
        "from transformers import pipeline, AutoModel; import hf_xmc",
        "import hf_xmc; from transformers import AutoTokenizer, AutoModel, pipeline",
        pytest.param("import hf_xmc; from transformers import pipeline", marks=pytest.mark.slow),
        "from transformers import pipeline; import hf_xmc",
        pytest.param("import torch, hf_xmc; from transformers import pipeline, Trainer", marks=pytest.mark.slow),
    ],
)
def test_the_import_is_enough_in_any_order(folder: str, imports: str, python: str) -> None:
    code = f"""
import sys
assert not {{"transformers", "hf_xmc"}} & {{*sys.modules}}
{imports}
assert len(pipeline("xmc-tagging", model={folder!r})("a red car", top_k=2)) == 2
from transformers import AutoModel
assert type(AutoModel.from_pretrained({folder!r})).__name__ == "XMCDualEncoderModel"
"""
    environment = {**os.environ, "XMC_TEST_NO_TRANSFORMERS": "1"}
    root = Path(hf_xmc.__file__).parents[1]
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, cwd=root, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]


def test_the_import_loads_nothing_heavy() -> None:
    code = "import hf_xmc, sys; assert not {'torch', 'transformers', 'numpy', 'faiss'} & set(sys.modules)"
    root = Path(hf_xmc.__file__).parents[1]
    assert subprocess.run([sys.executable, "-c", code], cwd=root).returncode == 0
