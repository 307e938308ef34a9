"""A trained folder in other forms: graphs that give the same predictions, and label vectors as files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file
from typer.testing import CliRunner

from hf_xmc import LabelIndex, Passages, XMCDualEncoderModel, XMCPipeline, load_xmc_dataset
from hf_xmc.cli.main import app
from hf_xmc.errors import ModelFolderError, SettingsError
from hf_xmc.hub.folder import files_to_push
from hf_xmc.inference.export.export import export
from hf_xmc.inference.graph_encoder import GraphEncoder
from hf_xmc.retrieval.catalogue import NotInIndex
from hf_xmc.retrieval.channels import QueryMemory

TEXTS = ["a red car", "?", "blue " * 40, "a green house and more words than fit into the maximum length of a query"]
ENGINES = {"onnx": "onnxruntime", "openvino": "openvino"}


@pytest.fixture(scope="module")
def exported(tiny_encoder: str, toy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with graphs of both kinds, one projection for each side, and an int8 version."""
    folder = tmp_path_factory.mktemp("export") / "run"
    model = XMCDualEncoderModel.from_encoder(
        tiny_encoder, projection_dim=16, max_query_length=12, max_label_length=6, label_prefix="label: ", seed=0
    )
    assert model.label_projection is not None
    model.label_projection.weight.data.add_(0.1)
    XMCPipeline.build(model, load_xmc_dataset(toy).labels).save_pretrained(folder)
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    done = CliRunner().invoke(app, ["export", str(folder), "--to", "onnx", "--int8", "--dataset", str(toy)])
    assert done.exit_code == 0, done.output
    assert "validation, per cent" in done.output
    return folder


def check_backend(folder: Path, backend: str) -> None:
    """The same embeddings and the same labels as with torch."""
    ours = XMCPipeline.from_pretrained(folder)
    theirs = XMCPipeline.from_pretrained(folder, backend=backend, precision="float32")
    assert isinstance(theirs.model, GraphEncoder)
    for name in ("encode_queries", "encode_labels"):
        expected = getattr(ours.model, name)(TEXTS)
        np.testing.assert_allclose(getattr(theirs.model, name)(TEXTS, batch_size=3), expected, atol=1e-5)
    ids, again = ours.predict(TEXTS, 5), theirs.predict(TEXTS, 5)
    np.testing.assert_array_equal(ids.ids, again.ids)
    np.testing.assert_allclose(ids.scores, again.scores, atol=1e-5)
    # Passages of a long text.
    for tagger in (ours, theirs):
        tagger.passages = Passages(tokens=9, overlap=2)
    long = ["a red car and a tree. " * 20, *TEXTS]
    assert len(theirs.passages_of(long[0])) == len(ours.passages_of(long[0])) > 5
    np.testing.assert_allclose(theirs.predict(long, 5).scores, ours.predict(long, 5).scores, atol=1e-5)
    # A label that is added is encoded by the graph.
    for tagger in (ours, theirs):
        tagger.add_labels(["a purple bus"])
    added = [{tag["label"]: tag["score"] for tag in tagger("a purple bus", k=13)} for tagger in (ours, theirs)]
    assert added[1] == pytest.approx(added[0], abs=1e-5)
    assert "a purple bus" in added[0]


def test_onnx_predicts_the_same(exported: Path) -> None:
    check_backend(exported, "onnx")


