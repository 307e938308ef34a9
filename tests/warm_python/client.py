"""Asks the server for a fork and lives as long as that. Arguments: socket, then those of the interpreter."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time
from pathlib import Path


def main() -> int:
    address, *arguments = sys.argv[1:]
    request = {"arguments": arguments, "folder": os.getcwd(), "environment": dict(os.environ)}
    with connect(address) as server:
        server.sendall(json.dumps(request["environment"]).encode() + b"\n")
        address = server.makefile().readline().strip()
    if not address:
        raise SystemExit("the server of warm_python could not import the libraries")
    with connect(address) as server:
        socket.send_fds(server, [json.dumps(request).encode() + b"\n"], [0, 1, 2])
        for number in (signal.SIGTERM, signal.SIGINT):  # a kill that nobody can catch closes the connection instead
            signal.signal(number, lambda number, _: server.sendall(bytes([number])))
        code = int(server.makefile().readline() or -signal.SIGKILL)
    if code < 0:
        signal.signal(-code, signal.SIG_DFL) if -code != signal.SIGKILL else None
        os.kill(os.getpid(), -code)
    return code


def connect(address: str) -> socket.socket:
    """A connection, as soon as the server listens."""
    deadline = time.monotonic() + 300
    while not Path(address).exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(address)
    return connection


if __name__ == "__main__":
    sys.exit(main())
