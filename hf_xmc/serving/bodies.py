"""The bodies of requests: how much of them is read, and how much of all of them is held at a time."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from starlette.types import Message, Receive

from hf_xmc.serving.limits import RequestRefused, megabytes, too_busy

THROWN_AWAY = 32 * 2**20  # bytes of a refused body that are read
LINGERS = 5.0  # seconds for which they are read


class Bodies:
    """The bodies that a server holds.

    Args:
        most: bytes of all of them together. A single one may have as many as a request may have.
    """

    def __init__(self, most: int) -> None:
        self.most, self.held = most, 0

    async def read(self, receive: Receive, most: int, length: int) -> bytes:
        """The body of a request, which is held until `forget`.

        Args:
            most: bytes of this one.
            length: the length that its header says; 0 if it says none.

        Raises:
            RequestRefused: a larger body, or one for which there is no room; nothing of it is kept.
        """
        if length > most:
            raise too_large(length, most)
        body, more = bytearray(), True
        try:
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    break
                part, more = message.get("body", b""), message.get("more_body", False)
                if len(body) + len(part) > most:
                    raise too_large(len(body) + len(part), most)
                if body and self.held + len(part) > self.most:
                    raise too_busy(f"Requests of {megabytes(self.held)}", megabytes(self.most))
                body += part
                self.held += len(part)
        except BaseException:
            self.held -= len(body)
            body.clear()  # which the error would keep until the garbage collector comes
            raise
        return bytes(body)

    def forget(self, body: bytes) -> None:
        """Make room again."""
        self.held -= len(body)


class Incoming:
    """A `receive` that remembers whether more of the body is to come."""

    def __init__(self, receive: Receive) -> None:
        self.receive, self.more = receive, True

    async def __call__(self) -> Message:
        message = await self.receive()
        self.more = message.get("more_body", False)
        return message


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


async def thrown_away(receive: Incoming) -> None:
    """Read what is left of a body and keep nothing of it, for a few seconds and megabytes at most."""
    size = 0
    with suppress(TimeoutError):
        async with asyncio.timeout(LINGERS):
            while receive.more and size < THROWN_AWAY:
                size += len((await receive()).get("body", b""))


def length_of(headers: dict[bytes, bytes]) -> int:
    """The length of the body as the headers say; 0 if they do not."""
    given = headers.get(b"content-length", b"0")
    return int(given) if given.isdigit() else 0


def too_large(size: int, most: int) -> RequestRefused:
    """The refusal of a body; of one whose length is not told, `size` is what has come of it."""
    found = f"The request has {megabytes(size)} and at most {megabytes(most)} are accepted"
    return RequestRefused("request_too_large", found, "send less at a time", 413, size=size, most=most)
