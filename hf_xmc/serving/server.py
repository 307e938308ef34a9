"""Running the application in one process with uvicorn: an address, a log of JSON lines, and a stop that lets the
requests that run finish."""

from __future__ import annotations

import asyncio
import logging
import math
import socket
from typing import Any

import uvicorn

from hf_xmc.errors import SettingsError
from hf_xmc.serving.limits import Limits
from hf_xmc.serving.observed import JSONLines


class Server(uvicorn.Server):
    """A server that ends the streams of open pages when it stops, which would hold it up, and waits for the rest."""

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
        log_config=None,
        access_log=False,
        server_header=False,
        lifespan="on",
        timeout_graceful_shutdown=math.ceil(limits.seconds),
    )
    Server(config).run([listening])


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
