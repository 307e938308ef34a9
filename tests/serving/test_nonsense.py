"""Requests that no client should send: a few hundred of the thousands of `make fuzz`, always the same."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from hf_xmc import XMCPipeline
from hf_xmc.serving.access import Keys
from hf_xmc.serving.annif import Project
from hf_xmc.serving.app import build_app
from hf_xmc.serving.service import TaggingService

SCRIPTS = Path(__file__).parents[2] / "scripts"
REQUESTS = int(os.environ.get("HF_XMC_FUZZ", "300"))


@pytest.fixture
def fuzz(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(SCRIPTS)
    return import_module("fuzz_server")


@pytest.fixture
def client(new_pipeline: Callable[[], XMCPipeline]) -> Any:
    service = TaggingService(new_pipeline())
    keys = Keys(("owner",), ("owner",))
    with TestClient(build_app(service, keys, page=False, annif=Project("p"), tools=True, host="testserver")) as client:
        yield client


def test_no_request_is_an_unexpected_error(client: TestClient, fuzz: Any, caplog: pytest.LogCaptureFixture) -> None:
    statuses: set[int] = set()
    for sent in islice(fuzz.requests(seed=0), REQUESTS):
        headers = {name: value.encode("latin-1", "replace") for name, value in sent.headers.items()}
        if sent.path.startswith("//"):  # which this client does not send
            continue
        answer = client.request(sent.method, sent.path, headers=headers, content=sent.body)
        statuses.add(answer.status_code)
        assert answer.status_code < 500 or answer.status_code in fuzz.LIMITS, (sent, answer.text)
        if answer.status_code >= 400 and sent.method != "HEAD" and sent.path.startswith("/api"):
            assert answer.json()["error"]["message"], sent
    assert {200, 400, 404, 405, 422} <= statuses
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
