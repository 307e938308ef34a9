"""Labels with many texts in a pipeline: live edits, explanations, and the folder."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset
from typer.testing import CliRunner

from hf_xmc import Pooling, XMCDualEncoderModel, XMCPipeline, explain, load_xmc_dataset
from hf_xmc.cli.main import app
from hf_xmc.errors import DataError
from hf_xmc.inference.explain.page import render_explanations
from tests.conftest import write_lines

TABLE = {
    "uid": ["car", "boat", "train"],
    "text": ["red house", "black river", "white stone"],
    "description": ["a green tree", None, "a brown bird"],
    "parents": [["boat"], [], []],
}


@pytest.fixture(scope="module")
def model(tiny_encoder: str) -> XMCDualEncoderModel:
    return XMCDualEncoderModel.from_encoder(tiny_encoder)


@pytest.fixture(params=["max", "logsumexp", "mean"])
def rich(request: pytest.FixtureRequest, model: XMCDualEncoderModel) -> XMCPipeline:
    return XMCPipeline.build(model, Dataset.from_dict(TABLE), texts="rich", pooling=Pooling(request.param))


def test_one_descriptor_changes_the_ranking_at_once(rich: XMCPipeline, tmp_path: Path) -> None:
    text = "blue bird house"
    before = {tag["uid"]: tag["score"] for tag in rich(text)}
    rich.set_label_texts({"boat": {"descriptor": [text]}})
    after = {tag["uid"]: tag["score"] for tag in rich(text)}
    assert after["boat"] > before["boat"]
    assert {uid: after[uid] for uid in ("car", "train")} == pytest.approx({u: before[u] for u in ("car", "train")})
    rich.save_pretrained(tmp_path)
    assert rich(text) == XMCPipeline.from_pretrained(tmp_path)(text)
    rich.set_label_texts({"boat": {"descriptor": []}})
    assert {tag["uid"]: tag["score"] for tag in rich(text)} == pytest.approx(before, abs=1e-6)
    for wrong, message in (
        ({"colour": "red"}, "kind 'colour'"),
        ({"descriptor": " "}, "an empty text"),
        ({"name": ["a", "b"]}, "2 names"),
    ):
        with pytest.raises(DataError, match=message):
            rich.set_label_texts({"boat": wrong})
    assert {tag["uid"]: tag["score"] for tag in rich(text)} == pytest.approx(before, abs=1e-6)


def test_names_change_and_other_kinds_stay(rich: XMCPipeline) -> None:
    rich.update_labels({"car": ["blue car", "blue house"]})
    row = rich.index.labels[0]
    assert (row["text"], dict(zip(row["texts"], row["kinds"], strict=True))) == (
        "blue car",
        {"blue house": "synonym", "a green tree": "definition", "black river": "parent"},
    )
    rich.add_labels([{"uid": "new", "text": "green car", "description": "a white river", "parents": ["boat"]}])
    row = rich.index.labels[3]
    assert (row["texts"], row["kinds"]) == (["a white river", "black river"], ["definition", "parent"])
    assert rich("a white river", k=4, allowed=["new"])[0]["uid"] == "new"


def test_an_explanation_names_the_text_that_matched(rich: XMCPipeline) -> None:
    [found] = explain(rich, "a green tree", label_ids=["car"])
    best, *others = found.label_texts
    assert (best.text, best.kind) == ("a green tree", "definition")
    assert {its.kind for its in others} == {"name", "parent"}
    assert best.score > max(its.score for its in others)
    assert sum(its.share for its in found.label_texts) == pytest.approx(1)
    assert found.to_dict()["label_texts"][0]["text"] == "a green tree"
    assert "Texts of the label" in render_explanations([found])
    # An index of names alone has nothing to tell.
    plain = XMCPipeline.build(rich.model, Dataset.from_dict(TABLE))
    assert explain(plain, "a green tree", label_ids=["car"])[0].label_texts == []
    plain.set_label_texts({"boat": {"descriptor": ["a blue tree"]}})
    assert plain("a blue tree", k=1)[0]["uid"] == "boat"
    assert explain(plain, "a blue tree", label_ids=["boat"])[0].label_texts[0].kind == "descriptor"


def test_the_command_learns_weights_and_says_so(tiny_encoder: str, toy: Path, tmp_path: Path) -> None:
    run = str(tmp_path / "run")
    made = CliRunner().invoke(
        app, ["index", tiny_encoder, "--dataset", str(toy), "--texts", "rich", "--output_dir", run]
    )
    assert made.exit_code == 0, made.output
    assert "Texts of labels by" in made.output
    tagger = XMCPipeline.from_pretrained(run)
    assert tagger.index.pooling is not None
    assert len(tagger(load_xmc_dataset(toy).queries["test"]["text"][0])) == 5
    wrong = CliRunner().invoke(app, ["index", run, "--texts", "rich", "--pool", "median"])
    assert wrong.exit_code != 0
    assert np.isfinite(tagger.predict(["a red car"], k=3).scores).all()


def test_descriptors_from_answers_and_from_a_table(rich: XMCPipeline, tmp_path: Path) -> None:
    run = tmp_path / "run"
    rich.save_pretrained(run)

    def invoke(*arguments: str) -> str:
        made = CliRunner().invoke(app, ["describe", str(run), *arguments])
        assert made.exit_code == 0, made.output
        return made.output

    prompts = tmp_path / "prompts.jsonl"
    assert "3 prompts written" in invoke("--prompts", str(prompts))
    asked = {row["uid"]: row["prompt"] for row in map(json.loads, prompts.read_text().splitlines())}
    assert '"red house" (a green tree)' in asked["car"]
    said = [{"uid": "car", "answer": "Sure:\n- blue birds\n- a stone"}, {"uid": "boat", "answer": "I cannot say."}]
    write_lines(tmp_path / "answers.jsonl", said)
    output = " ".join(invoke("--answers", str(tmp_path / "answers.jsonl")).split())
    assert "1 labels of" in output
    assert "1 answers are not a list" in output
    (tmp_path / "texts.csv").write_text("uid,text,kind\nboat,green bird,\nboat,black boat,synonym\n")
    invoke("--texts", str(tmp_path / "texts.csv"))
    tagger = XMCPipeline.from_pretrained(run)
    rows = tagger.index.labels
    assert dict(zip(rows[0]["texts"], rows[0]["kinds"], strict=True))["blue birds"] == "descriptor"
    assert dict(zip(rows[1]["texts"], rows[1]["kinds"], strict=True)) == {
        "green bird": "descriptor",
        "black boat": "synonym",
    }
    assert explain(tagger, "green bird", label_ids=["boat"])[0].label_texts[0].text == "green bird"
    wrong = CliRunner().invoke(app, ["describe", str(run)])
    assert wrong.exit_code == 2
    (tmp_path / "texts.csv").write_text("uid,text\nnobody,green bird\n")
    with pytest.raises(DataError, match="'nobody' is not in the index"):
        CliRunner().invoke(app, ["describe", str(run), "--texts", str(tmp_path / "texts.csv")], catch_exceptions=False)
