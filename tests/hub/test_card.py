"""The model card: what the Hub reads and what people read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from datasets import Dataset
from huggingface_hub import ModelCard

from hf_xmc import XMCTrainingArguments, load_xmc_dataset
from hf_xmc.hub.card import is_hub_id, model_card, readdress, write_model_card
from hf_xmc.hub.run import changed_arguments, describe_run
from tests.hub.trained import LABELS, METRICS, RUN


def test_metadata_for_the_hub() -> None:
    data = ModelCard(model_card("me/tagger", RUN, METRICS, license="cc-by-sa-4.0")).data
    assert data.library_name == "hf_xmc"
    assert data.pipeline_tag is None, "there is no widget code of the Hub that would run"
    assert data.base_model == "sentence-transformers/all-MiniLM-L6-v2"
    assert data.license == "cc-by-sa-4.0"
    assert data.datasets is None, "the bundled sample is no data set of the Hub"
    assert "extreme-multi-label-classification" in data.tags
    assert data.model_name == "tagger"
    found = {
        (r.metric_type, r.metric_name, r.metric_value, r.dataset_name, r.dataset_split) for r in data.eval_results
    }
    assert ("precision@1", "P@1", 0.571, "sample", "test") in found
    assert ("ndcg@5", "nDCG@5", 0.5, "sample", "test") in found
    assert len(found) == 4


def test_the_widget_of_the_hub_is_true(trained_folder: Path) -> None:
    card = ModelCard(write_model_card(trained_folder).read_text())
    assert (card.data.library_name, card.data.pipeline_tag) == ("sentence-transformers", "feature-extraction")
    for name in ("modules.json", "modeling_xmc.py"):
        (trained_folder / name).unlink()
    card = ModelCard(write_model_card(trained_folder).read_text())
    assert card.data.library_name == "hf_xmc"
    assert "SentenceTransformer" not in card.text
    assert "AutoModel" not in card.text


def test_languages_hardware_and_examples_between_words() -> None:
    run = {
        **RUN,
        "train_seconds": 7200,
        "hardware": {"device": "CPU (2 cores)", "count": 1, "watts": 20},
        "data": {**RUN["data"], "language": "en"},  # type: ignore[dict-item]
    }
    labels = Dataset.from_dict({"uid": ["a"], "text": ["word " * 19 + "surprising end"]})
    card = model_card("me/tagger", run, labels=labels)
    assert ModelCard(card).data.language == "en"
    assert "Time: 7,200 seconds on CPU (2 cores), about 0.04 kWh (an estimate, from 20 W)" in card
    assert "word word…" in card, "cut between words"


def test_a_local_encoder_is_no_base_model(tiny_encoder: str) -> None:
    for encoder in (tiny_encoder, "./model", "../model", "a/b/c", ""):
        card = model_card("me/tagger", {**RUN, "encoder": encoder})
        assert ModelCard(card).data.base_model is None
        assert tiny_encoder not in card


def test_a_data_set_of_the_hub_is_linked() -> None:
    run = {"data": {"name": "someone/catalogue"}}
    assert ModelCard(model_card("me/tagger", run)).data.datasets == ["someone/catalogue"]


def test_text_for_people() -> None:
    config = {"projection_dim": 16, "normalize": True, "max_query_length": 24, "share_encoders": True}
    card = model_card("me/tagger", RUN, METRICS, Dataset.from_dict(LABELS), config)
    assert 'XMCPipeline.from_pretrained("me/tagger")' in card
    assert "| **this model** | 0.571 | 0.325 | 0.500 | 0.400 |" in card
    assert "| popularity | 0.125 | 0.087 |  |  |" in card or "| popularity | 0.125 | 0.088 |  |  |" in card
    assert "propensity (a 0.55, b 1.5), k 5, seed 42" in card
    assert "| `learning_rate` | 0.0003 |" in card
    assert "/home/x" not in card
    assert "catalogue of 6 labels" in card
    assert "| 3 | topic_1 | Proteins \\| RNA |" in card
    assert "&lt;b>Plants" in card
    assert "EDAM [CC BY-SA 4.0](https://creativecommons.org/licenses/by-sa/4.0/)" in card
    assert "0123abcd" in card
    assert "312 seconds" in card
    assert "16 dimensions" in card
    assert "cut after 24 tokens" in card
    assert "@inproceedings{gupta2024dexml" in card
    assert "dahiya2023ngame" not in card, "the run names one paper"


@pytest.mark.parametrize("missing", [*RUN, "everything"])
def test_missing_parts_leave_no_traces(missing: str) -> None:
    run = {} if missing == "everything" else {key: value for key, value in RUN.items() if key != missing}
    card = model_card("me/tagger", run)
    for trace in ("None", "Undefined", "{}", "[]", "\n\n\n", "## Results", "## Labels"):
        assert trace not in card
    assert ModelCard(card).data.eval_results is None
    assert card.count("```") % 2 == 0


def test_both_papers_by_default_and_others_by_record() -> None:
    card = model_card("me/tagger")
    assert "gupta2024dexml" in card
    assert "dahiya2023ngame" in card
    later = {"title": "A later paper", "url": "https://example.org/later", "bibtex": "@misc{later}"}
    assert "[A later paper](https://example.org/later)" in model_card("me/tagger", {"paper": [later, "2401.00001"]})


def test_arguments_of_each_stage_without_what_is_local(tmp_path: Path) -> None:
    first = XMCTrainingArguments(str(tmp_path), learning_rate=2e-4, use_cpu=True, hub_token="hf_secret")
    last = XMCTrainingArguments(str(tmp_path), label_strategy="in_batch", logging_steps=3, seed=7)
    data = load_xmc_dataset("sample")
    run = describe_run(data, last, "gpt2", 12.3, first_stage=changed_arguments(first))
    card = model_card("me/tagger", json.loads(json.dumps(run)))
    shown = [line.split("`")[1] for line in card.splitlines() if line.startswith("| `")]
    assert shown[0] == "learning_rate"
    assert set(shown[1:]) == {"label_strategy", "seed"}
    assert card.index("First stage") < card.index("`learning_rate`") < card.index("Last stage")
    assert data.fingerprint() in card
    assert "12 seconds" in card
    assert str(tmp_path) not in card
    assert "hf_secret" not in card


def test_write_model_card_reads_the_folder(trained_folder: Path) -> None:
    text = write_model_card(trained_folder, METRICS, license="apache-2.0").read_text()
    assert f'from_pretrained("{trained_folder.as_posix()}")' in text
    assert "catalogue of 6 labels" in text
    assert "published under apache-2.0" in text
    assert ModelCard(text).data.eval_results[0].metric_value == 0.571
    assert not list(trained_folder.glob(".*tmp"))
    assert "## Results" not in write_model_card(trained_folder).read_text()
    (trained_folder / "metrics.json").write_text(json.dumps(METRICS))
    assert "## Results" in write_model_card(trained_folder).read_text()


def test_readdress_keeps_what_was_written_by_hand() -> None:
    card = model_card("outputs/model", RUN, METRICS).replace("## Limits", "Ask us. \n\n## Limits")
    card += '\nAutoModel.from_pretrained("someone/else")\n'
    moved = readdress(card, "me/tagger")
    assert ModelCard(moved).data.model_name == "tagger"
    assert "outputs/model" not in moved
    assert "Ask us. " in moved
    assert 'AutoModel.from_pretrained("someone/else")' in moved
    assert readdress("No metadata, no code.\n", "me/tagger") == "No metadata, no code.\n"


def test_hub_ids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert is_hub_id("outputs/model")
    (tmp_path / "outputs" / "model").mkdir(parents=True)
    assert not is_hub_id("outputs/model"), "a folder that is there is meant"
    assert is_hub_id("gpt2")
    assert not is_hub_id("gpt2", namespace=True)


def test_the_card_says_what_was_fitted_beside() -> None:
    plain = model_card("me/tagger")
    assert "memory" not in plain
    memory = {"num_queries": 3618, "settings": {"weight": 0.5}}
    card = model_card("me/tagger", memory=memory, confidence={"settings": {"level": 0.9, "num_queries": 200}})
    assert "3,618 training queries vote with their labels (weight 0.5)" in card
    assert "Fitted on 200 held-out queries" in card
    assert "keep 90% of the true labels" in card


def test_what_a_data_set_says_of_itself_cannot_open_a_tag_or_a_heading() -> None:
    said = "set <script>alert(1)</script>\n\n## Heading"
    card = model_card("folder", run={"data": {"name": said, "source": said, "licence": said}})
    body = card.split("---", 2)[2]
    assert "<script" not in body
    assert "\n## Heading" not in body
    assert "set &lt;script>" in body
