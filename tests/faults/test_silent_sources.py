"""Sources that never answer: there is a limit of time, and a sentence."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from hf_xmc.data import hub_access
from hf_xmc.data.dataset import load_xmc_dataset
from hf_xmc.data.files import json_lines
from hf_xmc.errors import DataError, ModelFolderError, Problems
from hf_xmc.retrieval.folder import fetch_folder


@pytest.fixture
def silent_hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A server that takes connections and never says anything, as the Hub."""
    with socket.create_server(("127.0.0.1", 0), backlog=16) as server:
        endpoint = f"http://127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setattr(constants, "ENDPOINT", endpoint)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(hub_access, "PATIENCE", 0.3)
        monkeypatch.setattr(hub_access, "silent_since", {})
        yield endpoint


def test_a_hub_that_does_not_answer(silent_hub: str, caplog: pytest.LogCaptureFixture) -> None:
    """It is asked once, whatever is loaded."""
    for _ in range(2):
        with pytest.raises(ModelFolderError, match="no repository of this name could be downloaded"):
            fetch_folder("nobody/model")
    with pytest.raises(DataError, match="nobody/data"):
        load_xmc_dataset("nobody/data")
    assert [*hub_access.silent_since] == [silent_hub]
    assert caplog.text.count("did not answer within") == 1
    assert not constants.HF_HUB_OFFLINE  # of the process, as before


def test_a_pipe(tmp_path: Path) -> None:
    """Opening one waits until somebody writes to it."""
    pipe = tmp_path / "texts.csv"
    os.mkfifo(pipe)
    with pytest.raises(DataError, match="pipe"):
        [*json_lines(pipe, Problems())]
