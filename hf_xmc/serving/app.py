"""The application of `hf-xmc serve`: the API, the page, Annif's REST API and tools for agents in one."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, RedirectResponse
from fastapi_offline import FastAPIOffline
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException
from starlette.routing import Match, Mount

from hf_xmc import __version__
from hf_xmc.errors import DataError, SettingsError, XMCError
from hf_xmc.serving.access import Keys, Role
from hf_xmc.serving.annif import Project, annif_routes
from hf_xmc.serving.batching import Batcher
from hf_xmc.serving.gate import INTERFACES, Gate, error_answer
from hf_xmc.serving.limits import RequestRefused
from hf_xmc.serving.observed import METHODS, Figures, Observed
from hf_xmc.serving.routes import label_routes, model_routes, tag_routes
from hf_xmc.serving.service import TaggingService

DESCRIPTION = "Tags texts with the labels of a catalogue. Errors say in one sentence what was found and what to do."
ANNIF_REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"description": f"{meaning}, as an RFC 7807 problem."}
    for status, meaning in ((400, "A value is missing or wrong"), (404, "Another project"), (413, "Too long a text"))
}
UNREADABLE = "it is nested too deeply, has too long a number, or is not UTF-8"
PLACES = ("body", "query", "path")  # of values, which are told apart by their names
TRIED = ("float", "bool", "constrained-str", "constrained-float")  # kinds of value where several are possible
INTERNAL = "Something went wrong in the server; its log has more under the id of this request"

logger = logging.getLogger(__name__)


def build_app(
    service: TaggingService,
    keys: Keys | None = None,
    page: bool = True,
    annif: Project | None = None,
    tools: bool = False,
    changed: Callable[[], None] = lambda: None,
    host: str = "127.0.0.1",
    shared_changes: bool = False,
) -> Observed:
    """The application, ready for a server.

    Args:
        service: the tagger.
        keys: who may do what; by default everybody may tag and nobody may change labels.
        page: whether to show the page at `/`; needs gradio.
        annif: answer Annif's REST calls too, as this project.
        tools: whether to offer the agent's tools at `/mcp`; needs the official SDK of the protocol.
        changed: called after each change of the labels.
        host: the address that the server listens on.
        shared_changes: whether labels that a visitor of the page adds are there for everybody; if there are keys for
            changes, this needs one of them.
    """
    figures, made = Figures(service), list[Batcher]()
    server = tools_of(service, lambda: made[0]) if tools else None

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            made.append(await stack.enter_async_context(Batcher(service, figures.batch)))
            if server is not None:
                await stack.enter_async_context(server.session_manager.run())
            yield
            made.clear()

    app = FastAPIOffline(
        redoc_url=None, title="hf-xmc", version=__version__, description=DESCRIPTION, lifespan=lifespan
    )
    app.state.keys = keys or Keys()
    app.include_router(tag_routes(service, lambda: made[0]))
    app.include_router(label_routes(service, changed))
    app.include_router(model_routes(service))
    if annif is not None:
        app.include_router(annif_routes(service, annif, lambda: made[0]), responses=ANNIF_REFUSALS)
    if server is not None:
        for route in server.streamable_http_app(json_response=True, stateless_http=True, host=host).routes:
            route.methods = {"POST"}  # a GET would open a stream on which nothing ever comes
            app.router.routes.append(route)

    for path in INTERFACES:  # the page would answer what is left in a form of its own
        app.add_api_route(path.rstrip("/") + "{rest:path}", nothing_here, methods=[*METHODS], include_in_schema=False)

    @app.get("/metrics", include_in_schema=False)
    def metrics() -> Response:
        return Response(generate_latest(figures.registry), media_type=CONTENT_TYPE_LATEST)

    for kind in (XMCError, RequestValidationError, HTTPException, Exception):
        app.add_exception_handler(kind, refusal)
    app.add_middleware(Gate, limits=service.limits, keys=app.state.keys)
    routes = [*app.routes]
    if not page:
        app.add_api_route("/", lambda: RedirectResponse("/docs"), include_in_schema=False)
        return Observed(app, figures, routes)
    from hf_xmc.serving.page import mount_page  # needs gradio, which is slow to import

    changes: dict[str, Any] = {"shared_changes": shared_changes, "changed": changed, "batcher": lambda: made[0]}
    if app.state.keys.changing:
        changes["may_change"] = lambda request: request.state.role is Role.CHANGES
    return Observed(mount_page(app, service, path="/", **changes), figures, routes)


def tools_of(service: TaggingService, batcher: Callable[[], Batcher]) -> Any:
    """The agent's tools as a server of the official SDK."""
    from hf_xmc.serving.agent import tool_server

    return tool_server(service, batcher)