def test_a_graph_tags_files(exported: Path, tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("a red car\na blue house\n", encoding="utf-8")
    files = ["--input", str(tmp_path / "texts.txt"), "--output", str(tmp_path / "tags.jsonl"), "--k", "2"]
    done = CliRunner().invoke(app, ["predict", str(exported), "--backend", "onnx", "--precision", "float32", *files])
    assert done.exit_code == 0, done.output
    rows = [json.loads(line) for line in (tmp_path / "tags.jsonl").read_text(encoding="utf-8").splitlines()]
    expected = XMCPipeline.from_pretrained(exported)(["a red car", "a blue house"], k=2)
    found = [[label["uid"] for label in row["labels"]] for row in rows]
    assert found == [[tag["uid"] for tag in tags] for tags in expected]


@pytest.mark.parametrize("with_encoder", [True, False])
def test_a_static_tower_goes_with_the_graph(tiny_encoder: str, toy: Path, tmp_path: Path, with_encoder: bool) -> None:
    labels, folder = load_xmc_dataset(toy).labels, tmp_path / "run"
    model = XMCDualEncoderModel.from_encoder(
        tiny_encoder if with_encoder else None, static_dim=8, static_weight=0.3, seed=0
    )
    model.grow_static_tower(model.static_tower.features([*TEXTS, *labels["text"][:]]))  # type: ignore[union-attr]
    model.static_tower.round_to_half()  # type: ignore[union-attr]
    XMCPipeline.build(model, labels).save_pretrained(folder)
    export(folder, "onnx", int8=with_encoder)
    check_backend(folder, "onnx")
    assert any(name.startswith("onnx/words") for name in files_to_push(folder))


@pytest.mark.parametrize("static_dim", [None, 8])
def test_a_static_student_takes_the_place_of_the_encoder(
    tiny_encoder: str, toy: Path, tmp_path: Path, static_dim: int | None
) -> None:
    data = load_xmc_dataset(toy)
    texts, folder = data.queries["train"]["text"][:], tmp_path / "run"
    model = XMCDualEncoderModel.from_encoder(tiny_encoder, static_dim=static_dim, static_weight=0.3, seed=0)
    if model.static_tower is not None:
        model.grow_static_tower(model.static_tower.features([*texts, *data.labels["text"][:]]))
        model.static_tower.round_to_half()
    memory = QueryMemory.build(np.asarray(model.encode_queries(texts)), data.positives("train"), data.num_labels)
    teacher = XMCPipeline(model, XMCPipeline.build(model, data.labels).index, memory=memory)
    teacher.save_pretrained(folder)
    done = CliRunner().invoke(app, ["export", str(folder), "--to", "static", "--dataset", str(toy)])
    assert done.exit_code == 0, done.output
    assert "student" in done.output
    assert "hf-xmc calibrate" in done.output
    student = XMCPipeline.from_pretrained(tmp_path / "run-static")
    assert student.model.query_encoder is None
    assert student.memory is not None, "the space is the same, so channels stay"
    held_out = data.queries["test"]["text"][:]
    ours, theirs = np.asarray(student.model.encode_queries(held_out)), np.asarray(model.encode_queries(held_out))
    shuffled = np.roll(theirs, 1, axis=0)
    assert (ours * theirs).sum(1).mean() > 0.95 > (ours * shuffled).sum(1).mean()
    assert (student.predict(held_out, 2).ids == teacher.predict(held_out, 2).ids).mean() > 0.8
    named = student.predict(data.labels["text"][:], 1, memory=False).ids.ravel()
    assert (named == np.arange(data.num_labels)).mean() > 0.9, "a label's name gives its vector"
    card = (tmp_path / "run-static/README.md").read_text()
    assert "It is a **static student**" in card
    assert "P@5 is" in card
    assert not (tmp_path / "run-static/tokenizer.json").exists()
    with pytest.raises(ModelFolderError, match="it is static already"):
        export(tmp_path / "run-static", "static", dataset=data)
    for output, dataset, reason in ((None, None, "name their data set"), (folder, data, "the teacher's folder")):
        with pytest.raises(SettingsError, match=reason):
            export(folder, "static", output, dataset=dataset)


def run_script(python: str, name: str, folder: Path, **environment: str) -> dict[str, Any]:
    """What a script of this folder prints about TEXTS, in a process of its own."""
    command = [python, str(Path(__file__).with_name(name)), str(folder), json.dumps(TEXTS)]
    done = subprocess.run(
        command, env={**os.environ, **environment}, stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_every_way_to_load_finds_the_same_labels(exported: Path, python: str) -> None:
    tagger = XMCPipeline.from_pretrained(exported)
    expected = tagger.predict(TEXTS, 5)
    # ONNX Runtime where neither torch nor the packages of training can be imported.
    light = run_script(sys.executable, "predict_without_torch.py", exported, USE_TORCH="0")
    assert light["imported"] == []
    found = np.array([[tag["score"] for tag in tags] for tags in light["tags"]])
    np.testing.assert_allclose(found, expected.scores, atol=1e-5)
    ways = {"onnx": np.array([[tag["id"] for tag in tags] for tags in light["tags"]])}
    # The code in the folder, where hf_xmc is not imported.
    remote = run_script(python, "embed_by_remote_code.py", exported)
    assert not remote["imported"]
    ways["AutoModel"] = tagger.rank(np.array(remote["embeddings"], np.float32), 5).ids
    sentences = pytest.importorskip("sentence_transformers").SentenceTransformer(str(exported), device="cpu")
    ways["sentence-transformers"] = tagger.rank(sentences.encode_query(TEXTS), 5).ids
    deep = tagger.predict(TEXTS, len(tagger.index))
    score_of = [dict(zip(ids, scores, strict=True)) for ids, scores in zip(deep.ids, deep.scores, strict=True)]
    for way, ids in ways.items():  # equal, where scores differ by more than rounding
        scores = [[of[label] for label in row] for of, row in zip(score_of, ids, strict=True)]
        np.testing.assert_allclose(scores, expected.scores, atol=1e-5, err_msg=way)


def test_openvino_predicts_the_same(exported: Path) -> None:
    pytest.importorskip("openvino")
    assert export(exported, "openvino").path == exported / "openvino"
    check_backend(exported, "openvino")


def test_int8_is_smaller_and_close(exported: Path) -> None:
    small, whole = (exported / "onnx" / name for name in ("model_int8.onnx", "model.onnx"))
    assert small.stat().st_size < whole.stat().st_size
    about = json.loads((exported / "onnx/onnx.json").read_text())
    assert {*about["int8_cost"]} == {"data", "split", "torch", "int8"}
    tagger = XMCPipeline.from_pretrained(exported, backend="onnx")  # int8, because it was asked for
    expected = XMCPipeline.from_pretrained(exported).model.encode_queries(TEXTS).numpy()
    found = tagger.model.encode_queries(TEXTS)
    assert not np.array_equal(found, expected)
    assert (found * expected).sum(1).min() > 0.95


def test_a_graph_goes_with_its_model(exported: Path, tiny_encoder: str, tmp_path: Path) -> None:
    with pytest.raises(ModelFolderError, match=r"no onnx/onnx.json; run hf-xmc export .* --to onnx"):
        XMCPipeline.from_pretrained(copied(exported, tmp_path, without="onnx"), backend="onnx")
    folder = copied(exported, tmp_path / "other")
    other = XMCDualEncoderModel.from_encoder(tiny_encoder, projection_dim=16, seed=1)
    XMCPipeline.build(other, LabelIndex.from_pretrained(folder).labels).save_pretrained(folder)
    assert not (folder / "onnx").exists(), "it belonged to the model before"


def copied(folder: Path, to: Path, without: str | None = None) -> Path:
    from shutil import copytree, ignore_patterns

    return Path(copytree(folder, to / "copy", ignore=ignore_patterns(without) if without else None))


def test_a_graph_that_was_changed_is_refused(exported: Path, tmp_path: Path) -> None:
    folder = copied(exported, tmp_path)
    with (folder / "onnx/model.onnx").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(ModelFolderError, match=r"onnx/model.onnx: not as saved"):
        XMCPipeline.from_pretrained(folder, backend="onnx", precision="float32")


def test_settings_that_do_not_exist(exported: Path) -> None:
    with pytest.raises(SettingsError, match="expected torch, onnx or openvino"):
        XMCPipeline.from_pretrained(exported, backend="onx")
    with pytest.raises(SettingsError, match="precision is 'int4'"):
        XMCPipeline.from_pretrained(exported, backend="onnx", precision="int4")
    with pytest.raises(SettingsError, match="options of the torch backend"):
        XMCPipeline.from_pretrained(exported, backend="onnx", device="cpu")
    with pytest.raises(SettingsError, match="expected one of onnx, openvino, "):
        export(exported, "gguf")
    with pytest.raises(SettingsError, match="int8 is an option of onnx"):
        export(exported, "vectors", int8=True)


@pytest.mark.parametrize("factory", ["flat", "hnsw", "ivf-flat"])
def test_vectors_of_labels(factory: str, tmp_path: Path) -> None:
    matrix = np.random.default_rng(0).normal(size=(300, 8)).astype(np.float32)
    index = LabelIndex.build(matrix, [f"label {i}" for i in range(300)], factory)
    index.remove([3, 250])
    np.testing.assert_array_equal(index.vectors([7, 299, 7]), matrix[[7, 299, 7]])
    kept = np.setdiff1d(np.arange(300), [3, 250])
    np.testing.assert_array_equal(index.vectors(), matrix[kept])
    assert index.vectors([]).shape == (0, 8)
    with pytest.raises(NotInIndex):
        index.vectors([3])

    index.save_pretrained(tmp_path / "run")
    table = pq.read_table(export(tmp_path / "run", "vectors").path)
    assert table.column_names == ["id", "uid", "text", "vector"]
    assert table["id"].to_pylist() == kept.tolist()
    assert table["text"][3].as_py() == "label 4"
    np.testing.assert_array_equal(np.array(table["vector"].to_pylist(), np.float32), matrix[kept])
    tensors = load_file(export(tmp_path / "run", "vectors", tmp_path / "out.safetensors").path)
    np.testing.assert_array_equal(tensors["vectors"], matrix[tensors["ids"]])
    with pytest.raises(SettingsError, match=r"neither .parquet nor .safetensors"):
        export(tmp_path / "run", "vectors", tmp_path / "out.csv")
