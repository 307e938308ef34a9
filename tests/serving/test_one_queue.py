"""Page, API, tools for agents and Annif's API take the same way to the encoder, within the same limits."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

pytest.importorskip("gradio", reason="the extra 'space' is not installed")
from fastapi.testclient import TestClient

from hf_xmc import XMCPipeline
from hf_xmc.serving.annif import Project
from hf_xmc.serving.app import build_app
from hf_xmc.serving.limits import Limits
from hf_xmc.serving.service import TaggingService
from hf_xmc.serving.tagging import Encoded

LIMITS = Limits(text_characters=50, k=3, queue=2, seconds=60)


class Held(TaggingService):
    """A service whose encoder can be held up."""

    def __init__(self, pipeline: XMCPipeline, limits: Limits) -> None:
        super().__init__(pipeline, limits)
        self.go, self.reached, self.batches = threading.Event(), threading.Event(), list[list[str]]()

    def encode(self, texts: Any) -> Encoded:
        self.batches.append(list(texts))
        self.reached.set()
        assert self.go.wait(60)
        return super().encode(texts)


@pytest.fixture(scope="module")
def service(new_pipeline: Callable[[], XMCPipeline]) -> Held:
    return Held(new_pipeline(), LIMITS)


@pytest.fixture(scope="module")
def client(service: Held) -> Iterator[TestClient]:
    with TestClient(build_app(service, annif=Project("p"), tools=True, host="testserver")) as client:
        yield client


@pytest.fixture(autouse=True)
def ready(service: Held) -> None:
    service.batches.clear()
    service.reached.clear()
    service.go.set()


def by_the_api(client: TestClient, text: str, k: int) -> str:
    return client.post("/api/tag", json={"text": text, "k": k}).text


def by_a_batch(client: TestClient, text: str, k: int) -> str:
    return client.post("/api/tag-batch", json={"texts": [text], "k": k}).text


def by_an_agent(client: TestClient, text: str, k: int) -> str:
    call = {"name": "tag_text", "arguments": {"text": text, "k": k}}
    sent = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": call}
    return client.post("/mcp", json=sent, headers={"Accept": "application/json, text/event-stream"}).text


def by_annif(client: TestClient, text: str, k: int) -> str:
    return client.post("/v1/projects/p/suggest", data={"text": text, "limit": k}).text


def by_a_program_of_the_page(client: TestClient, text: str, k: int) -> str:
    sent = client.post("/gradio_api/call/predict", json={"data": [text, k]})
    if sent.status_code != 200:
        return sent.text
    return client.get(f"/gradio_api/call/predict/{sent.json()['event_id']}").text


def by_a_visitor(client: TestClient, text: str, k: int) -> str:
    events = client.get("/config").json()["dependencies"]
    number = next(one["id"] for one in events if one["api_name"] == "tag")
    data = [None, text, "number", k, 50, 90]
    sent = client.post("/gradio_api/queue/join", json={"fn_index": number, "data": data, "session_hash": "visit"})
    if sent.status_code != 200:
        return sent.text
    return client.get("/gradio_api/queue/data", params={"session_hash": "visit"}).text


DOORS = (by_the_api, by_a_batch, by_an_agent, by_annif, by_a_program_of_the_page, by_a_visitor)


@pytest.mark.parametrize("door", DOORS)
def test_a_text_goes_through_the_queue_and_one_beyond_the_limits_does_not(
    client: TestClient, service: Held, door: Callable[[TestClient, str, int], str]
) -> None:
    before = read(client)
    assert "car" in door(client, "a red car", 2)
    assert service.batches == [["a red car"]]
    assert read(client) == before + 1, "which counts what the queue gives to the encoder"
    assert "has 60 characters" in door(client, "x" * 60, 2)
    wide = door(client, "a red car", 4)
    if door is not by_annif:  # cut to the limit, as Annif does
        assert len(service.batches) == 1
        assert " 3" in wide, "the most that are accepted"
    else:
        assert len(json.loads(wide)["results"]) <= 3


def read(client: TestClient) -> float:
    """Texts that the queue has given to the encoder."""
    lines = client.get("/metrics").text.splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith("hf_xmc_texts_total")))


def test_where_too_many_wait_everybody_is_told_so(client: TestClient, service: Held) -> None:
    service.go.clear()
    with ThreadPoolExecutor(LIMITS.queue) as pool:
        slow = [pool.submit(by_the_api, client, "a red car", 2) for _ in range(LIMITS.queue)]
        assert service.reached.wait(30)
        while "hf_xmc_requests_running 3.0" not in client.get("/metrics").text:  # the request for it is the third
            pass
        said = [door(client, "a green house", 2) for door in DOORS]
        service.go.set()
        assert all("car" in one.result() for one in slow)
    assert all("waiting already" in one for one in said), said


def test_nobody_waits_too_long(client: TestClient, service: Held, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "limits", replace(LIMITS, seconds=0.2))
    service.go.clear()
    said = [door(client, "a red car", 2) for door in DOORS]
    service.go.set()
    assert all("took longer than 0.2 seconds" in one for one in said[:-1]), said
    assert "was busy for 0.2 seconds" in said[-1], "in the words of the page"
