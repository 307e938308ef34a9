"""A trained folder, a local Hub, and a way to run the real client against it."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from hf_xmc import LabelIndex, XMCDualEncoderModel
from hf_xmc.hub import refresh, write_model_card
from tests.hub.local_hub import TOKEN, Hub
from tests.hub.trained import JUNK, LABELS, METRICS, MORE_JUNK, RUN


@pytest.fixture
def trained_folder(tiny_encoder: str, tmp_path: Path) -> Path:
    """What training and indexing leave behind, with files that belong to the run and not to the model."""
    folder = tmp_path / "trained"
    model = XMCDualEncoderModel.from_encoder(tiny_encoder, projection_dim=16, max_query_length=24)
    model.save_pretrained(folder)
    labels = Dataset.from_dict(LABELS)
    LabelIndex.build(model.encode_labels(labels["text"][:]), labels).save_pretrained(folder)
    (folder / "run.json").write_text(json.dumps(RUN))
    refresh(folder)
    write_model_card(folder, METRICS)
    for name in (*JUNK, *MORE_JUNK):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"not part of the model")
    return folder


@pytest.fixture
def client(hub: Hub, hub_environment: dict[str, str], python: str) -> Callable[..., dict[str, Any]]:
    """Runs a script of `clients/` in a process of its own, whose Hub is the server and whose cache is empty.

    The endpoint is read when huggingface_hub is imported: hence the process.
    """

    def run(script: str, *arguments: str | Path, token: str | None = TOKEN) -> dict[str, Any]:
        shutil.rmtree(hub_environment["HF_HOME"], ignore_errors=True)
        environment = {**hub_environment, **({"HF_TOKEN": token} if token is not None else {})}
        command = [python, str(Path(__file__).parent / "clients" / script), *map(str, arguments)]
        done = subprocess.run(
            command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=240
        )
        assert done.returncode == 0, f"{script} failed:\n{done.stdout}\n{done.stderr}"
        return {**json.loads(done.stdout.splitlines()[-1]), "stderr": done.stderr}

    return run
