"""What a server tells about its requests: an id for each, a line in the log, figures for Prometheus. Never a text."""

from __future__ import annotations

import asyncio
import json
import logging
import random
import re
import time
import traceback
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hf_xmc.serving.gate import INTERFACES, OPEN
from hf_xmc.serving.service import TaggingService

ID = re.compile(rb"[\w.\-]{1,64}")  # of a request, as a client may give it
STREAM = "/heartbeat/"  # in the path of a stream by which gradio notices that a page was closed
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
METHODS = ("DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT")

logger = logging.getLogger(__name__)


class Figures:
    """What `/metrics` shows.

    Args:
        service: the tagger, whose labels are counted.
    """

    def __init__(self, service: TaggingService) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        given: dict[str, Any] = {"registry": self.registry}
        self.requests = Counter("hf_xmc_requests", "Requests answered.", ("route", "method", "status"), **given)
        self.seconds = Histogram("hf_xmc_request_seconds", "Time per request.", ("route",), buckets=SECONDS, **given)
        self.texts = Counter("hf_xmc_texts", "Texts read by the encoder for the API.", **given)
        self.batches = Histogram("hf_xmc_batch_texts", "Texts per call of the encoder.", buckets=BATCHES, **given)
        self.running = Gauge("hf_xmc_requests_running", "Requests being answered.", **given)
        labels = Gauge("hf_xmc_labels", "Labels that can be found.", **given)
        labels.set_function(lambda: len(service.vocabulary))

    def batch(self, texts: int) -> None:
        """Count a batch of texts."""
        self.texts.inc(texts)
        self.batches.observe(texts)


class Observed:
    """Gives each request an id, which its answer carries in `X-Request-ID`; logs and counts it, and logs where an
    exception happened that nobody expected.

    Args:
        app: what answers.
        figures: what is counted.
        routes: of the application.
    """

    def __init__(self, app: ASGIApp, figures: Figures, routes: Iterable[Any]) -> None:
        self.app, self.figures = app, figures
        paths = [getattr(route, "path", "") for route in routes]
        whole = frozenset(path or "" for path in paths if path and "{" not in path) - {"/"}
        self.whole = whole | {*OPEN}  # which FastAPI does not list, since it stands in a router
        self.streams: set[asyncio.Task[Any]] = set()  # of open pages, which end when the server stops

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if STREAM in scope["path"]:
            await self.stream(scope, receive, send)
            return
        given = dict(scope["headers"]).get(b"x-request-id", b"")
        request_id = given.decode() if ID.fullmatch(given) else f"{random.getrandbits(128):032x}"
        scope.setdefault("state", {})["request_id"] = request_id
        status = 0

        async def numbered(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": [*message.get("headers", ()), (b"x-request-id", request_id.encode())]}
            await send(message)

        start = time.perf_counter()
        self.figures.running.inc()
        try:
            await self.app(scope, receive, numbered)
        except Exception as error:
            logger.error("unexpected error", extra={"fields": {"request_id": request_id, **where(error)}})
        finally:
            self.figures.running.dec()
            self.tell(scope, request_id, status or 499, time.perf_counter() - start)

    async def stream(self, scope: Scope, receive: Receive, send: Send) -> None:
        """A connection that a page keeps open as long as it is shown; it is no request that somebody waits for."""
        task = asyncio.current_task()
        assert task is not None
        self.streams.add(task)
        try:
            await self.app(scope, receive, send)
        except asyncio.CancelledError:
            task.uncancel()
        finally:
            self.streams.discard(task)

    def tell(self, scope: Scope, request_id: str, status: int, seconds: float) -> None:
        """Count a request and log it; 499 is a client that went away before it was answered."""
        route = route_of(scope, self.whole)
        method = scope["method"] if scope["method"] in METHODS else "other"  # a client may send any word
        self.figures.requests.labels(route, method, str(status)).inc()
        self.figures.seconds.labels(route).observe(seconds)
        fields = {"request_id": request_id, "method": method, "route": route, "status": status}
        logger.info("request", extra={"fields": {**fields, "milliseconds": round(1000 * seconds, 1)}})


def route_of(scope: Scope, whole: frozenset[str]) -> str:
    """The route that answered, without what stands in its place holders; `"refused"` where none was reached, and
    `"page"` for the page and its files.

    Args:
        whole: paths without place holders.
    """
    path: str | None = getattr(scope.get("route"), "path", None)
    if path is not None and path.startswith(("/api/", "/v1/")):
        return path
    if scope["path"] in whole:
        return str(scope["path"])
    return "refused" if scope["path"].startswith(INTERFACES) else "page"


def where(error: Exception) -> dict[str, Any]:
    """The kind of an error, and where it happened. Its message stays out: it may quote a text."""
    frames = traceback.extract_tb(error.__traceback__)
    return {"error": type(error).__name__, "at": [f"{frame.filename}:{frame.lineno}" for frame in frames[-5:]]}


class JSONLines(logging.Formatter):
    """Log records as one JSON object per line.

    >>> record = logging.LogRecord("a", logging.INFO, "", 0, "request", (), None)
    >>> record.fields = {"status": 200}
    >>> json.loads(JSONLines().format(record))["status"]
    200
    """

    def format(self, record: logging.LogRecord) -> str:
        """The record with the fields that it was given."""
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        found = {"time": moment, "level": record.levelname.lower(), "message": record.getMessage()}
        if record.exc_info and record.exc_info[0] is not None:
            found["error"] = record.exc_info[0].__name__
        return json.dumps({**found, **getattr(record, "fields", {})}, ensure_ascii=False)
