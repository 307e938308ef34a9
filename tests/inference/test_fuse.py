"""Fusing text and classifier: on the command line and by the function, from validation alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from hf_xmc import Positives, XMCDataset, XMCDualEncoderModel, XMCPipeline, load_xmc_dataset
from hf_xmc.cli.main import app
from hf_xmc.errors import DataError, ModelFolderError
from hf_xmc.hub.run import write_json
from hf_xmc.inference.fitting.confidence import fit_confidence, halves
from hf_xmc.inference.fitting.label_head import fuse_head
from hf_xmc.modeling import LabelHead, catalogue_fingerprint
from tests.conftest import write_lines

QUERIES = ["a red car", "the blue river"]


@pytest.fixture(scope="module")
def folder(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy with a validation split that is large enough."""
    made = tmp_path_factory.mktemp("fuse") / "data"
    shutil.copytree(toy, made)
    rows = [json.loads(line) for line in (toy / "trn.jsonl").read_text().splitlines()]
    write_lines(made / "val.jsonl", [{**row, "uid": f"v{i}"} for i, row in enumerate(rows[:90])])
    return made


@pytest.fixture
def data(folder: Path) -> XMCDataset:
    return load_xmc_dataset(folder)


@pytest.fixture
def model(tiny_encoder: str, data: XMCDataset) -> XMCDualEncoderModel:
    """Its classifier knows the middle of each label's training queries, as an encoder that is not trained sees it."""
    made = XMCDualEncoderModel.from_encoder(tiny_encoder, label_head="classifier")
    queries, truth = made.encode_queries(data.queries["train"]["text"][:]), data.positives("train")
    queries = queries - queries.mean(0)
    vectors = torch.zeros(data.num_labels, 32)
    for row in range(len(truth)):
        vectors[truth.row(row)] += queries[row]
    counts = torch.tensor(np.asarray(data.train_label_counts).tolist())
    made.label_head = LabelHead("classifier", vectors, counts, catalogue_fingerprint(data.labels["uid"][:]))
    return made


def run(*args: object) -> str:
    done = CliRunner().invoke(app, [*map(str, args)])
    return done.output if done.exit_code == 0 else f"failed: {done.output}{done.exception}"


def test_the_command(model: XMCDualEncoderModel, data: XMCDataset, folder: Path, tmp_path: Path) -> None:
    tagger = XMCPipeline.build(model, data.labels)
    tagger.run = {"encoder": "someone/tiny", "arguments": {"learning_rate": 1e-3}}
    tagger.add_labels(["a tall green stone"])
    tagger.remove_labels(["brown"])
    fit_confidence(tagger, data, level=0.5).pipeline.save_pretrained(tmp_path)
    write_json({"split": "validation", "metrics": {"P@1": 0.0}, "train_seconds": 12.5}, tmp_path / "metrics.json")
    assert (tmp_path / "confidence.json").is_file()

    output = run("fuse", tmp_path, "--dataset", folder)
    for shown in ("text alone", "classifier alone", "both", "chose nothing (45)", "Chosen: ", "confidence.json"):
        assert shown in output
    assert f"hf-xmc calibrate {tmp_path}" in output.replace("\n", "")

    again = XMCPipeline.from_pretrained(tmp_path)
    head = again.model.label_head
    assert head is not None
    assert head.fusion["text"] + head.fusion["classifier"] == pytest.approx(1)
    assert again.confidence is None
    assert again.memory is None
    assert again.index.removed == {5}
    # What is searched is the formula; the label that came later has its text alone.
    a, b = head.weights()
    texts = again.model.encode_labels(again.index.labels["text"][:])
    fused = a[:, None] * texts[:12] + b[:, None] * torch.nn.functional.normalize(head.vectors, dim=-1)
    expected = again.model.encode_queries(QUERIES) @ torch.cat([fused, texts[12:]]).T
    topk = again.predict(QUERIES, 12)
    assert np.allclose(topk.scores, np.take_along_axis(expected.numpy(), topk.ids, 1), atol=1e-5)
    # The records are those of the new model.
    fusion = again.run["fusion"]
    assert again.run["encoder"] == "someone/tiny"
    assert fusion["metrics"]["both"]["nDCG@5"] >= max(
        fusion["metrics"][f"{w} alone"]["nDCG@5"] for w in ("text", "classifier")
    )
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["metrics"]["P@1"] > 0.1
    assert (metrics["split"], metrics["train_seconds"], metrics["num_queries"]) == ("validation", 12.5, 90)
    card = (tmp_path / "README.md").read_text()
    assert "12 labels have a learned vector, a classifier" in card
    assert f"{head.fusion['text']:.2f} text and {head.fusion['classifier']:.2f} classifier" in card
    assert "largest dot product" in card
    # It may be calibrated and indexed again like any other.
    assert "Written to" in run("calibrate", tmp_path, "--dataset", folder, "--level", "0.5")
    assert "probability" in XMCPipeline.from_pretrained(tmp_path)("a red car")[0]
    assert "12 labels of 32 dimensions indexed" in run("index", tmp_path)
    assert np.allclose(XMCPipeline.from_pretrained(tmp_path).predict(QUERIES, 12).scores, topk.scores, atol=1e-5)