async def nothing_here(request: Request) -> None:
    """The answer to addresses of programs that do not exist, or not for this method.

    Raises:
        HTTPException: always.
    """
    raise HTTPException(405 if methods_of(request) else 404, "There is nothing at this address")


async def refusal(request: Request, error: Exception) -> JSONResponse:
    """An error in the form that every error has. What was sent is not repeated, and what went wrong in the server is
    not told."""
    kind, status, message, headers = "internal_error", 500, INTERNAL, None
    if isinstance(error, RequestRefused):
        kind, status, message = error.kind, error.status, str(error)
    elif isinstance(error, RequestValidationError):
        kind, status, message = "invalid", 422, spoken(error.errors())
        if any(one["type"] == "json_invalid" for one in error.errors()):
            kind, status = "not_json", 400
    elif isinstance(error, HTTPException) and isinstance(error.__cause__, RecursionError | ValueError):
        # FastAPI could not read the body: too deep, a number of thousands of digits, not UTF-8, ...
        kind, status, message = "not_json", 400, f"The body is not JSON that can be read: {UNREADABLE}"
    elif isinstance(error, HTTPException):
        status, message, headers = error.status_code, f"{error.detail}", error.headers
        kind = "not_found" if status == 404 else "refused"
        if status == 405 and (methods := methods_of(request)):
            message, headers = f"This address takes {methods}, not {request.method}", {"Allow": methods}
    elif isinstance(error, SettingsError | DataError):
        kind, status, message = "invalid", 422, str(error)
    elif isinstance(error, XMCError):  # of the folder or its database, whose place is told to the log only
        fields = {"request_id": request.scope["state"].get("request_id", "")}
        logger.error(str(error), extra={"fields": fields})
    answer, media_type = error_answer(kind, message, status, request.scope)
    return JSONResponse(answer, status, headers, media_type)


def methods_of(request: Request) -> str:
    """The methods that an address takes. It may have a route for each, which knows only its own."""
    routes = [route for route in request.app.routes if not isinstance(route, Mount)]
    routes = [route for route in routes if getattr(route, "endpoint", None) is not nothing_here]

    def takes(method: str) -> bool:
        return any(route.matches({**request.scope, "method": method})[0] is Match.FULL for route in routes)

    return ", ".join(filter(takes, METHODS))


def spoken(errors: Sequence[Mapping[str, Any]]) -> str:
    """The first findings of pydantic in words: for each value where it is, and what is wrong with it.

    >>> spoken([{"loc": ("body", "k"), "type": "x", "msg": "Input should be less than or equal to 100"}])
    'k: Input should be less than or equal to 100'
    >>> long = {"type": "string_too_long", "input": "abc", "ctx": {"max_length": 2}, "msg": ""}
    >>> spoken([{"loc": ("body", "texts", 0), **long}])
    'texts.0: has 3 characters and at most 2 are accepted; cut or split it'
    """
    found: dict[str, list[str]] = {}
    for error in errors:
        where, said = placed(error)
        found.setdefault(where, []).append(said)
    sentences = [f"{where}: {' or '.join(said)}" if where else said[0] for where, said in found.items()]
    return "; ".join(sentences[:3])


def placed(error: Mapping[str, Any]) -> tuple[str, str]:
    """Where a finding of pydantic is, without the kinds of value that were tried there, and what it says."""
    kind, steps = error["type"], [step for step in error["loc"] if step not in PLACES and step not in TRIED]
    if kind == "model_attributes_type":
        return "", "The body is not a JSON object; send one, with the header Content-Type: application/json"
    if kind == "json_invalid":
        return (
            "",
            f"The body is not JSON from character {steps[-1]} on: {error.get('ctx', {}).get('error', 'an error')}",
        )
    if kind == "string_too_long" and isinstance(error.get("input"), str):
        numbers = len(error["input"]), error["ctx"]["max_length"]
        said = "has {:,} characters and at most {:,} are accepted; cut or split it".format(*numbers)
    else:
        said = str(error["msg"])
    return ".".join(map(str, steps)), said
