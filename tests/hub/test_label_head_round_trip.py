"""A model whose labels have vectors of their own, pushed and loaded."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from datasets import Dataset

from hf_xmc import XMCDualEncoderModel, XMCPipeline
from hf_xmc.errors import ModelFolderError
from hf_xmc.hub import write_model_card
from hf_xmc.hub.folder import belongs, files_to_push
from hf_xmc.modeling import LabelHead, catalogue_fingerprint
from tests.hub.local_hub import Hub
from tests.hub.test_hub_round_trip import REPO, Client
from tests.hub.trained import LABELS, PUSHED

FILE = "label_head.safetensors"
FUSION = {"text": 0.25, "classifier": 0.75, "text_by_frequency": 0.1, "classifier_by_frequency": 0.2}


@pytest.fixture
def headed(trained_folder: Path) -> Path:
    """The trained folder, with a classifier."""
    model = XMCDualEncoderModel.from_pretrained(trained_folder)
    vectors = torch.randn(6, 16, generator=torch.Generator().manual_seed(0)).half()
    model.label_head = LabelHead("classifier", vectors, torch.arange(6), catalogue_fingerprint(LABELS["uid"]), FUSION)
    XMCPipeline.build(model, Dataset.from_dict(LABELS)).save_pretrained(trained_folder)
    write_model_card(trained_folder)
    return trained_folder


def test_a_label_head_goes_along(headed: Path, hub: Hub, client: Client) -> None:
    report = client("push_head.py", headed, REPO)
    assert report["pipeline_equal"]
    assert report["models_equal"] == [True, True]
    assert set(hub.files(REPO, "v1")) == {*PUSHED, FILE, ".gitattributes"}
    assert FILE in hub.files("tester/model-only")
    card = hub.files(REPO, "v1")["README.md"].decode()
    assert "0.25 text and 0.75 classifier for the rarest labels, 0.35 and 0.95 for the most frequent one" in card
    assert "Labels that are added later are scored by their text alone." in card


def test_the_code_in_the_repository_knows_the_head(headed: Path, hub: Hub, client: Client) -> None:
    client("push.py", headed, REPO)
    report = client("remote_code.py", REPO)
    model = XMCDualEncoderModel.from_pretrained(headed)
    assert not report["imported"]
    assert report["labels"] == model.encode_labels(["a label", "a new one"], [2, -1]).tolist()
    assert belongs(FILE), "a later model without a head takes it from the repository"


def test_a_folder_whose_index_needs_the_head_is_not_pushed_without_it(headed: Path) -> None:
    assert FILE in files_to_push(headed)
    (headed / FILE).unlink()
    with pytest.raises(ModelFolderError, match=r"without label_head.safetensors; run hf-xmc train"):
        files_to_push(headed)
