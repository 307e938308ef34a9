"""What is uploaded, and what is refused before anything is."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub import CommitOperationAdd

from hf_xmc.errors import ModelFolderError
from hf_xmc.hub import push
from hf_xmc.hub.folder import files_to_push
from hf_xmc.hub.push import push_to_hub
from tests.hub.trained import PUSHED


def test_only_files_of_a_trained_folder_are_chosen(trained_folder: Path) -> None:
    assert files_to_push(trained_folder) == PUSHED


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("config.json", "hf-xmc train"),
        ("model.safetensors", "hf-xmc train"),
        ("tokenizer.json", "AutoTokenizer"),
        ("labels.parquet", "hf-xmc index"),
        ("index/index.faiss", "hf-xmc index"),
        ("index/index.json", "hf-xmc index"),
    ],
)
def test_a_missing_file_is_named_with_its_cure(trained_folder: Path, name: str, hint: str) -> None:
    (trained_folder / name).unlink()
    with pytest.raises(ModelFolderError, match=name) as error:
        push_to_hub(trained_folder, "tester/never-made")
    assert hint in str(error.value)


def test_a_card_is_written_where_there_is_none(trained_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (trained_folder / "README.md").unlink()
    sent: list[str] = []

    class Api:
        def __init__(self, token: str | None = None) -> None: ...

        def create_repo(self, repo_id: str, **options: object) -> SimpleNamespace:
            return SimpleNamespace(repo_id=repo_id)

        def repo_info(self, repo_id: str, **options: object) -> SimpleNamespace:
            return SimpleNamespace(sha="0" * 40, siblings=[])

        def create_commit(self, repo_id: str, operations: list[CommitOperationAdd], **options: object) -> str:
            sent.extend(operation.path_in_repo for operation in operations)
            return "done"

    monkeypatch.setattr(push, "HfApi", Api)
    assert push_to_hub(trained_folder, "tester/tagger") == "done"
    assert sent == PUSHED


def test_all_that_is_missing_is_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(ModelFolderError, match=r"config\.json, labels\.parquet, .*index\.json, model\.safetensors"):
        files_to_push(tmp_path)
    with pytest.raises(ModelFolderError, match="no such folder"):
        files_to_push(tmp_path / "nowhere")


def test_a_shard_that_the_map_names_must_be_there(trained_folder: Path) -> None:
    (trained_folder / "model.safetensors").unlink()
    (trained_folder / "model-00001-of-00002.safetensors").unlink()
    weight_map = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (trained_folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    (trained_folder / "model-00002-of-00002.safetensors").write_bytes(b"")
    with pytest.raises(ModelFolderError, match="model-00001-of-00002"):
        files_to_push(trained_folder)


def test_another_kind_of_model_is_refused(trained_folder: Path) -> None:
    (trained_folder / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ModelFolderError, match="model_type 'bert'"):
        files_to_push(trained_folder)
