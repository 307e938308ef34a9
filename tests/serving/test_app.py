"""The HTTP API in this process: answers, limits, keys, batching, ids, logs and figures."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from fastapi.testclient import TestClient

from hf_xmc import XMCPipeline
from hf_xmc.errors import ModelFolderError
from hf_xmc.serving.access import Keys
from hf_xmc.serving.answers import Tagged
from hf_xmc.serving.app import build_app
from hf_xmc.serving.batching import Batcher
from hf_xmc.serving.bodies import Bodies
from hf_xmc.serving.limits import Limits, RequestRefused
from hf_xmc.serving.observed import JSONLines
from hf_xmc.serving.service import TaggingService
from hf_xmc.serving.tagging import Encoded, TagOptions
from tests.conftest import COLOURS, THINGS


@pytest.fixture(scope="module")
def client(shared_service: TaggingService) -> Iterator[TestClient]:
    with TestClient(build_app(shared_service, page=False)) as client:
        yield client


def error_of(response: Any) -> tuple[int, str]:
    return response.status_code, response.json()["error"]["kind"]


def test_one_text_and_many(client: TestClient, shared_service: TaggingService) -> None:
    one = client.post("/api/tag", json={"text": "a red car", "k": 2, "evidence": True})
    assert one.status_code == 200
    [expected] = shared_service.tag(["a red car"], 2, evidence=True)
    assert one.json() == json.loads(json.dumps(expected.to_dict()))
    many = client.post("/api/tag-batch", json={"texts": ["a red car", "a green house"], "k": 2}).json()
    assert [[tag["uid"] for tag in tagged["tags"]] for tagged in many] == [
        [tag.uid for tag in tagged.tags] for tagged in shared_service.tag(["a red car", "a green house"], 2)
    ]
    assert client.post("/api/tag-batch", json={"texts": []}).json() == []
    assert len(client.post("/api/tag", json={"text": "a red car", "k": 2.0}).json()["tags"]) == 2


def test_explain_model_health_and_labels(client: TestClient) -> None:
    why = client.post("/api/explain", json={"text": "a red car", "k": 1}).json()
    assert [word["text"] for word in why["reasons"][0]["words"]] == ["a", "red", "car"]
    assert client.get("/api/model").json()["limits"]["k"] == 100
    assert client.get("/healthz").json() == {"status": "ok", "labels": 14}
    found = client.get("/api/labels", params={"q": "car"}).json()
    assert (found["total"], found["labels"][0]["uid"]) == (1, "car")
    assert client.get("/api/labels/car").json()["parents"] == [{"uid": "thing", "name": "thing"}]
    assert [label["uid"] for label in client.get("/api/labels/roots").json()["labels"]] == ["colour", "thing"]
    assert client.get("/api/labels/children", params={"uid": "thing"}).json()["total"] == 6
    assert error_of(client.get("/api/labels/http%3A%2F%2Fexample.org%2Fx")) == (404, "unknown_label")


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/api/tag", {"text": "a", "k": 1_000_000}, 422),
        ("/api/tag", {"text": "a", "k": "5"}, 422),
        ("/api/tag", {"text": " "}, 422),
        ("/api/tag", {"text": "x" * 1_000_001}, 422),
        ("/api/tag", {"text": "a", "threshold": "best"}, 422),
        ("/api/tag", {"text": "a", "threshold": 0.5, "conformal": True}, 422),
        ("/api/tag", {"text": "a", "conformal": 2}, 422),
        ("/api/tag", {"text": "a", "surprise": 1}, 422),
        ("/api/tag-batch", {"texts": ["a"] * 257}, 422),
        ("/api/explain", {"text": "a", "k": 11}, 422),
        ("/api/explain", {"text": "a", "labels": []}, 422),
        ("/api/explain", {"text": "a", "labels": ["nothing"]}, 404),
    ],
)
def test_requests_that_are_refused(client: TestClient, path: str, body: dict[str, Any], status: int) -> None:
    response = client.post(path, json=body)
    assert response.status_code == status
    error = response.json()["error"]
    assert error["message"]
    assert error["request_id"] == response.headers["X-Request-ID"]
    assert "xxxx" not in response.text


def test_bodies_that_cannot_be_read(client: TestClient) -> None:
    headers = {"Content-Type": "application/json"}
    assert error_of(client.post("/api/tag", content=b"{", headers=headers)) == (400, "not_json")
    assert client.post("/api/tag", content=b'{"text": "\\ud800"}', headers=headers).status_code == 422
    assert client.post("/api/tag", content=b'{"text": "a", "threshold": NaN}', headers=headers).status_code == 422
    assert client.post("/api/tag", content=b"\xff\xfe", headers=headers).status_code in (400, 422)
    wrong = client.post("/api/labels/car")
    assert error_of(wrong) == (405, "refused")
    assert wrong.headers["Allow"] == "DELETE, GET, PATCH"


def test_a_body_that_is_too_large_is_refused_whether_or_not_it_says_so(client: TestClient) -> None:
    body = b'{"text": "' + b"x" * (10 * 2**20) + b'"}'
    assert error_of(client.post("/api/tag", content=body)) == (413, "request_too_large")

    def chunks() -> Iterator[bytes]:
        yield from (body[start : start + 2**20] for start in range(0, len(body), 2**20))

    assert error_of(client.post("/api/tag", content=chunks())) == (413, "request_too_large")
    upload = client.post("/gradio_api/upload", content=b"x" * (33 * 2**20))
    assert error_of(upload) == (413, "request_too_large")
    packed = client.post("/api/tag", content=gzip.compress(body), headers={"Content-Encoding": "gzip"})
    assert error_of(packed) == (415, "compressed")


def test_what_bodies_hold_together_has_a_limit() -> None:
    """A single small body always gets in, one after the other; what is refused leaves nothing behind."""

    async def part(more: bool) -> Any:
        return {"type": "http.request", "body": b"12345", "more_body": more}

    async def read() -> list[Any]:
        bodies, found = Bodies(8), []
        found.append(await bodies.read(lambda: part(False), 100, 5))
        found.append(await bodies.read(lambda: part(False), 100, 5))
        for most, length in ((100, 0), (7, 0), (7, 8)):
            with pytest.raises(RequestRefused) as refused:
                await bodies.read(lambda: part(True), most, length)
            found.append((refused.value.kind, bodies.held))
        bodies.forget(found[0])
        return [*found, bodies.held]

    too_large = ("request_too_large", 10)
    assert asyncio.run(read()) == [b"12345", b"12345", ("too_busy", 10), too_large, too_large, 5]


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        (b'{"text":' * 20_000, 400, "not JSON that can be read"),
        (b'{"text": "a", "k": ' + b"9" * 5000 + b"}", 400, "not JSON that can be read"),
        (b'{"text": "a" "k": 3}', 400, "not JSON from character 13 on: Expecting ',' delimiter"),
        (b'{"text": "' + b"a" * 1_000_001 + b'"}', 422, "has 1,000,001 characters and at most 1,000,000 are accepted"),
        (b'{"text": "a", "threshold": "best"}', 422, "threshold: Input should be a valid number or String should"),
        (b'{"text": "a", "k": true}', 422, "k: Input should be a valid integer"),
        (b'{"text": "a", "k": Infinity}', 422, "k: Input should be a valid integer"),
        (b'{"text": "a", "k": 5, "k": 1000}', 422, "k: Input should be less than or equal to 100"),
    ],
)
def test_what_is_refused_is_said_in_words(client: TestClient, body: bytes, status: int, said: str) -> None:
    answer = client.post("/api/tag", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == status
    assert said in answer.json()["error"]["message"]


@pytest.mark.parametrize("path", ["/api", "/api/nope", "/api/tag/", "/v1/nope", "/v1", "/mcp"])
def test_addresses_of_programs_that_do_not_exist(client: TestClient, path: str) -> None:
    assert error_of(client.get(path)) == (404, "not_found")
    assert error_of(client.post(path, json={})) == (404, "not_found")


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site", "Origin": "http://testserver"},
        {"Origin": "http://evil.example"},
        {"Origin": "http://testserver.evil.example"},
        {"Origin": "null"},
    ],
)
def test_pages_of_other_addresses_get_nothing_done(client: TestClient, headers: dict[str, str]) -> None:
    for method, path in (("POST", "/api/tag"), ("DELETE", "/api/labels/car"), ("POST", "/mcp")):
        assert error_of(client.request(method, path, json={"text": "a"}, headers=headers)) == (403, "other_site")
    for own in ({"Origin": "http://testserver"}, {"Origin": "http://a.example", "X-Forwarded-Host": "a.example"}):
        assert client.post("/api/tag", json={"text": "a red car"}, headers=own).status_code == 200


def test_nobody_waits_for_the_encoder_forever(new_pipeline: Callable[[], XMCPipeline]) -> None:
    service = TaggingService(new_pipeline(), Limits(seconds=0.05))
    with service.encoder:
        for call in (service.tag, service.session().tag):
            with pytest.raises(RequestRefused, match=r"waited 0\.05 seconds") as refused:
                call(["a red car"])
            assert refused.value.status == 504
    assert service.tag(["a red car"])


def test_request_ids_logs_and_figures_but_no_texts(client: TestClient, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "hf_xmc.serving"):
        named = client.post("/api/tag", json={"text": "a secret red car"}, headers={"X-Request-ID": "mine-1"})
        made = client.get("/api/labels/secret", headers={"X-Request-ID": "not ok\u00e9".encode("latin-1")})
    assert named.headers["X-Request-ID"] == "mine-1"
    assert len(made.headers["X-Request-ID"]) == 32
    lines = [JSONLines().format(record) for record in caplog.records if record.name.startswith("hf_xmc.serving")]
    one, other = map(json.loads, lines)
    assert (one["request_id"], one["method"], one["route"], one["status"]) == ("mine-1", "POST", "/api/tag", 200)
    assert (other["route"], other["status"]) == ("/api/labels/{uid:path}", 404)
    assert "secret" not in "".join(lines)
    client.request("SURPRISE", "/api/tag")
    figures = client.get("/metrics").text
    assert "SURPRISE" not in figures
    assert 'hf_xmc_requests_total{method="POST",route="/api/tag",status="200"}' in figures
    assert "hf_xmc_labels 14.0" in figures
    assert "hf_xmc_batch_texts_bucket" in figures


def test_the_description_of_the_api_needs_no_other_machine(client: TestClient) -> None:
    page = client.get("/docs").text
    assert "/static-offline-docs/swagger-ui-bundle.js" in page
    assert "https://" not in page
    assert client.get("/static-offline-docs/swagger-ui-bundle.js").status_code == 200
    schema = client.get("/openapi.json").json()
    text = schema["components"]["schemas"]["TagRequest"]["properties"]["text"]
    assert (text["minLength"], text["maxLength"]) == (1, 1_000_000)


def test_keys(service: TaggingService) -> None:
    keys = Keys(("reader",), ("owner",))
    body = {"name": "zebra", "definition": "an animal with stripes", "uid": "zebra/1", "parents": ["thing"]}
    told: list[int] = []
    with TestClient(build_app(service, keys, page=False, changed=lambda: told.append(1))) as client:
        assert client.get("/healthz").status_code == 200
        refused = client.post("/api/tag", json={"text": "a"})
        assert error_of(refused) == (401, "no_key")
        assert "Basic" in refused.headers["WWW-Authenticate"]
        assert client.get("/docs").status_code == 401
        login = base64.b64encode(b"anybody:reader").decode()
        for headers in (
            {"Authorization": "Bearer reader"},
            {"X-API-Key": "reader"},
            {"Authorization": f"Basic {login}"},
        ):
            assert client.post("/api/tag", json={"text": "a"}, headers=headers).status_code == 200
            assert error_of(client.post("/api/labels", json=body, headers=headers)) == (403, "not_allowed")
        client.headers["Authorization"] = "Bearer owner"
        made = client.post("/api/labels", json=body)
        assert (made.status_code, made.json()["uid"]) == (201, "zebra/1")
        assert error_of(client.post("/api/labels", json=body)) == (409, "label_exists")
        tagged = client.post("/api/tag", json={"text": "zebra: an animal with stripes", "k": 1}).json()
        assert tagged["tags"][0]["uid"] == "zebra/1"
        assert client.patch("/api/labels/zebra%2F1", json={"name": "quagga"}).json()["name"] == "quagga"
        body = {"texts": {"descriptor": ["black lines on white"]}}
        described = client.patch("/api/labels/zebra%2F1", json=body)
        assert described.json()["texts"] == body["texts"]
        asked = {"text": "black lines on white", "labels": ["zebra/1"]}
        matched = client.post("/api/explain", json=asked).json()["reasons"][0]["label_texts"]
        assert (matched[0]["text"], matched[0]["kind"]) == ("black lines on white", "descriptor")
        wrong = client.patch("/api/labels/zebra%2F1", json={"texts": {"colour": ["black"]}})
        assert error_of(wrong)[1] == "unknown_kind"
        assert client.delete("/api/labels/zebra%2F1").status_code == 204
        assert error_of(client.delete("/api/labels/zebra%2F1")) == (404, "unknown_label")
        assert len(told) == 4


def test_without_keys_nobody_changes_labels(client: TestClient) -> None:
    assert error_of(client.post("/api/labels", json={"name": "zebra"})) == (403, "changes_off")
    assert error_of(client.delete("/api/labels/car")) == (403, "changes_off")


def test_keys_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_XMC_API_KEYS", "one, two,")
    monkeypatch.delenv("HF_XMC_ADMIN_KEYS", raising=False)
    assert Keys.from_environment() == Keys(("one", "two"), ())


def test_concurrent_requests_share_the_encoder_and_get_their_own_answers(
    client: TestClient, shared_service: TaggingService, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [f"a {colour} {thing}" for colour in COLOURS for thing in THINGS]
    expected = {text: tagged.tags for text, tagged in zip(texts, shared_service.tag(texts, 3), strict=True)}
    calls: list[int] = []
    encode = shared_service.encode

    def counted(texts: list[str]) -> Encoded:
        calls.append(len(texts))
        return encode(texts)

    monkeypatch.setattr(shared_service, "encode", counted)

    def ask(number: int) -> bool:
        text, k = texts[number % len(texts)], 1 + number % 3
        found = client.post("/api/tag", json={"text": text, "k": k}).json()["tags"]
        return [tag["uid"] for tag in found] == [tag.uid for tag in expected[text][:k]]

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(ask, range(72)))
    assert sum(calls) == 72
    assert max(calls) > 1


class Poisoned(TaggingService):
    """A service that fails on one text, and waits until it may begin."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.reached, self.begin = threading.Event(), threading.Event()

    def encode(self, texts: Any) -> Encoded:
        self.reached.set()
        assert self.begin.wait(10)
        if "poison" in texts:
            raise RuntimeError("this text cannot be read")
        return super().encode(texts)


