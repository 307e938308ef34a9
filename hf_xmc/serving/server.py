"""Running the application in one process with uvicorn: an address, a log of JSON lines, connections that are closed if
no request comes on them, and a stop that lets the requests that run finish."""

from __future__ import annotations

import asyncio
import logging
import math
import socket
import time
from typing import Any

import uvicorn

from hf_xmc.errors import SettingsError
from hf_xmc.serving.limits import Limits
from hf_xmc.serving.observed import JSONLines


class Server(uvicorn.Server):
    """A server that closes connections on which no request comes, however slowly their bytes arrive; and that ends the
    streams of open pages when it stops, which would hold it up, and waits for the rest.

    Args:
        config: of uvicorn.
        seconds: that a connection may take to send the head of a request.
    """

    def __init__(self, config: uvicorn.Config, seconds: float) -> None:
        super().__init__(config)
        self.seconds = seconds
        self.idle: dict[Any, tuple[Any, float]] = {}  # connection: its last request, and since when it is answered

    async def on_tick(self, counter: int) -> bool:
        """What uvicorn does ten times a second."""
        if counter % 10 == 0:
            self.close_idle(time.monotonic())
        return await super().on_tick(counter)

    def close_idle(self, now: float) -> None:
        """Close connections that have been without a request for too long. uvicorn does so only as long as not a byte
        comes, and a server has no more connections than a process may have files."""
        before, self.idle = self.idle, {}
        for connection in [*self.server_state.connections]:
            request = getattr(connection, "cycle", self)
            if request is not None and not getattr(request, "response_complete", False):
                continue
            last, since = before.get(connection, (None, now))
            self.idle[connection] = (request, since if last is request else now)
            if now - self.idle[connection][1] > self.seconds:
                connection.transport.close()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop accepting, let requests finish, then stop the application."""
        streams: set[asyncio.Task[Any]] = getattr(self.config.app, "streams", set())
        for task in [*streams]:
            task.cancel()
        await super().shutdown(sockets)


def run_server(app: Any, listening: socket.socket, limits: Limits) -> None:
    """Answer requests until SIGTERM or SIGINT. Requests that run are then finished, for as long as one may take."""
    log_json_lines()
    config = uvicorn.Config(
        app,
        http="h11",  # which has a limit to the length of headers
        log_config=None,
        access_log=False,
        server_header=False,
        lifespan="on",
        timeout_graceful_shutdown=math.ceil(limits.seconds),
    )
    Server(config, limits.seconds).run([listening])


def listen(host: str, port: int) -> socket.socket:
    """Take an address; port 0 is any free one. Requests wait in its queue until the server answers them.

    Raises:
        SettingsError: the port is in use, or the host is not an address of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except (OSError, OverflowError) as error:
        raise SettingsError(
            f"cannot listen on {host}:{port} ({error})", hint="give another --port, or another --host"
        ) from error


def address(listening: socket.socket) -> str:
    """The address of a server as a browser on this machine opens it."""
    host, port = listening.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # nosec B104: for a browser
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def log_json_lines() -> None:
    """Write the log to standard error, one JSON object per line. Of other libraries only what went wrong."""
    handler = logging.StreamHandler()
    handler.setFormatter(JSONLines())
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    for name, level in (("hf_xmc.serving", logging.INFO), ("uvicorn", logging.INFO), ("mcp", logging.ERROR)):
        logging.getLogger(name).setLevel(level)
