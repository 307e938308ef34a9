"""A trained folder, a local Hub, and a way to run the real client against it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

import hf_xmc
from hf_xmc import LabelIndex, XMCDualEncoderModel
from hf_xmc.hub import write_model_card
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
    write_model_card(folder, METRICS)
    for name in (*JUNK, *MORE_JUNK):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"not part of the model")
    return folder


@pytest.fixture
def hub() -> Iterator[Hub]:
    """A local server that speaks the Hub's HTTP; whatever the client asked must have been understood."""
    server = Hub()
    yield server
    server.stop()
    assert not server.unknown, "the client asked for what the test server does not speak"


@pytest.fixture
def client(hub: Hub, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Runs a script of `clients/` in a process of its own, whose Hub is the server and whose cache is empty.

    The endpoint is read when huggingface_hub is imported: hence the process.
    """

    def run(script: str, *arguments: str | Path, token: str | None = TOKEN) -> dict[str, Any]:
        home = tmp_path / "hf-home" / str(len(hub.requests))
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
        environment |= {
            "HF_ENDPOINT": hub.url,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_XET": "1",
            "OMP_NUM_THREADS": "1",
        }
        environment |= {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "NO_PROXY": "127.0.0.1"}
        environment["PYTHONPATH"] = str(Path(hf_xmc.__file__).parents[1])
        if token is not None:
            environment["HF_TOKEN"] = token
        command = [sys.executable, str(Path(__file__).parent / "clients" / script), *map(str, arguments)]
        done = subprocess.run(
            command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=240
        )
        assert done.returncode == 0, f"{script} failed:\n{done.stdout}\n{done.stderr}"
        return {**json.loads(done.stdout.splitlines()[-1]), "stderr": done.stderr}

    return run