def test_a_text_that_fails_fails_alone(new_pipeline: Callable[[], XMCPipeline]) -> None:
    service = Poisoned(new_pipeline())

    async def run() -> list[list[Tagged] | BaseException]:
        async with Batcher(service) as batcher:
            texts = ("a red car", "poison", "a green house")
            calls = [batcher.tag([text], TagOptions(k=1)) for text in texts]
            service.begin.set()
            return await asyncio.gather(*calls, return_exceptions=True)

    red, failed, green = asyncio.run(run())
    assert isinstance(failed, RuntimeError)
    for found, text in ((red, "a red car"), (green, "a green house")):
        assert isinstance(found, list)
        assert found[0].tags[0].uid == service.tag([text], 1)[0].tags[0].uid


def test_a_full_queue_and_a_slow_request(new_pipeline: Callable[[], XMCPipeline]) -> None:
    service = Poisoned(new_pipeline(), Limits(queue=1, seconds=0.5))
    with TestClient(build_app(service, page=False)) as client, ThreadPoolExecutor(1) as pool:
        slow = pool.submit(client.post, "/api/tag", json={"text": "a red car"})
        assert service.reached.wait(10)
        busy = client.post("/api/tag", json={"text": "a red car"})
        assert error_of(busy) == (503, "too_busy")
        assert busy.headers["Retry-After"] == "1"
        assert error_of(slow.result()) == (504, "timed_out")
        service.begin.set()
        assert client.post("/api/tag", json={"text": "a red car"}).status_code == 200


