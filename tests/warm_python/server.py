"""Imports the libraries and forks for each client. Arguments: address of the socket, path of the `python` it serves.

There are two layers. The first holds what reads no settings of Hugging Face. For each set of HF_* variables a fork of
it becomes a server of its own, which imports the rest under those variables, since many of them are read at import.
"""

from __future__ import annotations

import atexit
import gc
import hashlib
import importlib
import json
import os
import runpy
import selectors
import signal
import socket
import sys
import threading
from contextlib import suppress
from types import ModuleType
from typing import Any, NoReturn

FIRST = [
    "torch",
    "torch._dynamo",
    "torch.distributed",
    "scipy.sparse",
    "scipy.stats",
    "pandas",
    "pyarrow.parquet",
    "pyarrow.dataset",
    "sklearn.cluster",
    "sklearn.feature_extraction.text",
    "sklearn.linear_model",
    "faiss",
    "matplotlib.pyplot",
    "rich.console",
    "typer",
    "jinja2",
    "yaml",
    "psutil",
]
SECOND = [
    "huggingface_hub.hf_api",
    "tokenizers",
    "safetensors.torch",
    "transformers",
    "transformers.modeling_utils",
    "transformers.trainer",
    "transformers.models.auto.modeling_auto",
    "transformers.models.bert.modeling_bert",
    "transformers.pipelines",
    "datasets",
    "accelerate.commands.launch",
]
SETTINGS = ("HF_", "HUGGING", "TRANSFORMERS_")  # variables that are read at import
FIRST_ONLY = "XMC_TEST_NO_TRANSFORMERS"  # set by a test that needs transformers not to be imported yet


def main() -> None:
    address, python = sys.argv[1:]
    for name in FIRST:
        importlib.import_module(name)
    assert not {"transformers", "huggingface_hub", "datasets"} & {*sys.modules}
    request = Server(address).serve()
    while "layer" in request:
        os.environ.update(request["settings"])
        for name in SECOND:
            importlib.import_module(name)
        request = Server(request["layer"]).serve()
    sys.executable = python
    code = 0
    try:
        run(request)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 1
    finish(code)


class Server:
    """Listens at `address` until standard input is closed."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.layers: set[str] = set()
        self.running: dict[int, socket.socket] = {}  # connections by process
        self.woken, self.wake = socket.socketpair()
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(f"{address}.new")
        self.listener.listen(64)
        self.woken.setblocking(False)
        self.wake.setblocking(False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self.wake.fileno(), warn_on_full_buffer=False)
        gc.freeze()
        os.rename(f"{address}.new", address)  # a client may connect as soon as the file exists

    def serve(self) -> dict[str, Any]:
        """Answers requests. Returns in a fork alone: with what it is to do."""
        while True:
            with selectors.DefaultSelector() as selector:
                for source in (0, self.woken, self.listener, *self.running.values()):
                    selector.register(source, selectors.EVENT_READ)
                ready = {key.fileobj for key, _ in selector.select()}
            if 0 in ready:
                self.end()
            if self.woken in ready:
                self.woken.recv(4096)
                self.report_ended()
            for process, connection in self.running.items():
                if connection in ready:  # a signal to pass on, or the client is gone
                    os.kill(process, (connection.recv(1) or bytes([signal.SIGKILL]))[0])
            if self.listener in ready and (request := self.accept()) is not None:
                return request

    def accept(self) -> dict[str, Any] | None:
        connection, _ = self.listener.accept()
        line, streams, *_ = socket.recv_fds(connection, 65536, 3)
        while not line.endswith(b"\n"):
            line += connection.recv(65536)
        request = json.loads(line)
        if not streams:  # the client asks where to go
            with connection:
                return self.layer(request, connection)
        process = self.fork()
        if process == 0:
            connection.close()
            for number, stream in enumerate(streams):
                os.dup2(stream, number)
        else:
            self.running[process] = connection
        for stream in streams:
            os.close(stream)
        return None if process else request

    def layer(self, environment: dict[str, str], connection: socket.socket) -> dict[str, Any] | None:
        """Say the address of the server with these settings. In a fork: what it needs to become that server."""
        address = self.address
        if FIRST_ONLY not in environment and "transformers" not in sys.modules:
            settings = {k: v for k, v in environment.items() if k.startswith(SETTINGS) and k != "HF_TOKEN"}
            key = hashlib.sha1(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]
            address = f"{self.address}-{key}"
            if key not in self.layers:
                self.layers.add(key)
                if self.fork() == 0:
                    return {"layer": address, "settings": settings}
        connection.sendall(f"{address}\n".encode())
        return None

    def fork(self) -> int:
        """os.fork; the child has nothing of the server's open but standard input."""
        process = os.fork()
        if process == 0:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for opened in (self.woken, self.wake, self.listener, *self.running.values()):
                opened.close()
        return process

    def report_ended(self) -> None:
        """Tell the clients of processes that have ended how they ended."""
        while True:
            try:
                process, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if process == 0:
                return
            if connection := self.running.pop(process, None):  # else it is a layer that failed
                with connection, suppress(OSError):  # the client may have been killed
                    connection.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())

    def end(self) -> NoReturn:
        for process in self.running:
            os.kill(process, signal.SIGKILL)
        try:
            while True:
                os.wait()
        except ChildProcessError:
            finish(0)


def run(request: dict[str, Any]) -> None:
    """What the interpreter does with its arguments."""
    import torch

    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", torch.get_num_threads())))
    arguments: list[str] = request["arguments"]
    while arguments[0] in ("-u", "-s", "-I"):
        del arguments[0]
    if "PYTHONUNBUFFERED" in os.environ:
        sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    first = {"-c": "", "-m": os.getcwd()}.get(arguments[0], os.path.dirname(os.path.abspath(arguments[0])))
    sys.path[:1] = [first, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    if arguments[0] == "-c":
        sys.argv = ["-c", *arguments[2:]]
        module = sys.modules["__main__"] = ModuleType("__main__")
        exec(compile(arguments[1], "<string>", "exec"), module.__dict__)
    elif arguments[0] == "-m":
        sys.argv = arguments[1:]
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = arguments
        runpy.run_path(arguments[0], run_name="__main__")


def finish(code: int) -> NoReturn:
    """End as the interpreter does, without the seconds that it takes to free what was imported."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code & 255)


if __name__ == "__main__":
    main()
