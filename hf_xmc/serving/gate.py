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
from hf_xmc.serving.limits import Limits, RequestRefused, megabytes

OPEN = ("/healthz",)  # answered without a key
INTERFACES = ("/api/", "/v1/", "/mcp")  # what programs call; all else belongs to the page
# What Gradio offers and this page does not use. Some of it keeps what a visitor did in files that nobody removes.
UNUSED = (
    *("/gradio_api/deep_link", "/gradio_api/dev/", "/gradio_api/proxy=", "/gradio_api/process_recording"),
    *("/gradio_api/vibe", "/gradio_api/undo-vibe", "/gradio_api/run", "/gradio_api/api/", "/gradio_api/stream/"),
    *("/gradio_api/component_server", "/custom_component/", "/gradio_api/custom_component/", "/monitoring"),
)
ELSEWHERE = (b"cross-site", b"same-site")  # how a browser says that the page of another address sends a request
DRAINED = 4  # times the largest body that is read and thrown away, so that a client reads why it was refused
RETRY_AFTER = "1"  # seconds after which a busy server may be asked again


class Gate:
    """Refuses requests without a key, above the queue's length, or with too large a body, and gives up those that take
    too long.

    Args:
        app: what answers the others.
        limits: see `Limits`.
        keys: who may do what.
    """

    def __init__(self, app: ASGIApp, limits: Limits, keys: Keys) -> None:
        self.app, self.limits, self.keys = app, limits, keys
        self.running = 0  # requests of programs

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        role = self.keys.role(headers)
        scope.setdefault("state", {})["role"] = role
        if role is Role.NOBODY and scope["path"] not in OPEN:
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008})
            else:
                found = RequestRefused(
                    "no_key", "This server needs a key", "send it as Authorization: Bearer KEY", 401
                )
                await refuse(scope, send, found)
            return
        if scope["path"].startswith(UNUSED) and scope["type"] == "http":
            await refuse(scope, send, RequestRefused("not_found", "There is nothing at this address", "", 404))
        elif scope["type"] == "websocket" or scope["method"] in ("GET", "HEAD", "OPTIONS"):
            await self.app(scope, receive, send)
        elif from_elsewhere(headers):  # the browser may add the key that its owner once gave
            found = RequestRefused(
                "other_site",
                "A page of another address sent this request",
                "open the page of this server instead",
                403,
            )
            await refuse(scope, send, found)
        elif scope["path"].startswith(INTERFACES):
            await self.one_of_many(scope, receive, send, length_of(headers))
        else:
            await self.upload(scope, receive, send, length_of(headers))

    async def one_of_many(self, scope: Scope, receive: Receive, send: Send, length: int) -> None:
        """A request of a program: its body is read at once, unless it is too large or too many wait."""
        if self.running >= self.limits.queue:
            found = f"{self.running:,} requests are waiting already, which is the maximum"
            await refuse(scope, send, RequestRefused("too_busy", found, "try again in a second", 503))
            return
        self.running += 1
        started = Started(send)
        try:
            async with asyncio.timeout(self.limits.seconds):
                body = await read(receive, self.limits.request_bytes, length)
                await self.app(scope, Replay(body, receive), started)
        except RequestRefused as error:
            await refuse(scope, send, error)
        except TimeoutError:
            if not started.answered:
                found = f"The request took longer than {self.limits.seconds:g} seconds and was given up"
                await refuse(scope, send, RequestRefused("timed_out", found, "send fewer or shorter texts", 504))
        finally:
            self.running -= 1

    async def upload(self, scope: Scope, receive: Receive, send: Send, length: int) -> None:
        """A request of the page, such as a file: passed on as it comes, up to the largest size."""
        most, started, count = self.limits.upload_bytes, Started(send), 0
        try:
            if length > most:
                raise too_large(await drained(receive, length, DRAINED * most), most)

            async def counted() -> Message:
                nonlocal count
                message = await receive()
                count += len(message.get("body", b""))
                if count > most:
                    raise too_large(count, most)
                return message

            await self.app(scope, counted, started)
        except RequestRefused as error:
            if not started.answered:
                await refuse(scope, send, error)


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


class Replay:
    """A `receive` that gives a body that was read before, and then what the connection says."""

    def __init__(self, body: bytes, receive: Receive) -> None:
        self.body: bytes | None = body
        self.receive = receive

    async def __call__(self) -> Message:
        if self.body is None:
            return await self.receive()
        body, self.body = self.body, None
        return {"type": "http.request", "body": body, "more_body": False}


async def read(receive: Receive, most: int, length: int) -> bytes:
    """The body of a request.

    Args:
        most: bytes that are read.
        length: the length that its header says; 0 if it says none.

    Raises:
        RequestRefused: a larger body, which is not kept.
    """
    if length > most:
        raise too_large(await drained(receive, length, DRAINED * most), most)
    parts, size, more = [], 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            break
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        more = message.get("more_body", False)
        if size > most:
            parts.clear()
            raise too_large(size + (await drained(receive, DRAINED * most, DRAINED * most) if more else 0), most)
    return b"".join(parts)


async def drained(receive: Receive, length: int, most: int) -> int:
    """Read a body and keep nothing of it: a client that still writes would not see an answer. A much too large one is
    not read. Returns its length, as far as it is known."""
    size, more = 0, length <= most
    while more and size <= most:
        message = await receive()
        size += len(message.get("body", b""))
        more = message.get("more_body", False)
    return max(size, length if length > most else 0)


def too_large(size: int, most: int) -> RequestRefused:
    found = f"The request has {megabytes(size)} and at most {megabytes(most)} are accepted"
    return RequestRefused("request_too_large", found, "send less at a time", 413, size=size, most=most)


def length_of(headers: dict[bytes, bytes]) -> int:
    """The length of the body as the headers say; 0 if they do not."""
    given = headers.get(b"content-length", b"0")
    return int(given) if given.isdigit() else 0


async def refuse(scope: Scope, send: Send, error: RequestRefused) -> None:
    """Answer with an error."""
    answer, kind = error_answer(error.kind, str(error), error.status, scope)
    headers = [(b"content-type", kind.encode())]
    if error.status == 401:
        headers += [(b"www-authenticate", b'Basic realm="hf-xmc", charset="UTF-8"'), (b"www-authenticate", b"Bearer")]
    if error.status == 503:
        headers.append((b"retry-after", RETRY_AFTER.encode()))
    if error.status == 413:
        headers.append((b"connection", b"close"))
    body = json.dumps(answer).encode()
    headers.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def error_answer(kind: str, message: str, status: int, scope: Scope) -> tuple[dict[str, Any], str]:
    """The form that every error has, and its media type; clients of Annif also find what they look for (RFC 9457)."""
    answer: dict[str, Any] = {
        "error": {"kind": kind, "message": message, "request_id": scope.get("state", {}).get("request_id", "")}
    }
    if not scope["path"].startswith("/v1/"):
        return answer, "application/json"
    problem = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": message}
    return problem | answer, "application/problem+json"