def test_an_unexpected_error_is_an_answer_without_the_text(
    new_pipeline: Callable[[], XMCPipeline], caplog: pytest.LogCaptureFixture
) -> None:
    service = Poisoned(new_pipeline())
    service.begin.set()
    with TestClient(build_app(service, page=False)) as client, caplog.at_level(logging.INFO, "hf_xmc.serving"):
        assert error_of(client.post("/api/tag", json={"text": "poison"})) == (500, "internal_error")
    lines = [json.loads(JSONLines().format(record)) for record in caplog.records if record.levelno >= logging.ERROR]
    assert lines[0]["error"] == "RuntimeError"
    assert "cannot be read" not in str(lines)


def test_other_limits_are_those_of_the_api(new_pipeline: Callable[[], XMCPipeline]) -> None:
    limits = replace(Limits(), text_characters=5, k=2)
    with TestClient(build_app(TaggingService(new_pipeline(), limits), page=False)) as client:
        assert client.post("/api/tag", json={"text": "abcdef", "k": 1}).status_code == 422
        assert client.post("/api/tag", json={"text": "abcde", "k": 3}).status_code == 422
        assert len(client.post("/api/tag", json={"text": "abcde", "k": 2}).json()["tags"]) == 2


def test_an_error_of_the_folder_does_not_say_where_it_is(
    service: TaggingService, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise ModelFolderError("is being written", "/srv/taggers/toys")

    keys = {"X-API-Key": "owner"}
    with TestClient(build_app(service, Keys((), ("owner",)), page=False, changed=fail)) as client:
        refused = client.post("/api/labels", json={"name": "zebra"}, headers=keys)
    assert error_of(refused) == (500, "internal_error")
    assert "/srv" not in refused.text
    assert "/srv/taggers/toys: is being written" in caplog.text


def test_a_page_of_another_address_changes_nothing(service: TaggingService) -> None:
    with TestClient(build_app(service, Keys((), ("owner",)), page=False)) as client:
        for site in ("cross-site", "same-site"):
            headers = {"X-API-Key": "owner", "Sec-Fetch-Site": site}
            assert error_of(client.delete("/api/labels/car", headers=headers)) == (403, "other_site")
        assert client.get("/api/labels/car", headers=headers).status_code == 200
        assert (
            client.delete("/api/labels/car", headers={**headers, "Sec-Fetch-Site": "same-origin"}).status_code == 204
        )