def test_only_a_part_of_validation_teaches(
    model: XMCDualEncoderModel, data: XMCDataset, folder: Path, tmp_path: Path
) -> None:
    fitted = fuse_head(XMCPipeline.build(model, data.labels), data)
    shutil.copytree(folder, tmp_path / "other")
    tuning = set(halves(90, 0)[0].tolist())
    for name in ("val", "tst"):  # other truth for test, and for the validation queries that choose nothing
        rows = [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]
        kept = tuning if name == "val" else set()
        write_lines(
            tmp_path / "other" / f"{name}.jsonl",
            [row if i in kept else {**row, "labels": [0]} for i, row in enumerate(rows)],
        )
    other = fuse_head(XMCPipeline.build(model, data.labels), load_xmc_dataset(tmp_path / "other"))
    assert other.summary["tried"] == fitted.summary["tried"]
    assert other.summary["metrics"] != fitted.summary["metrics"]
    assert other.summary["fusion"] == fitted.summary["fusion"]
    assert model.label_head is not None
    assert model.label_head.fusion == {}, "the pipeline that was given is not changed"
    assert XMCPipeline.build(model, data.labels)(QUERIES) != fitted.pipeline(QUERIES)


@pytest.mark.parametrize("texts", ["alone", "best", "mean"])
def test_the_index_is_of_the_same_kind(model: XMCDualEncoderModel, data: XMCDataset, texts: str) -> None:
    labels = data.labels.add_column("texts", [["scarlet"], *([[]] * 11)])
    tagger = XMCPipeline.build(model, labels, "hnsw", texts=texts, recall_target=0.9)
    index = fuse_head(tagger, data).pipeline.index
    assert (index.factory, index.about["recall_target"], index.about["texts"]) == (
        *("hnsw", 0.9, tagger.index.about["texts"]),
    )
    assert index.index.num_rows == tagger.index.index.num_rows == (13 if texts == "best" else 12)


def test_what_cannot_be_fused(
    model: XMCDualEncoderModel, data: XMCDataset, toy: Path, folder: Path, tmp_path: Path
) -> None:
    tagger = XMCPipeline.build(model, data.labels)
    with pytest.raises(DataError, match=r"validation split of .* has 13 queries"):
        fuse_head(tagger, load_xmc_dataset(toy))
    head = model.label_head
    assert head is not None
    model.label_head = LabelHead("residual", head.vectors)
    XMCPipeline.build(model, data.labels).save_pretrained(tmp_path)
    assert "a residual head, which is already part of the label embeddings" in run(
        "fuse", tmp_path, "--dataset", folder
    )
    model.label_head = None
    with pytest.raises(
        ModelFolderError, match="no label head: there is nothing to fuse; train a classifier with hf-xmc train"
    ):
        fuse_head(XMCPipeline.build(model, data.labels), data)
    assert "no such folder" in run("fuse", tmp_path / "nowhere", "--dataset", folder)


def test_an_index_of_another_table_is_refused_on_the_command_line(
    model: XMCDualEncoderModel, data: XMCDataset, five_rows: Path, tmp_path: Path
) -> None:
    XMCPipeline.build(model, data.labels).save_pretrained(tmp_path)
    before = {path.name: path.read_bytes() for path in (tmp_path / "index").iterdir()}
    assert "vectors of 12 labels, but the label table has 3 rows" in run("index", tmp_path, "--dataset", five_rows)
    assert {path.name: path.read_bytes() for path in (tmp_path / "index").iterdir()} == before


def test_filters_of_labels_that_came_later(model: XMCDualEncoderModel, data: XMCDataset) -> None:
    """They exclude no other label of another query."""
    whole, last = model.label_head, data.num_labels - 1
    assert whole is not None
    catalogue = catalogue_fingerprint(data.labels["uid"][:last])
    model.label_head = LabelHead("classifier", whole.vectors[:last], whole.label_counts[:last], catalogue)
    tagger = XMCPipeline.build(model, data.labels)
    found = fuse_head(tagger, data).summary
    data.filters["validation"] = Positives.from_lists([[last]] * len(data.queries["validation"]))
    filtered = fuse_head(tagger, data).summary
    assert filtered["tried"] == found["tried"]
