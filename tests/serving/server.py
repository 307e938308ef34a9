"""A server with a tagger in a thread of its own, for tests that need an address."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from fastapi import FastAPI

from hf_xmc.serving.annif import Project, annif_routes
from hf_xmc.serving.service import TaggingService


@contextmanager
def serving(service: TaggingService) -> Iterator[str]:
    """Serve Annif's interface of a service on a free port; gives the address."""
    app = FastAPI()
    app.include_router(annif_routes(service, Project("toys-en", language="en")))
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started and thread.is_alive():
            time.sleep(0.01)
        [sockets] = [its.sockets for its in server.servers]
        yield f"http://127.0.0.1:{sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
