"""Annif's REST interface: what Annif's http backend, its client and its page send, and what they read.

The requests are those that Annif 1.4.3 and annif-client 0.5.0 were seen to send; test_real_annif.py drives
the real ones.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from hf_xmc import XMCPipeline
from hf_xmc.serving.annif import Project, uris_of
from hf_xmc.serving.app import build_app
from hf_xmc.serving.limits import Limits
from hf_xmc.serving.service import TaggingService

PROJECT = "/v1/projects/toys-en"


@contextmanager
def door(service: TaggingService, **options: object) -> Iterator[TestClient]:
    project = Project("toys-en", language="en", **options)  # type: ignore[arg-type]
    with TestClient(build_app(service, page=False, annif=project)) as client:
        yield client


@pytest.fixture(scope="module")
def client(shared_service: TaggingService) -> Iterator[TestClient]:
    with door(shared_service, name="Toys") as client:
        yield client


def test_what_the_http_backend_sends(client: TestClient, shared_service: TaggingService) -> None:
    project = client.get(PROJECT, headers={"User-Agent": "Annif/1.4.3"}).json()
    assert project["is_trained"] is True
    found = client.post(f"{PROJECT}/suggest", data={"text": "a red car", "project": "toys-en", "limit": "100"}).json()
    [tagged] = shared_service.tag(["a red car"], 14)
    assert [(hit["uri"], hit["label"], hit["score"]) for hit in found["results"]] == [
        (tag.uri or tag.uid, tag.label, pytest.approx(tag.probability)) for tag in tagged.tags
    ]
    assert {hit["uri"] for hit in found["results"][:2]} == {"http://example.org/red", "http://example.org/car"}
    assert all(0 < hit["score"] <= 1 for hit in found["results"])


def test_what_the_client_sends(client: TestClient) -> None:
    assert client.get("/v1/").json()["title"] == "Annif REST API"
    [project] = client.get("/v1/projects").json()["projects"]
    assert (project["project_id"], project["name"], project["language"]) == ("toys-en", "Toys", "en")
    assert project["vocab"] == {"vocab_id": "labels", "languages": ["en"], "size": 14, "loaded": True}
    assert client.get("/v1/vocabs").json() == {"vocabs": [project["vocab"]]}
    documents = [{"document_id": "d1", "text": "a red car"}, {"text": "the river"}, {"text": " "}]
    batch = client.post(f"{PROJECT}/suggest-batch", params={"limit": 2}, json={"documents": documents})
    assert [one["document_id"] for one in batch.json()] == ["d1", None, None]
    assert [len(one["results"]) for one in batch.json()] == [2, 2, 0]
    alone = client.post(f"{PROJECT}/suggest", data={"text": "a red car", "limit": 2}).json()
    assert batch.json()[0]["results"] == alone["results"]


def test_the_vocabulary_as_annif_reads_it(client: TestClient, shared_service: TaggingService) -> None:
    answer = client.get("/v1/vocabs/labels/subjects.csv")
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    header, *rows = csv.reader(answer.text.splitlines())
    assert header == ["uri", "notation", "label_en"]
    assert len(rows) == len(shared_service.vocabulary)
    assert ["http://example.org/red", "", "red"] in rows
    assert client.get("/v1/vocabs/no/subjects.csv").status_code == 404


def test_what_the_page_sends(client: TestClient) -> None:
    form = {"text": (None, "a red car"), "limit": (None, "10"), "threshold": (None, "0.01")}  # as multipart
    assert client.post(f"{PROJECT}/suggest", files=form).json()["results"]


def test_limit_and_threshold(client: TestClient) -> None:
    def scores(**form: str) -> list[float]:
        results = client.post(f"{PROJECT}/suggest", data={"text": "a red car", **form}).json()["results"]
        return [hit["score"] for hit in results]

    everything = scores(limit="1000000")  # more than there are is no error: it is the most that there may be
    assert scores(limit="3") == everything[:3]
    assert scores(limit="0") == []
    assert scores(limit="100", threshold=repr(everything[2])) == everything[:3]
    assert scores(threshold="1") == [score for score in everything if score == 1]
    assert len(scores()) == 10


@pytest.mark.parametrize(
    ("path", "request_", "status", "detail"),
    [
        ("no/suggest", {"data": {"text": "a"}}, 404, "Project 'no' not found; this server has 'toys-en'"),
        ("toys-en/suggest", {"data": {}}, 400, "text: Field required"),
        ("toys-en/suggest", {"data": {"text": "a", "limit": "many"}}, 400, "limit: Input should be a valid integer"),
        ("toys-en/suggest", {"data": {"text": "a", "threshold": "2"}}, 400, "threshold: Input should be less than"),
        ("toys-en/suggest", {"data": {"text": "a", "language": "fi"}}, 400, 'language "fi" not supported'),
        ("toys-en/suggest", {"data": {"text": "a " * 600_000}}, 413, "1,200,000 characters and at most 1,000,000"),
        ("toys-en/suggest-batch", {"json": {"documents": [{"text": "a"}] * 33}}, 400, "at most 32 items"),
        (
            "toys-en/suggest-batch",
            {"content": b"{", "headers": {"content-type": "application/json"}},
            400,
            "JSON decode error",
        ),
        ("toys-en/suggest-batch", {"json": {"documents": [{"text": 1}]}}, 400, "documents.0.text: Input should be"),
        ("toys-en/learn", {"json": []}, 403, "'toys-en' does not learn from requests"),
        ("toys-en/suggest", {"data": {"text": "a" * 9 * 2**20}}, 413, "The request has 9.0 MB"),
        ("toys-en/nothing", {"json": []}, 404, "There is nothing at this address"),
        ("no/learn", {"json": []}, 404, "Project 'no' not found"),
    ],
)
def test_errors_are_problems(
    path: str, request_: dict[str, object], status: int, detail: str, client: TestClient
) -> None:
    answer = client.post(f"/v1/projects/{path}", **request_)  # type: ignore[arg-type]
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert (answer.status_code, problem["status"]) == (status, status)
    assert detail in problem["detail"]
    assert problem["title"]
    assert "a a a" not in problem["detail"]  # texts are not repeated


def test_the_language_of_a_text(client: TestClient) -> None:
    body = {"text": "A quick brown fox jumped over the lazy dog.", "languages": ["fi", "en"]}
    scores = {one["language"]: one["score"] for one in client.post("/v1/detect-language", json=body).json()["results"]}
    assert set(scores) == {"en", "fi", None}
    assert max(scores, key=lambda code: scores[code]) == "en"
    assert sum(scores.values()) == pytest.approx(1)
    unknown = client.post("/v1/detect-language", json={**body, "languages": ["xx"]})
    assert (unknown.status_code, "xx" in unknown.json()["detail"]) == (400, True)


def test_metadata_stand_where_training_texts_had_them(new_pipeline: object, tmp_path: Path) -> None:
    pipeline: XMCPipeline = new_pipeline()  # type: ignore[operator]
    pipeline.run["reading"] = {"text": ["title", "abstract"], "language": "en"}
    service = TaggingService(pipeline, folder=tmp_path)
    documents = [{"text": "a house", "metadata": {"title": "A red car"}}]
    with door(service) as client:
        with_title = client.post(f"{PROJECT}/suggest", data={"text": "a house", "metadata_title": "A red car"}).json()
        [in_batch] = client.post(f"{PROJECT}/suggest-batch", json={"documents": documents}).json()
    [tagged] = service.tag(["A red car. a house"], 10)
    expected = [pytest.approx(tag.probability) for tag in tagged.tags]
    assert [hit["score"] for hit in with_title["results"]] == expected
    assert [hit["score"] for hit in in_batch["results"]] == expected


def test_without_calibration_scores_are_similarities_between_0_and_1(new_pipeline: object, tmp_path: Path) -> None:
    pipeline: XMCPipeline = new_pipeline()  # type: ignore[operator]
    pipeline.confidence = None
    (tmp_path / "run.json").touch()
    with door(TaggingService(pipeline, Limits(k=5), folder=tmp_path)) as client:
        results = client.post(f"{PROJECT}/suggest", data={"text": "a red car", "limit": "50"}).json()["results"]
        made = client.get(PROJECT).json()["modification_time"]
    assert len(results) == 5  # the most that this server gives
    scores = [hit["score"] for hit in results]
    assert scores == sorted(scores, reverse=True)
    assert all(0 < score <= 1 for score in scores)
    assert datetime.fromisoformat(made).tzinfo is not None


def test_only_labels_of_a_vocabulary(shared_service: TaggingService, tmp_path: Path) -> None:
    """Annif 1.4 ends with a TypeError on a uri that it does not know."""
    rows = ["uri,label_en,label_fi", "http://example.org/blue,blue,sininen", "http://example.org/red,,", "x,no,ei"]
    (tmp_path / "subjects.csv").write_text("\n".join(rows))
    assert uris_of(tmp_path / "subjects.csv") == {"http://example.org/blue", "x"}
    with door(shared_service, uris=uris_of(tmp_path / "subjects.csv")) as client:
        results = client.post(f"{PROJECT}/suggest", data={"text": "a red car", "limit": "1"}).json()["results"]
    assert [hit["uri"] for hit in results] == ["http://example.org/blue"]
