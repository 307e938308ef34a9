"""Explanations: the worked numbers of occlusion, gradients and measures on an encoder without secrets."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from hf_xmc import XMCPipeline, load_xmc_dataset
from hf_xmc.cli.main import app
from hf_xmc.errors import SettingsError
from hf_xmc.inference.explain.attribution import cut, integrated_gradients, occlusion, units
from hf_xmc.inference.explain.explain import explain
from hf_xmc.inference.explain.faithfulness import deletions, measure_explanation, noise
from hf_xmc.inference.explain.page import render_explanations
from hf_xmc.metrics.faithfulness import deletion_area, insertion_area, max_sensitivity

TEXT = "red green blue"
LABEL = torch.tensor([[0.6, 0.8]])


class BagOfWords(torch.nn.Module):
    """The mean of word vectors: units (1, 0), (0, 1), (1, 1). Its tokenizer is that of the tiny encoder."""

    class Encoder(torch.nn.Module):
        def __init__(self, table: torch.nn.Embedding) -> None:
            super().__init__()
            self.table = table

        def get_input_embeddings(self) -> torch.nn.Module:
            return self.table

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.tokenizer, self.config = model.tokenizer, model.config
        table = torch.nn.Embedding(len(self.tokenizer), 2)
        torch.nn.init.zeros_(table.weight)
        for word, vector in {"red": (1.0, 0.0), "green": (0.0, 1.0), "blue": (1.0, 1.0)}.items():
            table.weight.data[self.tokenizer.convert_tokens_to_ids(word)] = torch.tensor(vector)
        self.query_encoder, self.static_tower = self.Encoder(table), None
        self.device = torch.device("cpu")

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Any:
        special = torch.isin(input_ids, torch.tensor([2, 3]))  # [CLS] and [SEP] are no words
        words = (~special).sum(1, keepdim=True).clamp(min=1)
        found = self.query_encoder.table(input_ids).sum(1) / words
        return type("Output", (), {"dense": found, "embeddings": found})

    def tower(self, side: str) -> torch.nn.Module:
        return self.query_encoder

    @torch.no_grad()
    def encode_queries(self, texts: list[str]) -> torch.Tensor:
        ids = [torch.tensor([self.tokenizer(text)["input_ids"]]) for text in texts]
        return torch.cat([self(row, torch.ones_like(row)).embeddings for row in ids])


@pytest.fixture
def words(plain: XMCPipeline) -> BagOfWords:
    return BagOfWords(plain.model)


def test_occlusion_by_deletion(words: BagOfWords) -> None:
    given = occlusion(words, TEXT, units(TEXT), LABEL)  # type: ignore[arg-type]
    np.testing.assert_allclose(given, [[-1 / 6, -1 / 15, 7 / 30]], atol=1e-6)
    assert (words.encode_queries([TEXT]) @ LABEL.T).item() == pytest.approx(0.9333, abs=1e-4)


def test_integrated_gradients_sum_to_the_score(words: BagOfWords) -> None:
    pytest.importorskip("captum")
    given, (delta,) = integrated_gradients(words, TEXT, units(TEXT), LABEL)  # type: ignore[arg-type]
    np.testing.assert_allclose(given, [[0.2, 0.8 / 3, 1.4 / 3]], atol=1e-5)
    assert given.sum() == pytest.approx(0.9333, abs=1e-4)
    assert delta == pytest.approx(0, abs=1e-5)


def test_measures() -> None:
    assert deletion_area([0.8, 0.4, 0.2, 0.16]) == pytest.approx(0.45)
    assert insertion_area([0.16, 0.56, 0.72, 0.8]) == pytest.approx(0.7333, abs=1e-4)
    assert max_sensitivity([3, 4], [[3, 3]]) == pytest.approx(0.2)
    assert max_sensitivity([0, 0], [[0, 0]]) == 0
    for wrong, message in (([0.0, 0.1], "above 0"), ([0.5], "at least two")):
        with pytest.raises(ValueError, match=message):
            deletion_area(wrong)
    assert deletions("a b c", [(4, 5), (0, 1)]) == ["a b c", "a b ", " b "]


def test_units_and_what_the_model_sees(plain: XMCPipeline) -> None:
    text = "It's X-ray 3.5: 日本! Really?"
    assert [text[a:b] for a, b in units(text)] == ["It's", "X-ray", "3.5", "日", "本", "Really"]
    assert [text[a:b] for a, b in units("One two. Three!", "sentence")] != []
    sentences = "One two. Three!"
    assert [sentences[a:b] for a, b in units(sentences, "sentence")] == ["One two.", "Three!"]
    plain.model.config.max_query_length = 5
    assert cut(plain.model, "red green blue black white", "query") == "red green blue"
    plain.model.config.query_prefix = "red "
    assert cut(plain.model, "red green blue black white", "query") == "red green"
    assert cut(plain.model, "", "query") == ""


@pytest.mark.parametrize("method", ["occlusion", "gradient"])
def test_an_explanation_of_each_label(fitted: XMCPipeline, toy: Path, method: str) -> None:
    if method == "gradient":
        pytest.importorskip("captum")
    train = load_xmc_dataset(toy).queries["train"]
    text = "a red car is here"
    found = explain(fitted, text, k=2, method=method, train_queries=train)
    assert [one.id for one in found] == [tag["id"] for tag in fitted(text, k=2)]
    for one in found:
        assert [word.text for word in one.words] == text.split()
        assert all(text[word.start : word.end] == word.text for word in one.words)
        assert [word.text for word in one.label_words] == one.label.split()
        assert len(one.neighbours) == 3
        assert [n.similarity for n in one.neighbours] == sorted((n.similarity for n in one.neighbours), reverse=True)
        assert all(one.id in train[n.row]["labels"] and train[n.row]["text"] == n.text for n in one.neighbours)
        assert json.loads(json.dumps(one.to_dict()))["label"] == one.label
    if method == "gradient":
        query, label = fitted.model.encode_queries([text]), fitted.model.encode_labels([found[0].label])
        assert found[0].score == pytest.approx((query @ label.T).item(), abs=1e-5)
        assert found[0].convergence_delta is not None
        assert abs(found[0].convergence_delta) < 0.05


def test_labels_of_choice_and_what_cannot_be(fitted: XMCPipeline, toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert [one.id for one in explain(fitted, "a red car", label_ids=[7, 1])] == [7, 1]
    uids = fitted.index.labels["uid"][:]
    assert [one.id for one in explain(fitted, "a red car", label_ids=[uids[7], 1])] == [7, 1]
    with pytest.raises(SettingsError, match="'nowhere' is not in the index"):
        explain(fitted, "a red car", label_ids=["nowhere"])
    assert explain(fitted, "...", label_ids=[7])[0].words == []
    assert explain(fitted, "a red car", threshold=2.0) == []
    with pytest.raises(ValueError, match="outside the label table"):
        explain(fitted, "a red car", label_ids=[99])
    with pytest.raises(ValueError, match="expected one of occlusion, gradient"):
        explain(fitted, "a red car", method="magic")
    with pytest.raises(ValueError, match="no mask token"):
        explain(fitted, "a red car", how="mask")
    with pytest.raises(ValueError, match="the training split"):
        explain(fitted, "a red car", train_queries=load_xmc_dataset(toy).queries["test"])
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    with pytest.raises(ImportError, match=r"hf-xmc\[explain\]"):
        explain(fitted, "a red car", method="gradient")


def test_the_pipeline_explains_its_tags(fitted: XMCPipeline) -> None:
    tags = fitted(["a red car", "the river"], k=2, explain=True)
    assert [[tag["explanation"]["id"] for tag in row] for row in tags] == [[tag["id"] for tag in row] for row in tags]
    assert [word["text"] for word in tags[1][0]["explanation"]["words"]] == ["the", "river"]
    assert "explanation" not in fitted("a red car")[0]


def test_measured_explanations(fitted: XMCPipeline) -> None:
    (one,) = explain(fitted, "a red car is here", k=1)
    before = fitted.model.query_encoder.get_input_embeddings().weight.clone()
    found = measure_explanation(fitted.model, one)
    assert torch.equal(before, fitted.model.query_encoder.get_input_embeddings().weight)
    assert set(found) == {
        *("deletion", "insertion", "random_deletion", "random_insertion", "max_sensitivity", "seconds"),
    }
    assert found["max_sensitivity"] > 0
    # The word that counts most goes first: the next step down is the deepest that a single word can make.
    texts = deletions(one.text, [(w.start, w.end) for w in sorted(one.words, key=lambda w: -w.attribution)])
    label = fitted.model.encode_labels([one.label])
    scores = (fitted.model.encode_queries(texts) @ label.T)[:, 0].numpy()
    assert found["deletion"] == pytest.approx(deletion_area((1 + scores) / 2))
    assert scores[0] - scores[1] == pytest.approx(max(w.attribution for w in one.words), abs=1e-5)
    with pytest.raises(RuntimeError), noise(fitted.model, [5], 0.1, 0):
        raise RuntimeError
    assert torch.equal(before, fitted.model.query_encoder.get_input_embeddings().weight)


def test_the_page_escapes_and_needs_no_network(fitted: XMCPipeline) -> None:
    text = 'a <b>red</b> & "blue" car'
    page = render_explanations(explain(fitted, text, k=2))
    assert "<b>" not in page
    assert "&lt;" in page
    assert "http" not in page.replace("http-equiv", "")
    assert "<script" not in page
    assert page.count("<article>") == 2
    assert "No label to explain" in render_explanations([])


def test_the_command(fitted: XMCPipeline, toy: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    fitted.save_pretrained(folder)
    for name in ("why.html", "why.json"):
        args = ["explain", str(folder), "--text", "a red car", "--k", "2", "--output", str(tmp_path / name)]
        done = CliRunner().invoke(app, [*args, "--dataset", str(toy)], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        assert "red" in done.output
    assert "similar training texts" in (tmp_path / "why.html").read_text()
    assert len(json.loads((tmp_path / "why.json").read_text())) == 2
    uids = [fitted.index.labels["uid"][id_] for id_ in (7, 1, 4)]
    named = [word for uid in uids for word in ("--label", uid)]
    CliRunner().invoke(app, [*args, *named], catch_exceptions=False)
    assert [one["uid"] for one in json.loads((tmp_path / "why.json").read_text())] == uids


def test_measures_are_reachable(fitted: XMCPipeline, tmp_path: Path) -> None:
    found = explain(fitted, ["a red car", "the blue river"], k=1, measure=True, seed=3)
    assert [one.text for one in found] == ["a red car", "the blue river"]
    assert found[0].faithfulness == pytest.approx(
        {**measure_explanation(fitted.model, found[0], seed=3), "seconds": found[0].faithfulness["seconds"]}
    )
    fitted.save_pretrained(tmp_path / "model")
    args = ["explain", str(tmp_path / "model"), "--text", "a red car", "--k", "1", "--measure", "--seed", "3"]
    done = CliRunner().invoke(app, [*args, "--output", str(tmp_path / "why.json")], catch_exceptions=False)
    assert "deletion" in done.output
    assert "max-sensitivity" in done.output
    measured = json.loads((tmp_path / "why.json").read_text())[0]["faithfulness"]
    assert measured["deletion"] == pytest.approx(found[0].faithfulness["deletion"], abs=1e-5)
