"""Events that programs and visitors send to the page, checked before Gradio reads them: it fails on some of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from hf_xmc.inference.given_texts import is_unicode
from hf_xmc.serving.bodies import Replay
from hf_xmc.serving.gate import RETRY_AFTER, UPLOAD

NOT_OURS = "This is no request of the page; its API is described at /gradio_api/info"

AGAIN = "The queue of the page changed at this moment; send the request again"


class Events:
    """Refuses events that no page of ours sends: of a function that is not there, or with halves of characters.

    Args:
        app: Gradio's.
        functions: gives the numbers of the functions that there are.
    """

    def __init__(self, app: ASGIApp, functions: Callable[[], Collection[int]]) -> None:
        self.app, self.functions = app, functions

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST" or UPLOAD in scope["path"]:
            await self.app(scope, receive, send)
            return
        body = await Request(scope, receive).body()
        if not self.is_ours(body):
            await JSONResponse({"detail": NOT_OURS}, 422)(scope, receive, send)
            return
        try:
            await self.app(scope, Replay(body, receive), send)
        except KeyError:  # Gradio tells all who wait, of whom one has gone at this moment
            await JSONResponse({"detail": AGAIN}, 503, {"Retry-After": RETRY_AFTER})(scope, receive, send)

    def is_ours(self, body: bytes) -> bool:
        """Whether Gradio can read an event.

        >>> events = Events(None, lambda: [0, 1])
        >>> events.is_ours(b'{"fn_index": 1, "data": ["a"]}'), events.is_ours(b'{"fn_index": 7, "data": ["a"]}')
        (True, False)
        >>> events.is_ours(b'{"data": ["\\\\ud800"]}'), events.is_ours(b"[[[[")
        (False, False)
        """
        try:
            event: Any = json.loads(body)
        except (ValueError, RecursionError):
            return False
        if not isinstance(event, dict) or (b"\\u" in body and not is_unicode(json.dumps(event, ensure_ascii=False))):
            return False
        number = event.get("fn_index")
        return number is None or (isinstance(number, int) and number in self.functions())


async def not_ours(request: Request, error: Exception) -> JSONResponse:
    """The answer to a request that Gradio refuses by an exception; what was sent is not repeated."""
    return JSONResponse({"detail": NOT_OURS}, 422)
