"""What gets in: keys, the length of the queue, the size of a body and the time of a request are checked here, before
anything reads the request."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hf_xmc.serving.access import Keys, Role
from hf_xmc.serving.bodies import Bodies, Incoming, Replay, length_of, thrown_away, too_large
from hf_xmc.serving.limits import Limits, RequestRefused, timed_out, too_busy

OPEN = ("/healthz",)  # answered without a key
INTERFACES = ("/api/", "/v1/", "/mcp")  # what programs call; all else belongs to the page
# What Gradio offers and this page does not use. Some of it keeps what a visitor did in files that nobody removes.
UNUSED = (
    *("/gradio_api/deep_link", "/gradio_api/dev/", "/gradio_api/proxy=", "/gradio_api/process_recording"),
    *("/gradio_api/vibe", "/gradio_api/undo-vibe", "/gradio_api/run", "/gradio_api/api/", "/gradio_api/stream/"),
    *("/gradio_api/component_server", "/custom_component/", "/gradio_api/custom_component/", "/monitoring"),
)
ELSEWHERE = (b"cross-site", b"same-site")  # how a browser says that the page of another address sends a request
READING = ("GET", "HEAD", "OPTIONS")  # methods that change nothing
UPLOAD = "/gradio_api/upload"  # where the page takes files
RETRY_AFTER = "1"  # seconds after which a busy server may be asked again


class Gate:
    """Refuses requests without a key, above the queue's length, or with too large a body, and gives up those that take
    too long.

    Args:
        app: what answers the others.
        limits: see `Limits`.
        keys: who may do what.
        own_pages_only: whether what pages of other addresses make a browser send is refused.
    """

    def __init__(self, app: ASGIApp, limits: Limits, keys: Keys, own_pages_only: bool = True) -> None:
        self.app, self.limits, self.keys, self.own_pages_only = app, limits, keys, own_pages_only
        self.running = 0  # requests with a body that are answered, but for files
        self.bodies = Bodies(limits.queue_bytes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        headers, incoming = dict(scope["headers"]), Incoming(receive)
        scope.setdefault("state", {})["role"] = self.keys.role(headers)
        error = self.at_the_door(scope, headers)
        if error is not None and scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        elif error is not None:
            await refuse(scope, incoming, send, error)
        elif scope["type"] == "websocket" or scope["method"] in READING:
            await self.app(scope, receive, send)
        elif scope["path"].startswith(UPLOAD):
            await self.upload(scope, incoming, send, length_of(headers))
        else:
            await self.one_of_many(scope, incoming, send, length_of(headers))

    def at_the_door(self, scope: Scope, headers: Mapping[bytes, bytes]) -> RequestRefused | None:
        """Why a request gets no further, as far as its address and headers tell."""
        if scope["state"]["role"] is Role.NOBODY and scope["path"] not in OPEN:
            return RequestRefused("no_key", "This server needs a key", "send it as Authorization: Bearer KEY", 401)
        if scope["type"] == "websocket":
            return None
        if scope["path"].startswith(UNUSED):
            return RequestRefused("not_found", "There is nothing at this address", "", 404)
        if scope["method"] in READING:
            return None
        if self.own_pages_only and from_elsewhere(headers):  # the browser may add the key that its owner once gave
            found = "A page of another address sent this request"
            return RequestRefused("other_site", found, "open the page of this server instead", 403)
        if headers.get(b"content-encoding", b"identity").lower() != b"identity":
            return RequestRefused("compressed", "The body of the request is compressed", "send it as it is", 415)
        return None

    async def one_of_many(self, scope: Scope, receive: Incoming, send: Send, length: int) -> None:
        """A request with a body that is read at once, unless it is too large or too many wait."""
        started, body, counted, error = Started(send), b"", 0, None
        try:
            async with asyncio.timeout(self.limits.seconds):
                self.check_queue()
                body = await self.bodies.read(receive, self.limits.request_bytes, length)
                self.check_queue()  # a slow sender has no place in it
                self.running += (counted := 1)
                await self.app(scope, Replay(body, receive), started)
        except RequestRefused as refused:
            error = refused
        except TimeoutError:
            error = timed_out(self.limits.seconds)
        finally:
            self.running -= counted
            self.bodies.forget(body)
        if error is not None and not started.answered:
            await refuse(scope, receive, send, error)

    def check_queue(self) -> None:
        """Refuse a request if too many are answered at the moment."""
        if self.running >= self.limits.queue:
            raise too_busy(f"{self.running:,} requests", f"{self.limits.queue:,}")

    async def upload(self, scope: Scope, receive: Incoming, send: Send, length: int) -> None:
        """A file for the page: passed on as it comes, up to the largest size."""
        most, started, count = self.limits.upload_bytes, Started(send), 0

        async def counted() -> Message:
            nonlocal count
            try:
                async with asyncio.timeout(self.limits.seconds if receive.more else None):
                    message = await receive()
            except TimeoutError:
                found = f"Nothing of the file came for {self.limits.seconds:g} seconds"
                raise RequestRefused("timed_out", found, "send it again", 408) from None
            count += len(message.get("body", b""))
            if count > most:
                raise too_large(count, most)
            return message

        try:
            if length > most:
                raise too_large(length, most)
            await self.app(scope, counted, started)
        except RequestRefused as error:
            if not started.answered:
                await refuse(scope, receive, send, error)


def from_elsewhere(headers: Mapping[bytes, bytes]) -> bool:
    """Whether a browser sends this for the page of another address. To servers without TLS browsers do not say so, but
    name the address that the page has; programs name none.

    >>> from_elsewhere({b"origin": b"http://evil.example", b"host": b"10.0.0.1:8000"})
    True
    """
    if (site := headers.get(b"sec-fetch-site")) is not None:
        return site in ELSEWHERE
    if (origin := headers.get(b"origin")) is None:
        return False
    own = (headers.get(b"host"), headers.get(b"x-forwarded-host"))  # the latter of a proxy; no page can set it
    return origin.partition(b"://")[2] not in own


class Started:
    """A `send` that remembers whether an answer has begun."""

    def __init__(self, send: Send) -> None:
        self.send, self.answered = send, False

    async def __call__(self, message: Message) -> None:
        self.answered = True
        await self.send(message)


async def refuse(scope: Scope, receive: Incoming, send: Send, error: RequestRefused) -> None:
    """Answer with an error at once, whatever of the body is still to come. The rest is then read and thrown away, as
    far as `thrown_away` goes: a client that sends everything before it reads would not see the answer otherwise."""
    answer, kind = error_answer(error.kind, str(error), error.status, scope)
    headers = [(b"content-type", kind.encode())]
    asks_first = b"expect" in dict(scope["headers"])  # and sends nothing after a refusal
    if error.status == 401:
        headers += [(b"www-authenticate", b'Basic realm="hf-xmc", charset="UTF-8"'), (b"www-authenticate", b"Bearer")]
    if error.status == 503:
        headers.append((b"retry-after", RETRY_AFTER.encode()))
    if error.status in (408, 413) or asks_first:
        headers.append((b"connection", b"close"))
    body = json.dumps(answer).encode()
    headers.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": not asks_first})
    if not asks_first:
        await thrown_away(receive)
        await send({"type": "http.response.body", "body": b""})


def error_answer(kind: str, message: str, status: int, scope: Scope) -> tuple[dict[str, Any], str]:
    """The form that every error has, and its media type; clients of Annif also find what they look for (RFC 9457)."""
    answer: dict[str, Any] = {
        "error": {"kind": kind, "message": message, "request_id": scope.get("state", {}).get("request_id", "")}
    }
    if not scope["path"].startswith(INTERFACES):  # the page's script shows what it finds here
        answer["detail"] = message
    if not scope["path"].startswith("/v1/"):
        return answer, "application/json"
    problem = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": message}
    return problem | answer, "application/problem+json"
