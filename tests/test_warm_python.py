"""The interpreter of the tests that start processes ends, prints and dies like the real one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import os, sys
print(sys.argv[1:], __name__, os.getcwd(), os.environ["MARK"], sys.stdin.read())
print("to stderr", file=sys.stderr)
"""


def both(python: str, *arguments: str, **options: object) -> list[subprocess.CompletedProcess[str]]:
    """The run by the fixture and by the real interpreter."""
    options = {"capture_output": True, "text": True, **options}
    return [subprocess.run([command, *arguments], **options) for command in (python, sys.executable)]  # type: ignore


@pytest.mark.parametrize("kind", ["file", "-m", "-c"])
def test_what_a_script_sees(kind: str, tmp_path: Path, python: str) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    start = {"file": ["script.py"], "-m": ["-m", "script"], "-c": ["-c", SCRIPT]}[kind]
    environment = {**os.environ, "MARK": "here"}
    warm, cold = both(python, *start, "--flag", "a b", cwd=tmp_path, env=environment, input="given\n")
    assert warm.stdout == cold.stdout
    assert (warm.stderr, warm.returncode) == (cold.stderr, cold.returncode) == ("to stderr\n", 0)


@pytest.mark.parametrize(
    "code", ["raise SystemExit(3)", "import sys; sys.exit('why')", "import os; os.kill(os.getpid(), 9)", "pass"]
)
def test_how_a_script_ends(code: str, python: str) -> None:
    warm, cold = both(python, "-c", code)
    assert (warm.returncode, warm.stderr) == (cold.returncode, cold.stderr)


def test_a_traceback_is_printed(python: str) -> None:
    done = subprocess.run([python, "-c", "1 / 0"], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.endswith("ZeroDivisionError: division by zero\n")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_signal_reaches_the_script(number: signal.Signals, python: str) -> None:
    code = "import time; print('up', flush=True); time.sleep(600)"
    with subprocess.Popen([python, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        process.send_signal(number)
        assert process.wait(timeout=120) == -number
        assert process.stdout.read() == ""  # which ends when the script has ended
