"""A Python that starts with PyTorch and transformers imported, for the processes that tests start.

Each of those would spend five to ten seconds on imports alone. One server per test session imports them once. The
command that the fixture `python` names asks it for a fork, which takes over the arguments, environment, working folder
and standard streams of the command, runs the script (`file.py`, `-m module` or `-c code`), and ends as the script
ended. `subprocess.run([python, ...])` and `Popen` work as with `sys.executable`, signals and kills included, and so do
the processes that such a process starts with its own `sys.executable` (accelerate's launcher, for example).

Two things are the server's in every fork: the hash seed and the number of threads of BLAS. With XMC_TEST_WARM_PYTHON=0
the fixture is the plain interpreter.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).parent


@contextmanager
def warm_python() -> Iterator[str]:
    """The path of a command that behaves like the interpreter and has the libraries imported."""
    if sys.platform == "win32" or os.environ.get("XMC_TEST_WARM_PYTHON") == "0":
        yield sys.executable
        return
    with tempfile.TemporaryDirectory(prefix="warm-") as folder:  # a short path: sockets have no long names
        python, address = Path(folder, "python"), Path(folder, "s")
        python.write_text(f'#!/bin/sh\nexec "{sys.executable}" -IS "{HERE / "client.py"}" "{address}" "$@"\n')
        python.chmod(0o755)
        environment = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
        environment |= {"PYTORCH_NVML_BASED_CUDA_CHECK": "1"}  # CUDA does not survive a fork
        command = [sys.executable, str(HERE / "server.py"), str(address), str(python)]
        with subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, cwd=folder
        ) as server:
            yield str(python)
            assert server.stdin is not None
            server.stdin.close()  # which ends the server; the block waits for it
